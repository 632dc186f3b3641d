//! The digest of the records: a sum of hashes, so that the order in which records were written plays no part.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// The sum, modulo 2^256, of the BLAKE3 hashes of all records, each hashed with its key.
///
/// Replacing a record subtracts its old hash and adds the new one; two stores with the same digest hold the same
/// records.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Digest(pub [u8; 32]);

impl Digest {
    /// The hash of one record as it is stored.
    pub(crate) fn of(id: Uuid, record: &[u8]) -> Self {
        let mut hasher = blake3::Hasher::new();
        hasher.update(id.as_bytes()).update(record);
        Self(*hasher.finalize().as_bytes())
    }

    pub(crate) fn add(&mut self, other: Self) {
        let mut carry = 0;
        for (byte, add) in self.0.iter_mut().zip(other.0) {
            let sum = u16::from(*byte) + u16::from(add) + carry;
            *byte = sum.to_le_bytes()[0];
            carry = sum >> 8;
        }
    }

    pub(crate) fn subtract(&mut self, other: Self) {
        let mut borrow = 0;
        for (byte, take) in self.0.iter_mut().zip(other.0) {
            let take = u16::from(take) + borrow;
            borrow = u16::from(u16::from(*byte) < take);
            *byte = u16::from(*byte).wrapping_sub(take).to_le_bytes()[0];
        }
    }
}

impl std::fmt::Display for Digest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn subtracting_undoes_adding_and_the_order_plays_no_part(a: [u8; 32], b: [u8; 32], c: [u8; 32]) {
            let (mut left, mut right) = (Digest(a), Digest(a));
            left.add(Digest(b));
            left.add(Digest(c));
            right.add(Digest(c));
            right.add(Digest(b));
            prop_assert_eq!(left, right);
            left.subtract(Digest(b));
            left.subtract(Digest(c));
            prop_assert_eq!(left, Digest(a));
        }
    }

    #[test]
    fn it_is_a_sum_with_carry_over_the_whole_width() {
        let mut sum = Digest([0xff; 32]);
        let mut one = [0; 32];
        one[0] = 1;
        sum.add(Digest(one));
        assert_eq!(sum, Digest([0; 32]));
        sum.subtract(Digest(one));
        assert_eq!(sum, Digest([0xff; 32]));
    }
}
