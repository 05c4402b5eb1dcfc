//! Threads, sockets and clocks: the only layer with a `mio::Poll`.

pub mod acceptor;
pub mod connector;
pub mod listener;
pub mod start;
pub mod stream;
pub mod worker;
