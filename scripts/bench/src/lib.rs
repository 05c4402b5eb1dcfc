//! The common code of the benchmark's programs: the flags and the packets of the servers, and the CPU clock
//! of another process.
//!
//! | program | purpose |
//! |---|---|
//! | `bench` | the driver: runs the cases in turn, measures, prints the tables |
//! | `bare` | the limit: `epoll_wait` for input, one non-blocking `send` for each packet and session |
//! | `plain_mio` | an afternoon's work on mio: a queue of vectors for each session |
//! | `tokio_broadcast` | the idiomatic server on tokio: a broadcast channel, a task and a codec a connection |
//! | `ours` | `server_core` with `game_server`'s session and loop, and more than one packet a tick |
//! | `closed_loop` | the load generator without a schedule: echoes, saturation, accepting |
//!
//! The servers speak the protocol of `game_server`: hello each tick, echo, chat to every session. The
//! servers other than `ours` do nothing else: no limits, no timeouts, no counters, no disconnect reasons.

pub mod cpu;
pub mod frames;
pub mod server;
pub mod wire;
