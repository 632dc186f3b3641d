//! Texts by number, in the order of first use.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, OnceLock};

use proto_events::Framework;

/// Values and their codes.
#[derive(Clone, Debug)]
pub(crate) struct Codes<T> {
    values: Vec<T>,
    by_value: HashMap<T, u32>,
    /// The place of each code in the order of the values; made when it is first asked for.
    ranks: OnceLock<Arc<[u32]>>,
}

impl<T> Default for Codes<T> {
    fn default() -> Self {
        Self { values: Vec::new(), by_value: HashMap::new(), ranks: OnceLock::new() }
    }
}

impl<T: Clone + Eq + Hash + Ord> Codes<T> {
    pub(crate) fn find<Q: ?Sized + Eq + Hash>(&self, value: &Q) -> Option<u32>
    where
        T: std::borrow::Borrow<Q>,
    {
        self.by_value.get(value).copied()
    }

    /// The value of a code that was given out.
    pub(crate) fn value(&self, code: u32) -> &T {
        &self.values[code as usize]
    }

    pub(crate) fn values(&self) -> &[T] {
        &self.values
    }

    /// What holds for each code.
    pub(crate) fn map<R>(&self, of: impl FnMut(&T) -> R) -> Vec<R> {
        self.values.iter().map(of).collect()
    }

    /// The place of each code in the order of the values.
    pub(crate) fn ranks(&self) -> Arc<[u32]> {
        let ranks = || {
            let mut order: Vec<u32> = (0..self.values.len() as u32).collect();
            order.sort_unstable_by(|a, b| self.value(*a).cmp(self.value(*b)));
            let mut ranks = vec![0; order.len()];
            for (rank, code) in order.into_iter().enumerate() {
                ranks[code as usize] = rank as u32;
            }
            ranks.into()
        };
        Arc::clone(self.ranks.get_or_init(ranks))
    }

    fn insert(&mut self, value: T) -> u32 {
        let code = self.values.len() as u32;
        self.values.push(value.clone());
        self.by_value.insert(value, code);
        self.ranks = OnceLock::new();
        code
    }
}

/// The code of a value, new or not. Who holds the codes as they were keeps them.
pub(crate) fn code<T, Q>(codes: &mut Arc<Codes<T>>, value: &Q) -> u32
where
    T: Clone + Eq + Hash + Ord + std::borrow::Borrow<Q> + for<'a> From<&'a Q>,
    Q: ?Sized + Eq + Hash,
{
    match codes.find(value) {
        Some(code) => code,
        None => Arc::make_mut(codes).insert(T::from(value)),
    }
}

/// Everything that jobs are told apart by.
#[derive(Clone, Debug, Default)]
pub(crate) struct Texts {
    pub(crate) names: Arc<Codes<Arc<str>>>,
    pub(crate) queues: Arc<Codes<Arc<str>>>,
    pub(crate) workers: Arc<Codes<Arc<str>>>,
    pub(crate) connections: Arc<Codes<Id>>,
    /// The framework of each queue, by connection and queue: that of the job that named it first.
    pub(crate) frameworks: Arc<HashMap<(u32, u32), Framework>>,
}

/// For each code of one table that of another one for the same.
#[derive(Debug)]
pub(super) struct Recoded {
    pub(super) names: Vec<u32>,
    pub(super) queues: Vec<u32>,
    pub(super) workers: Vec<u32>,
    pub(super) connections: Vec<u32>,
}

/// Which texts some job has.
pub(super) struct Used {
    names: Vec<bool>,
    queues: Vec<bool>,
    workers: Vec<bool>,
}

impl Used {
    /// Those of these codes are.
    pub(super) fn mark(
        &mut self,
        names: impl Iterator<Item = u32>,
        queues: impl Iterator<Item = u32>,
        workers: impl Iterator<Item = u32>,
    ) {
        fn mark(used: &mut [bool], codes: impl Iterator<Item = u32>) {
            // No value is none of them.
            codes.for_each(|code| used.get_mut(code as usize).into_iter().for_each(|used| *used = true));
        }
        mark(&mut self.names, names);
        mark(&mut self.queues, queues);
        mark(&mut self.workers, workers);
    }

    pub(super) fn count(&self) -> usize {
        [&self.names, &self.queues, &self.workers].into_iter().flatten().filter(|used| **used).count()
    }
}

impl Texts {
    /// How many there are, but for connections.
    pub(super) fn len(&self) -> usize {
        self.names.values.len() + self.queues.values.len() + self.workers.values.len()
    }

    /// None of them.
    pub(super) fn unused(&self) -> Used {
        let none = |codes: &Codes<Arc<str>>| vec![false; codes.values.len()];
        Used { names: none(&self.names), queues: none(&self.queues), workers: none(&self.workers) }
    }

    /// Only those that are used, and what the codes have become.
    pub(super) fn only(&self, used: &Used) -> (Self, Recoded) {
        let mut rest = Self { connections: Arc::clone(&self.connections), ..Self::default() };
        let only = |to: &mut Arc<Codes<Arc<str>>>, from: &Codes<Arc<str>>, used: &[bool]| -> Vec<u32> {
            let texts = from.values().iter().zip(used);
            texts.map(|(text, used)| if *used { code(to, &**text) } else { u32::MAX }).collect()
        };
        let recoded = Recoded {
            names: only(&mut rest.names, &self.names, &used.names),
            queues: only(&mut rest.queues, &self.queues, &used.queues),
            workers: only(&mut rest.workers, &self.workers, &used.workers),
            connections: (0..self.connections.values().len() as u32).collect(),
        };
        let frameworks = self.frameworks.iter().filter(|((_, queue), _)| used.queues[*queue as usize]);
        let frameworks =
            frameworks.map(|((connection, queue), it)| ((*connection, recoded.queues[*queue as usize]), *it));
        rest.frameworks = Arc::new(frameworks.collect());
        (rest, recoded)
    }
}

impl Recoded {
    /// From one table into another, which learns what it does not know.
    pub(super) fn into(to: &mut Texts, from: &Texts) -> Self {
        let texts = |to: &mut Arc<Codes<Arc<str>>>, from: &Codes<Arc<str>>| -> Vec<u32> {
            from.values().iter().map(|text| code(to, &**text)).collect()
        };
        let recoded = Self {
            names: texts(&mut to.names, &from.names),
            queues: texts(&mut to.queues, &from.queues),
            workers: texts(&mut to.workers, &from.workers),
            connections: from.connections.values().iter().map(|id| code(&mut to.connections, id)).collect(),
        };
        let frameworks = Arc::make_mut(&mut to.frameworks);
        for ((connection, queue), framework) in from.frameworks.iter() {
            let queue = (recoded.connections[*connection as usize], recoded.queues[*queue as usize]);
            frameworks.entry(queue).or_insert(*framework);
        }
        recoded
    }
}

/// A connection's id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Id(pub(crate) uuid::Uuid);

impl From<&Id> for Id {
    fn from(id: &Id) -> Self {
        *id
    }
}
