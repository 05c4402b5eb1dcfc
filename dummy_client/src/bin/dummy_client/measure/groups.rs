//! Equal things counted, however many different ones a peer makes up.

use std::collections::BTreeMap;

/// Counts by key, in bounded memory: the first [`MAX_KEPT`] keys are told apart, what comes with
/// yet another key is counted together.
#[derive(Debug)]
pub struct Groups<K> {
    counts: BTreeMap<K, u64>,
    beyond: u64,
}

/// What a list of groups leaves out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, schemars::JsonSchema)]
pub struct More {
    /// Different ones, at least: beyond a thousand they are not told apart.
    pub groups_at_least: u64,
    /// How many in all of them.
    pub count: u64,
}

const MAX_KEPT: usize = 1_000;

impl<K> Default for Groups<K> {
    fn default() -> Self {
        Self {
            counts: BTreeMap::new(),
            beyond: 0,
        }
    }
}

impl<K: Ord> Groups<K> {
    /// Counts one.
    pub fn add(&mut self, key: K) {
        if let Some(count) = self.counts.get_mut(&key) {
            *count += 1;
        } else if self.counts.len() < MAX_KEPT {
            self.counts.insert(key, 1);
        } else {
            self.beyond += 1;
        }
    }

    /// The `shown` largest groups, the largest first, and what they leave out.
    pub fn into_largest(self, shown: usize) -> (Vec<(K, u64)>, More) {
        let mut groups: Vec<_> = self.counts.into_iter().collect();
        // Stable, so groups of one size stay in the order of their keys.
        groups.sort_by_key(|&(_, count)| std::cmp::Reverse(count));
        let rest = groups.split_off(shown.min(groups.len()));
        let more = More {
            groups_at_least: rest.len() as u64 + u64::from(self.beyond > 0),
            count: rest.iter().map(|(_, count)| count).sum::<u64>() + self.beyond,
        };
        (groups, more)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_come_first_and_nothing_is_lost() {
        let mut groups = Groups::default();
        for key in ["a", "b", "c", "b", "c", "c", "d"] {
            groups.add(key);
        }
        let (largest, more) = groups.into_largest(3);
        assert_eq!(largest, [("c", 3), ("b", 2), ("a", 1)]);
        let expected = More {
            groups_at_least: 1,
            count: 1,
        };
        assert_eq!(more, expected);
    }

    #[test]
    fn sixty_thousand_different_ones_cost_no_more_than_a_thousand() {
        let mut groups = Groups::default();
        for key in 0..60_000 {
            groups.add(key);
            groups.add(7);
        }
        assert_eq!(groups.counts.len(), MAX_KEPT);
        let (largest, more) = groups.into_largest(50);
        assert_eq!((largest.len(), largest[0]), (50, (7, 60_001)));
        assert_eq!(more.groups_at_least, 951);
        assert_eq!(
            more.count + largest.iter().map(|l| l.1).sum::<u64>(),
            120_000
        );
    }

    #[test]
    fn nothing_is_no_group() {
        let (largest, more) = Groups::<u8>::default().into_largest(50);
        assert_eq!((largest.len(), more), (0, More::default()));
    }
}
