//! Equal things counted, in bounded memory.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::cmp::Reverse;
use std::collections::BTreeMap;

/// Counts by key. The first 1,000 keys are told apart; all further keys are counted together, so a peer
/// that invents keys costs no memory.
#[derive(Clone, Debug)]
pub struct TopCounter<K> {
    counts: BTreeMap<K, u64>,
    beyond: u64,
}

/// Entries of a list that are only counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Others {
    /// At least this many more kinds.
    pub kinds_at_least: u64,
    /// Times in total.
    pub count: u64,
}

const MAX_KEYS: usize = 1_000;

impl<K> Default for TopCounter<K> {
    fn default() -> Self {
        Self {
            counts: BTreeMap::new(),
            beyond: 0,
        }
    }
}

impl<K: Ord> TopCounter<K> {
    /// Counts one.
    pub fn add(&mut self, key: K) {
        if let Some(count) = self.counts.get_mut(&key) {
            *count += 1;
        } else if self.counts.len() < MAX_KEYS {
            self.counts.insert(key, 1);
        } else {
            self.beyond += 1;
        }
    }

    /// The `shown` largest counts, the largest first, and a summary of the others.
    #[must_use]
    pub fn into_largest(self, shown: usize) -> (Vec<(K, u64)>, Others) {
        let mut counts: Vec<_> = self.counts.into_iter().collect();
        // Stable, so equal counts stay in the order of their keys.
        counts.sort_by_key(|&(_, count)| Reverse(count));
        let rest = counts.split_off(shown.min(counts.len()));
        let others = Others {
            kinds_at_least: rest.len() as u64 + u64::from(self.beyond > 0),
            count: rest.iter().map(|(_, count)| count).sum::<u64>() + self.beyond,
        };
        (counts, others)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_come_first_and_the_others_are_counted() {
        let mut counter = TopCounter::default();
        for key in ["a", "b", "b", "c", "b", "c"] {
            counter.add(key);
        }
        let (largest, others) = counter.into_largest(2);
        assert_eq!(largest, [("b", 3), ("c", 2)]);
        assert_eq!((others.kinds_at_least, others.count), (1, 1));
    }

    #[test]
    fn more_keys_than_the_limit_share_one_count() {
        let mut counter = TopCounter::default();
        for key in 0..MAX_KEYS + 50 {
            counter.add(key);
            counter.add(0);
        }
        let (largest, others) = counter.into_largest(MAX_KEYS);
        assert_eq!(largest.len(), MAX_KEYS);
        assert_eq!((others.kinds_at_least, others.count), (1, 50));
    }
}
