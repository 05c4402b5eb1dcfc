//! Mailboxes between threads, and the router that chooses the targets of a packet and posts to them.

#![cfg_attr(not(test), deny(clippy::disallowed_methods, clippy::disallowed_types))]

pub mod accounts;
pub mod completion_timer;
pub mod link;
pub mod mailbox;
pub mod outbox;
pub mod router;
