//! Event loop, sessions, send-buffer chunk pool and packet framing for TCP game servers.
//!
//! # Building your own game on it
//!
//! One object per peer, called on its worker's thread; packets in, requests out:
//!
//! ```
//! use server_core::{Context, Handlers, Kick, Packet, Server, Session, Ticker};
//! use std::{io, sync::LazyLock, time::Duration};
//!
//! server_core::packets! {
//!     /// Every tick, to all.
//!     server 1 => pub SHello { tick: u64 } + text;
//!     /// Any bytes, to be sent back.
//!     client 2 => pub CEcho + bytes;
//!     /// The same bytes.
//!     server 3 => pub SEcho + bytes;
//! }
//!
//! struct GameSession;
//!
//! static HANDLERS: LazyLock<Handlers<GameSession>> = LazyLock::new(|| {
//!     Handlers::<GameSession>::new().on::<CEcho>(|_session, ctx, bytes| {
//!         ctx.send(&SEcho, bytes);
//!         Ok(())
//!     })
//! });
//!
//! impl Session for GameSession {
//!     fn on_packet(&mut self, ctx: &mut Context<'_>, packet: Packet<'_>) -> Result<(), Kick> {
//!         HANDLERS.dispatch(self, ctx, packet)
//!     }
//! }
//!
//! fn main() -> io::Result<()> {
//!     let server = Server::builder().workers(2).start("127.0.0.1:0", |_peer| GameSession)?;
//!     let ticker = Ticker::new(Duration::from_millis(25)).for_server(&server.handle());
//! #   let stopper = ticker.stopper();
//!     ticker.run(|tick| {
//!         server.broadcast(&SHello { tick: tick.number.into() }, "Hello World");
//! #       stopper.stop();
//!     });
//!     Ok(())
//! }
//! ```
//!
//! # Typed packets
//!
//! [`packets!`] is the table of a game's packets: way, id, name and payload, each once. The same
//! id twice does not compile; what a peer sends wrong is a [`Kick`] before any code of yours sees it.
//! Fixed fields are read where they lie. A lifetime on the name makes a packet of variable size, with
//! strings, lists, and lists in lists, all of it borrowed from what came:
//!
//! ```
//! use server_core::{Kick, List, OutgoingPacket, Packet};
//!
//! server_core::packets! {
//!     /// Who is in a room.
//!     server 8 => pub SRoom<'a> {
//!         room: u32,
//!         name: &'a str where 1..=32,
//!         players: List<'a, Player<'a>>,
//!     };
//!     /// One of them, and what it carries.
//!     part pub Player<'a> { id: u64, items: List<'a, u16> };
//! }
//!
//! let players = [Player { id: 1, items: List::of(&[500, 501]) }];
//! let room = SRoom { room: 7, name: "inn", players: List::of(&players) };
//! // `ctx.send_packet(&room)` writes this once, into the chunk that all sessions share:
//! let mut bytes = vec![0; room.packet_bytes().expect("it is small")];
//! room.write_packet(&mut bytes);
//!
//! let came: SRoom<'_> = Packet::new(SRoom::ID, &bytes[4..]).decode::<SRoom<'_>>()?;
//! assert_eq!(came.players.iter().next().map(|player| player.items.len()), Some(2));
//! // A byte too few, or one too many, or a count beyond the bytes:
//! let cut = Packet::new(SRoom::ID, &bytes[4..bytes.len() - 1]);
//! assert_eq!(cut.decode::<SRoom<'_>>(), Err(Kick::BadPayload));
//! # Ok::<(), Kick>(())
//! ```
//!
//! [`Handlers`] calls a typed function for each id, and kicks for an id without one. What the table
//! cannot say is written by hand with [`PacketReader`] and [`PacketWriter`], which no bytes and no
//! value can lead out of their buffer.
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
//! | 0 | [`id`], [`reason`], [`wire`], [`tick`], [`recv_buffer`], [`rate_limiter`], [`backoff`], [`stopwatch`], [`sync`] |
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
