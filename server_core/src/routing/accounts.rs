//! The accounts of this node: each has one session.

use crate::base::id::SessionId;
use crate::session::LoginAnswer;
use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The session that stays when a second one logs in to its account: see
/// [`ServerHandle::login`](crate::ServerHandle::login).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum LoginPolicy {
    /// The new session. The old one ends with
    /// [`DisconnectReason::LoggedInElsewhere`](crate::DisconnectReason::LoggedInElsewhere).
    #[default]
    NewestStays,
    /// The old session. The new one is told [`LoginAnswer::Refused`].
    OldestStays,
}

/// Account by session, and session by account.
#[derive(Debug, Default)]
pub struct Accounts {
    state: Mutex<State>,
    /// The accounts with a session. A node without logins takes no lock.
    count: AtomicUsize,
}

#[derive(Debug, Default)]
struct State {
    sessions: HashMap<Arc<str>, SessionId>,
    accounts: HashMap<SessionId, Arc<str>>,
}

impl Accounts {
    /// Logs a session in, by this policy, if the node is alone. Returns the answer, and the session that has to end. An
    /// earlier account of the session is free then. No [`all_if`](Self::all_if) comes between the question and the login.
    pub fn login(
        &self,
        session: SessionId,
        account: &str,
        policy: LoginPolicy,
        is_alone: impl FnOnce() -> bool,
    ) -> Option<(LoginAnswer, Option<SessionId>)> {
        let mut state = self.lock();
        is_alone().then(|| self.log_in(&mut state, session, account, policy))
    }

    /// The sessions with an account, if this step succeeds. No login comes in between.
    #[cfg(any(test, feature = "cluster", feature = "testing"))]
    pub fn all_if(&self, step: impl FnOnce() -> bool) -> Option<Vec<(SessionId, Arc<str>)>> {
        let state = self.lock();
        let all = || {
            let accounts = state.accounts.iter();
            accounts.map(|(id, account)| (*id, Arc::clone(account)))
        };
        step().then(|| all().collect())
    }

    fn log_in(
        &self,
        state: &mut State,
        session: SessionId,
        account: &str,
        policy: LoginPolicy,
    ) -> (LoginAnswer, Option<SessionId>) {
        let old = state.sessions.get(account).copied();
        if old == Some(session) {
            return (LoginAnswer::Granted, None);
        }
        if old.is_some() && policy == LoginPolicy::OldestStays {
            return (LoginAnswer::Refused, None);
        }
        state.end(session);
        let account: Arc<str> = account.into();
        if let Some(old) = old {
            state.accounts.remove(&old);
        }
        state.sessions.insert(Arc::clone(&account), session);
        state.accounts.insert(session, account);
        self.count.store(state.sessions.len(), Ordering::Release);
        let answer = match old {
            Some(_) => LoginAnswer::Replaced,
            None => LoginAnswer::Granted,
        };
        (answer, old)
    }

    /// The session has ended: its account is free.
    pub fn end(&self, session: SessionId) {
        // A login of the session was on the thread of this call, or under the lock of the link, which the call in front
        // of this one has taken.
        if self.count.load(Ordering::Acquire) > 0 {
            let mut state = self.lock();
            state.end(session);
            self.count.store(state.sessions.len(), Ordering::Release);
        }
    }

    /// The session of an account.
    #[must_use]
    pub fn session_of(&self, account: &str) -> Option<SessionId> {
        self.lock().sessions.get(account).copied()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // No code of a game runs under this lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn end(&mut self, session: SessionId) {
        if let Some(account) = self.accounts.remove(&session) {
            self.sessions.remove(&account);
        }
    }
}
