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
    /// Logs a session in, by this policy. Returns the answer, and the session that has to end. An earlier account of
    /// the session is free then.
    pub fn login(
        &self,
        session: SessionId,
        account: &str,
        policy: LoginPolicy,
    ) -> (LoginAnswer, Option<SessionId>) {
        self.log_in(&mut self.lock(), session, account, policy)
    }

    /// As [`login`](Self::login), if the link takes the login. Both are one step: two logins of an account come to the
    /// link and to this map in the same order.
    #[cfg(feature = "cluster")]
    pub fn login_if(
        &self,
        session: SessionId,
        account: &str,
        link_takes_it: impl FnOnce() -> bool,
    ) -> bool {
        let mut state = self.lock();
        let is_taken = link_takes_it();
        if is_taken {
            self.log_in(&mut state, session, account, LoginPolicy::NewestStays);
        }
        is_taken
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
        // A login of the session was on the thread of this call.
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
