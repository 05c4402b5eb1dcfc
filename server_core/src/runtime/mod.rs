//! Threads, sockets and clocks: the only layer with a `mio::Poll`.

pub mod acceptor;
pub mod connector;
pub mod listener;
pub mod listener_kind;
pub mod stream;
#[cfg(feature = "tls")]
pub mod tls;
pub mod worker;
