//! Finds entries of a list by their paths.
//!
//! A table of twice as many slots as entries or more, in which an entry is at the place that its
//! hash names or the next free one behind. A slot has half of the hash beside the entry's number,
//! so that an entry, whose record and name are each somewhere else in memory, is looked at only if
//! it is almost surely the wanted one: with a million files a binary search of the names took five
//! times as long as reading them. The hash is keyed by a random number: a list is somebody else's
//! bytes, and may not choose where its entries collide.

use super::root::Root;
use std::hash::{BuildHasher, RandomState};

/// Tree and path.
pub(super) type Key<'a> = (Root, &'a str);

/// The entries of a list by their keys.
#[derive(Debug)]
pub(super) struct PathIndex {
    /// 0, or hash and number of an entry.
    slots: Vec<Slot>,
    hashes: RandomState,
    /// An entry whose key another one before it has.
    duplicate: Option<u32>,
}

/// Half of the hash of a key, and 1 more than the number of its entry; 0 where there is none.
#[derive(Clone, Copy, Debug, Default)]
struct Slot {
    hash: u32,
    occupant: u32,
}

impl PathIndex {
    /// The index of `count` entries, whose keys `key` tells. Of entries with the same key it finds
    /// the first.
    pub(super) fn new<'a>(count: usize, key: impl Fn(u32) -> Key<'a>) -> PathIndex {
        let mut index = PathIndex {
            slots: vec![Slot::default(); (2 * count).next_power_of_two()],
            hashes: RandomState::new(),
            duplicate: None,
        };
        for number in (0..u32::MAX).take(count) {
            let wanted = key(number);
            let (at, hash) = index.place(wanted);
            match index.search(at, hash, wanted, &key) {
                Ok(_) => index.duplicate = index.duplicate.or(Some(number)),
                Err(free) => {
                    index.slots[free] = Slot {
                        hash,
                        occupant: number + 1,
                    };
                }
            }
        }
        index
    }

    /// The number of the entry with this key.
    pub(super) fn find<'a>(&self, wanted: Key<'_>, key: impl Fn(u32) -> Key<'a>) -> Option<u32> {
        let (at, hash) = self.place(wanted);
        self.search(at, hash, wanted, &key).ok()
    }

    /// The first entry whose key is that of one before.
    pub(super) fn duplicate(&self) -> Option<u32> {
        self.duplicate
    }

    /// Where the search for a key begins, and the half of the hash that slots have.
    fn place(&self, wanted: Key<'_>) -> (usize, u32) {
        let hash = self.hashes.hash_one(wanted);
        let [low, high] = [hash & u64::from(u32::MAX), hash >> 32];
        let half = |half: u64| u32::try_from(half).expect("32 bits");
        let at = usize::try_from(half(low)).expect("32 bits fit on every supported platform");
        (at & (self.slots.len() - 1), half(high))
    }

    /// The entry with this key, or the free slot where it would be.
    fn search<'a>(
        &self,
        mut at: usize,
        hash: u32,
        wanted: Key<'_>,
        key: &impl Fn(u32) -> Key<'a>,
    ) -> Result<u32, usize> {
        loop {
            let slot = self.slots[at];
            let Some(number) = slot.occupant.checked_sub(1) else {
                return Err(at);
            };
            if slot.hash == hash && key(number) == wanted {
                return Ok(number);
            }
            at = (at + 1) & (self.slots.len() - 1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_is_found_and_no_other() {
        let roots = [
            Root::Data,
            Root::Shared,
            Root::External(1),
            Root::External(2),
        ];
        let root = |number: u32| roots[number as usize % roots.len()];
        for count in [0, 1, 2, 3, 1000] {
            let paths: Vec<String> = (0..count).map(|number| format!("a/{number}")).collect();
            let key = |number: u32| (root(number), paths[number as usize].as_str());
            let index = PathIndex::new(paths.len(), key);
            assert_eq!(index.duplicate(), None);
            for (number, path) in (0..).zip(&paths) {
                assert_eq!(index.find((root(number), path), key), Some(number));
                assert_eq!(index.find((root(number + 1), path), key), None);
            }
            assert_eq!(index.find((Root::Data, ""), key), None);
        }
    }

    #[test]
    fn of_equal_keys_the_first_is_found_and_the_second_told() {
        let paths = ["a", "b", "a", "b"];
        let key = |number: u32| (Root::Data, paths[number as usize]);
        let index = PathIndex::new(paths.len(), key);
        assert_eq!(index.duplicate(), Some(2));
        assert_eq!(index.find((Root::Data, "a"), key), Some(0));
    }
}
