//! Where each job stands, found by its id without the ids themselves: those of old jobs are on disk.

use hashbrown::HashTable;
use uuid::Uuid;

/// Slots by the print of the id: 11 bytes for each place of the table.
#[derive(Clone, Default)]
pub(super) struct Index(HashTable<Entry>);

/// As bytes, since numbers would be padded to 16.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Entry {
    print: [u8; 6],
    slot: [u8; 4],
}

impl Index {
    /// The slots of all jobs whose ids have the print of this one: two in a million ways to be wrong among as many jobs as
    /// there is room for, and whoever needs to be sure looks at the id there.
    pub(super) fn slots(&self, id: Uuid) -> impl Iterator<Item = usize> + '_ {
        let print = print(id);
        let entries = self.0.iter_hash(spread(print)).filter(move |entry| entry.print == print);
        entries.map(|entry| u32::from_le_bytes(entry.slot) as usize)
    }

    pub(super) fn insert(&mut self, id: Uuid, slot: usize) {
        let print = print(id);
        let entry = Entry { print, slot: (slot as u32).to_le_bytes() };
        self.0.insert_unique(spread(print), entry, |entry| spread(entry.print));
    }

    pub(super) fn remove(&mut self, id: Uuid, slot: usize) {
        let print = print(id);
        let entry = Entry { print, slot: (slot as u32).to_le_bytes() };
        if let Ok(entry) = self.0.find_entry(spread(print), |other| *other == entry) {
            entry.remove();
        }
    }

    pub(super) fn reserve(&mut self, more: usize) {
        self.0.reserve(more, |entry| spread(entry.print));
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// All entries, their slots counted from `base` on.
    pub(super) fn absorb(&mut self, other: &Self, base: usize) {
        self.reserve(other.len());
        for entry in &other.0 {
            let slot = u32::from_le_bytes(entry.slot) + base as u32;
            let entry = Entry { print: entry.print, slot: slot.to_le_bytes() };
            self.0.insert_unique(spread(entry.print), entry, |entry| spread(entry.print));
        }
    }

    /// The slots in both, those of the other counted from its own beginning, whose jobs may be the same.
    pub(super) fn shared(&self, other: &Self) -> Vec<(usize, usize)> {
        let mut shared = Vec::new();
        for theirs in &other.0 {
            let ours = self.0.iter_hash(spread(theirs.print)).filter(|ours| ours.print == theirs.print);
            let slot = |entry: &Entry| u32::from_le_bytes(entry.slot) as usize;
            shared.extend(ours.map(|ours| (slot(ours), slot(theirs))));
        }
        shared
    }

    /// Bytes of memory.
    pub(super) fn bytes(&self) -> usize {
        self.0.allocation_size()
    }
}

/// Job ids are hashes already, but for a few fixed bits.
fn print(id: Uuid) -> [u8; 6] {
    let (high, low) = id.as_u64_pair();
    let mixed = (high ^ low.rotate_left(32)).to_le_bytes();
    std::array::from_fn(|byte| mixed[byte])
}

/// The table looks at the highest bits and the lowest ones.
fn spread(print: [u8; 6]) -> u64 {
    let mut bytes = [0; 8];
    bytes[..print.len()].copy_from_slice(&print);
    u64::from_le_bytes(bytes).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(8)
}
