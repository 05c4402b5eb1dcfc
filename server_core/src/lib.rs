//! Event loop, sessions, send-buffer chunk pool and packet framing for TCP game servers.
//!
//! # Building your own game on it
//!
//! One object per peer, called on its worker's thread; packets in, requests out:
//!
//! ```
//! use bytemuck::{Pod, Zeroable};
//! use server_core::{Context, Kick, Packet, PacketHead, Server, Session, wire::U64Le};
//! use std::{io, thread, time::Duration};
//!
//! #[derive(Clone, Copy, Pod, Zeroable)]
//! #[repr(C)]
//! struct SHello { tick: U64Le }
//! impl PacketHead for SHello { const ID: u16 = 1; }
//!
//! #[derive(Clone, Copy, Pod, Zeroable)]
//! #[repr(C)]
//! struct SEcho;
//! impl PacketHead for SEcho { const ID: u16 = 3; }
//!
//! const C_ECHO: u16 = 2;
//!
//! struct GameSession;
//!
//! impl Session for GameSession {
//!     fn on_packet(&mut self, ctx: &mut Context<'_>, packet: Packet<'_>) -> Result<(), Kick> {
//!         match packet.id() {
//!             C_ECHO => ctx.send(&SEcho, packet.payload()),
//!             _ => return Err(Kick::UnknownId),
//!         }
//!         Ok(())
//!     }
//! }
//!
//! fn main() -> io::Result<()> {
//!     let server = Server::builder().workers(2).start("127.0.0.1:0", |_peer| GameSession)?;
//!     for tick in 1..=4 {
//!         server.broadcast(&SHello { tick: tick.into() }, "Hello World");
//!         thread::sleep(Duration::from_millis(25));
//!     }
//!     Ok(())
//! }
//! ```
//!
//! # Threads
//!
//! ```text
//!   any thread                listener thread             worker threads (one mio::Poll each)
//!  +------------+            +----------------+          +-----------------------------------+
//!  | broadcast  |            | accept, admit  |          | sessions, framing, send queues    |
//!  | send_to    |            +-------+--------+          | on_packet, on_timer, ...          |
//!  +-----+------+                    |                   +----------------+------------------+
//!        |   one command per worker  |  a new connection                  ^
//!        +---------------------------+------------> mailbox --------------+
//! ```
//!
//! # The way through the modules
//!
//! They lie on floors; each imports from lower floors only. `ARCHITECTURE.md` beside this crate
//! tells why, and walks a byte through them.
//!
//! | floor | modules |
//! |---|---|
//! | 8 | [`ticker`] |
//! | 7 | [`server`] |
//! | 6 | [`worker`], [`listener`], [`connector`]: the only ones with a `mio::Poll` or a socket |
//! | 5 | [`shard`] |
//! | 4 | [`connection`], [`router`], [`handlers`] |
//! | 3 | [`send_queue`], [`session`], [`list`], [`packets`](packets!) |
//! | 2 | [`framer`], [`send_buffer`], [`packet_writer`] |
//! | 1 | [`config`], [`admission`], [`packet`], [`metrics`], [`session_table`], [`timeout_queue`], [`departure_log`], [`snapshot`], [`mailbox`], [`accept_gate`], [`packet_reader`] |
//! | 0 | [`id`], [`reason`], [`wire`], [`tick`], [`recv_buffer`], [`rate_limiter`], [`backoff`], [`stopwatch`], [`sync`], [`mailbox`] |
//!
//! Floors 0 to 5 touch no socket and no clock: bytes and instants are their arguments.

pub mod accept_gate;
pub mod admission;
pub mod backoff;
pub mod config;
pub mod connection;
pub mod connector;
pub mod departure_log;
pub mod framer;
pub mod handlers;
pub mod id;
pub mod list;
pub mod listener;
pub mod mailbox;
pub mod metrics;
pub mod packet;
pub mod packet_reader;
pub mod packet_writer;
mod packets;
pub mod rate_limiter;
pub mod reason;
pub mod recv_buffer;
pub mod router;
pub mod send_buffer;
pub mod send_queue;
pub mod server;
pub mod session;
pub mod session_table;
pub mod shard;
pub mod snapshot;
pub mod stopwatch;
pub mod sync;
pub mod tick;
pub mod ticker;
pub mod timeout_queue;
pub mod wire;
pub mod worker;

pub use config::Config;
pub use handlers::Handlers;
pub use id::SessionId;
pub use list::List;
pub use packet::{IncomingPacket, Packet, PacketHead, PacketTooLarge};
pub use packet_reader::{PacketReader, ReadPart};
pub use packet_writer::{OutgoingPacket, PacketWriter, WritePart};
pub use reason::{DisconnectReason, Kick};
pub use send_buffer::SendBuffer;
pub use server::{Server, ServerBuilder, ServerHandle};
pub use session::{Context, Peer, Session};
pub use ticker::Ticker;

/// The README's program has to compile.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
#[derive(Debug)]
pub struct Readme;
