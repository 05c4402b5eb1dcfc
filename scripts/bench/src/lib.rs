//! What the programs of the benchmark have in common: the flags and the wire of the servers, and
//! the clock of another process.
//!
//! | program | what it is |
//! |---|---|
//! | `bench` | the driver: runs the cases in turn, takes the figures, prints the table |
//! | `bare` | the limit: `epoll_wait` for input, one non-blocking `send` for each packet and session |
//! | `plain_mio` | what one writes on mio in an afternoon: a queue of vectors for each session |
//! | `tokio_broadcast` | what one writes on tokio: a broadcast channel, a task and a codec for each connection |
//! | `ours` | `server_core` with `game_server`'s session and loop, and more than one packet a tick |
//! | `closed_loop` | the load generator for what has no schedule: echoes, saturation, accepting |
//!
//! The servers speak the protocol of `game_server`: hello each tick, echo, chat to everybody. They
//! do what is asked for and no more: no limits, no timeouts, no counters, no goodbyes.

pub mod cpu;
pub mod frames;
pub mod server;
pub mod wire;
