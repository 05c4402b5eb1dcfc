//! Between threads: the mailbox of each worker, and the router that posts to them.

#![cfg_attr(not(test), deny(clippy::disallowed_methods, clippy::disallowed_types))]

pub mod completion_timer;
pub mod mailbox;
pub mod outbox;
pub mod router;
