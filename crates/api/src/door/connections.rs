//! How many connections each address has.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::auth::network;

/// The open connections, by address.
#[derive(Clone, Debug, Default)]
pub(crate) struct Connections(Arc<Mutex<HashMap<IpAddr, usize>>>);

/// One of them, until it is dropped.
pub(crate) struct Open {
    all: Connections,
    address: IpAddr,
}

impl Connections {
    /// Another one, unless there are so many already.
    pub(crate) fn open(&self, peer: IpAddr, most: usize) -> Option<Open> {
        let address = network(peer);
        let mut all = self.0.lock();
        let open = all.entry(address).or_default();
        if *open >= most {
            return None;
        }
        *open += 1;
        Some(Open { all: self.clone(), address })
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        let mut all = self.all.0.lock();
        if let Some(open) = all.get_mut(&self.address) {
            *open -= 1;
            if *open == 0 {
                all.remove(&self.address);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_address_has_so_many_at_a_time_and_leaves_nothing_behind() {
        let all = Connections::default();
        let (one, other) = ("192.0.2.1".parse().unwrap(), "192.0.2.2".parse().unwrap());
        let first = all.open(one, 2).unwrap();
        let second = all.open(one, 2).unwrap();
        assert!(all.open(one, 2).is_none());
        let third = all.open(other, 2);
        assert!(third.is_some());
        drop(first);
        drop(all.open(one, 2).unwrap());
        drop((second, third));
        assert!(all.0.lock().is_empty());
    }
}
