//! Between threads: the mailbox of each worker, and the router that posts to them.

pub mod completion_timer;
pub mod mailbox;
pub mod outbox;
pub mod router;
