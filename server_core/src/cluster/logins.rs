//! The accounts that are logged in on this node, and which of two logins is newer.

#![cfg_attr(not(test), deny(clippy::disallowed_methods, clippy::disallowed_types))]

use super::envelope::Incarnation;
use crate::base::id::SessionId;
use std::collections::{BTreeMap, HashMap};
use std::ops::Bound::{Excluded, Unbounded};
use std::sync::Arc;

/// One login of an account: the value of the account's key in the broker. The later one of two is the newer login.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Login {
    /// Milliseconds since 1970 by the clock of the node, raised above the stamp of the login that it replaced.
    pub stamp: u64,
    /// The node.
    pub node: Incarnation,
    /// The session on that node.
    pub session: SessionId,
}

impl Login {
    /// The value of the key.
    #[must_use]
    pub fn encode(self) -> Vec<u8> {
        let numbers = [self.stamp, self.node.0, self.session.to_u64()];
        numbers.into_iter().flat_map(u64::to_le_bytes).collect()
    }

    /// Reads a value. `None` for any other bytes: such a key is overwritten.
    #[must_use]
    pub fn decode(value: &[u8]) -> Option<Self> {
        let (numbers, rest) = value.as_chunks::<8>();
        let [stamp, node, session] = *numbers else {
            return None;
        };
        rest.is_empty().then(|| Self {
            stamp: u64::from_le_bytes(stamp),
            node: Incarnation(u64::from_le_bytes(node)),
            session: SessionId::from_u64(u64::from_le_bytes(session)),
        })
    }
}

/// The logins of this node's sessions: one account a session, one session an account.
#[derive(Debug, Default)]
pub struct Logins {
    by_account: BTreeMap<Arc<str>, Login>,
    by_session: HashMap<SessionId, Arc<str>>,
    last_stamp: u64,
}

impl Logins {
    /// A stamp above all earlier stamps of this node, `wall_ms` if it can be.
    pub fn next_stamp(&mut self, wall_ms: u64) -> u64 {
        self.last_stamp = wall_ms.max(self.last_stamp.saturating_add(1));
        self.last_stamp
    }

    /// Notes a login. Returns the account that the session was logged in to before.
    pub fn insert(&mut self, account: &Arc<str>, login: Login) -> Option<(Arc<str>, Login)> {
        let before = (self.by_session.insert(login.session, Arc::clone(account)))
            .filter(|before| before != account);
        let before = before.and_then(|before| self.by_account.remove_entry(&before));
        if let Some(replaced) = self.by_account.insert(Arc::clone(account), login)
            && replaced.session != login.session
        {
            self.by_session.remove(&replaced.session);
        }
        before
    }

    /// The login of an account on this node.
    #[must_use]
    pub fn get(&self, account: &str) -> Option<Login> {
        self.by_account.get(account).copied()
    }

    /// Removes the login of an account.
    pub fn remove(&mut self, account: &str) {
        if let Some(login) = self.by_account.remove(account) {
            self.by_session.remove(&login.session);
        }
    }

    /// Removes the login of a session that has ended.
    pub fn remove_session(&mut self, session: SessionId) -> Option<(Arc<str>, Login)> {
        let account = self.by_session.remove(&session)?;
        self.by_account.remove_entry(&account)
    }

    /// Raises the stamp of a login that is still this one. Returns the login with the stamp.
    pub fn restamp(&mut self, account: &str, login: Login, above: u64) -> Option<Login> {
        let current = self.by_account.get_mut(account)?;
        if *current != login {
            return None;
        }
        current.stamp = above.saturating_add(1);
        self.last_stamp = self.last_stamp.max(current.stamp);
        Some(*current)
    }

    /// The last stamp of this node.
    #[must_use]
    pub fn last_stamp(&self) -> u64 {
        self.last_stamp
    }

    /// The accounts behind `after`, in order, whose logins have no later stamp than `up_to`.
    pub fn accounts_behind(
        &self,
        after: Option<&str>,
        up_to: u64,
    ) -> impl Iterator<Item = &Arc<str>> {
        let behind = (after.map_or(Unbounded, Excluded), Unbounded);
        let logins = self.by_account.range::<str, _>(behind);
        logins.filter_map(move |(account, login)| (login.stamp <= up_to).then_some(account))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn login(stamp: u64, session: u32) -> Login {
        let (node, session) = (Incarnation(9), SessionId::new(1, 0, session));
        Login {
            stamp,
            node,
            session,
        }
    }

    #[test]
    fn value_comes_back_out_and_other_bytes_are_no_login() {
        let bytes = login(5, 1).encode();
        assert_eq!(Login::decode(&bytes), Some(login(5, 1)));
        for broken in [&bytes[1..], &[&bytes[..], &[0]].concat(), &[]] {
            assert_eq!(Login::decode(broken), None);
        }
        assert!(login(5, 1) < login(6, 0));
    }

    #[test]
    fn stamps_rise_though_the_clock_falls() {
        let mut logins = Logins::default();
        let stamps = [100, 50, 101, 200].map(|wall| logins.next_stamp(wall));
        assert_eq!(stamps, [100, 101, 102, 200]);
    }

    #[test]
    fn account_has_one_session_and_session_one_account() {
        let mut logins = Logins::default();
        let (ada, bob): (Arc<str>, Arc<str>) = ("ada".into(), "bob".into());
        assert_eq!(logins.insert(&ada, login(1, 1)), None);
        assert_eq!(logins.insert(&ada, login(2, 2)), None);
        assert_eq!(logins.remove_session(login(1, 1).session), None, "replaced");
        assert_eq!(logins.get("ada"), Some(login(2, 2)));
        let before = logins.insert(&bob, login(3, 2));
        assert_eq!(before, Some((ada, login(2, 2))));
        assert_eq!(logins.get("ada"), None);
        let last = logins.remove_session(login(3, 2).session);
        assert_eq!(last, Some((bob, login(3, 2))));
        assert_eq!((logins.by_account.len(), logins.by_session.len()), (0, 0));
    }
}
