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
//! Whole programs, of one idea each, are in `examples/` beside this crate: `echo`, `chat_rooms`, `timers`,
//! `game_thread` (one thread owns the world, without a lock), `zones` (who sees whom) and `world_download`
//! (20 MB for a slow reader that plays meanwhile). Each plays with clients of its own by `cargo run -p server_core --example NAME -- --bots 5`.
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
//! # Groups
//!
//! Rooms, zones, parties: a [`GroupId`] is a number that the game chooses, a session is in as many
//! groups as it likes (64 by default), and a packet to a group is written once and costs what its
//! members cost, however many sessions there are. A worker without members does not hear of it.
//!
//! ```
//! use server_core::{Context, DisconnectReason, GroupId, Handlers, Kick, Packet, Server, Session};
//! # use std::io::{Read, Write};
//! use std::{io, sync::LazyLock};
//!
//! server_core::packets! {
//!     /// Lets me in.
//!     client 1 => pub CEnter { room: u32 };
//!     /// A line for all who are in there.
//!     client 2 => pub CSay { room: u32 } + text(1..=200);
//!     server 3 => pub SSaid { who: u64 } + text;
//!     server 4 => pub SEntered { who: u64 };
//!     server 5 => pub SGone { who: u64 };
//! }
//!
//! fn room(number: u32) -> GroupId {
//!     const ROOM: u32 = 1;
//!     GroupId::new(ROOM, number)
//! }
//!
//! struct Guest;
//!
//! static HANDLERS: LazyLock<Handlers<Guest>> = LazyLock::new(|| {
//!     Handlers::<Guest>::new()
//!         .on::<CEnter>(|_guest, ctx, enter| {
//!             let room = room(enter.room.get());
//!             ctx.join(room).map_err(|_| Kick::BadPayload)?;
//!             ctx.broadcast_packet_to(room, &SEntered { who: ctx.id().into() });
//!             Ok(())
//!         })
//!         .on::<CSay>(|_guest, ctx, (say, text)| {
//!             let room = room(say.room.get());
//!             if ctx.is_in(room) {
//!                 ctx.broadcast_to_others(room, &SSaid { who: ctx.id().into() }, text);
//!             }
//!             Ok(())
//!         })
//! });
//!
//! impl Session for Guest {
//!     fn on_packet(&mut self, ctx: &mut Context<'_>, packet: Packet<'_>) -> Result<(), Kick> {
//!         HANDLERS.dispatch(self, ctx, packet)
//!     }
//!
//!     /// It has left its rooms with the server: nobody has to take it out. The others are told.
//!     fn on_disconnected(&mut self, ctx: &mut Context<'_>, _: DisconnectReason) {
//!         for room in ctx.groups() {
//!             ctx.broadcast_packet_to(room, &SGone { who: ctx.id().into() });
//!         }
//!     }
//! }
//!
//! fn main() -> io::Result<()> {
//!     let server = Server::builder().workers(2).start("127.0.0.1:0", |_peer| Guest)?;
//! #   let enter = [8, 0, 1, 0, 7, 0, 0, 0];
//! #   let mut one = std::net::TcpStream::connect(server.local_addr())?;
//! #   let (mut packet, mut said) = ([0; 12], [0; 14]);
//! #   one.write_all(&enter)?;
//! #   one.read_exact(&mut packet)?;
//! #   assert_eq!(packet[..4], [12, 0, 4, 0]);
//! #   let mut other = std::net::TcpStream::connect(server.local_addr())?;
//! #   other.write_all(&enter)?;
//! #   other.write_all(&[10, 0, 2, 0, 7, 0, 0, 0, b'h', b'i'])?;
//! #   one.read_exact(&mut packet)?;
//! #   one.read_exact(&mut said)?;
//! #   assert_eq!((&said[..4], &said[12..]), (&[14, 0, 3, 0][..], &b"hi"[..]));
//! #   drop(other);
//! #   one.read_exact(&mut packet)?;
//! #   assert_eq!(packet[..4], [12, 0, 5, 0]);
//!     // From any thread, a tick's for example:
//!     server.handle().broadcast_to(room(7), &SSaid { who: 0.into() }, "The inn closes.");
//! #   let mut said = [0; 27];
//! #   one.read_exact(&mut said)?;
//! #   assert_eq!(&said[12..], b"The inn closes.");
//!     Ok(())
//! }
//! ```
//!
//! What is certain:
//!
//! * A join or leave of a callback's own session is done when the call returns. A packet to a group goes
//!   to who is a member when it is queued: for one that a callback asks for, that is when all packets are
//!   handled that were read together. So who tells a group goodbye and leaves it, or leaves it with its
//!   next packet, may not hear its own goodbye.
//! * Whoever learns of such a join and then broadcasts to the group reaches the new member, from
//!   whichever thread. A join through the handle is in order with all that is sent through handles
//!   afterwards; only callbacks of the session's own worker may be ahead of it, until that takes its mail.
//! * After a leave nothing more is queued for who has left; after one through the handle, nothing that
//!   is sent through handles afterwards. What was queued before still arrives.
//! * What one thread sends comes to each member in its order, once: a callback's through its context,
//!   another thread's through the handle. Who is in two groups gets two packets when both are sent one.
//! * A session that leaves the server leaves its groups, and whoever comes after it, even in its
//!   place, is in none.
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
//! **What blocks.** A callback runs on its worker's thread and holds up the other sessions of it: keep it
//! short, and give what takes long to a thread of yours. A thread that sends through a [`ServerHandle`]
//! waits while a worker's mailbox is full ([`mailbox_bytes`](Config::mailbox_bytes)). So never send
//! through a handle while you hold a lock that a callback takes: the callback would wait for you, and
//! you for its worker. Take what you need out of the lock first. A callback that sends by its
//! [`Context`] never waits, whatever it holds. [`ServerHandle::try_send_buffer`] and its like answer
//! [`MailboxFull`] instead of waiting.
//!
//! # Slow readers and large content
//!
//! A packet waits in its session's queue until the peer's socket takes it.
//! [`Context::queued_bytes`] is the size of that queue. [`Context::notify_drained`] asks for one call of
//! [`Session::on_drained`] when the queue has fallen to a given size, so a session can send as fast as its
//! peer reads, and no faster. [`ContentSender`] does that for content of any size, above the 65,535 bytes of
//! a packet: it keeps one window of pieces in the queue, and the session's other packets wait behind one
//! window at most. [`ContentReceiver`] is its counterpart, with a limit on the bytes of one content.
//!
//! # Pacing
//!
//! A reader that takes 1 MiB/s or more on average over 250 ms, with pauses of up to 100 ms, is never ended
//! as a slow consumer by what other sessions send. Its queue *paces* when it is longer than 128 KiB (or
//! half of [`max_send_queue_bytes`](Config::max_send_queue_bytes)): packets that callbacks send to other
//! sessions then leave at 768 KiB a second, all workers together, until the queue is short again. The rest
//! waits in order, and a session that caused some of it is not read. A packet that a callback sends to its
//! own session does not wait for that. A reader that takes less than 512 KiB a second paces no session.
//! Packets of other threads are not paced: a game's thread asks
//! [`ServerHandle::is_congested`] and sends less.
//!
//! # The end of a server
//!
//! [`ServerHandle::shutdown`] ends it in order: no more accepting, what is queued is flushed, each
//! session gets the last packet of [`close_message`](ServerBuilder::close_message), then a FIN. It may be called
//! from any thread, that of a signal for example, which this library leaves to you (crates `ctrlc` and
//! `signal-hook`). A [`Ticker::for_server`] ends with it, and [`Server::join`] returns when the last
//! session has gone or the time for that is up. A callback of the server may call `shutdown`, too, and
//! cannot wait for the end: there `join` returns an error. What a handle does after the end is
//! [a table](ServerHandle#after-the-end).
//!
//! ```
//! # use server_core::{Context, Kick, Packet, Server, Session, Ticker};
//! # use std::time::Duration;
//! # struct Player;
//! # impl Session for Player {
//! #     fn on_packet(&mut self, _: &mut Context<'_>, _: Packet<'_>) -> Result<(), Kick> { Ok(()) }
//! # }
//! let server = Server::builder().start("127.0.0.1:0", |_peer| Player)?;
//! let handle = server.handle();
//! // As in: ctrlc::set_handler(move || handle.shutdown(Duration::from_secs(2)))
//! std::thread::spawn(move || handle.shutdown(Duration::from_secs(2)));
//! Ticker::new(Duration::from_millis(20)).for_server(&server.handle()).run(|_tick| { /* the game */ });
//! server.join()?;
//! # Ok::<(), std::io::Error>(())
//! ```
//!
//! # Testing a game
//!
//! Over real sockets, on port 0: a server starts and ends in milliseconds, any number of them side by
//! side. A client of few lines is enough, as packets write and read themselves; the bots of the
//! examples are sessions of [`start_client`](ServerBuilder::start_client) and
//! [`ServerHandle::connect`], which is the way to many of them.
//!
//! ```
//! use server_core::{Context, Handlers, Kick, OutgoingPacket, Packet, Server, Session};
//! use std::io::{Read, Write};
//! use std::{net::TcpStream, sync::LazyLock};
//!
//! server_core::packets! {
//!     client 1 => pub CAdd { a: u32, b: u32 };
//!     server 2 => pub SSum { sum: u64 };
//! }
//!
//! struct Adder;
//!
//! static HANDLERS: LazyLock<Handlers<Adder>> = LazyLock::new(|| {
//!     Handlers::<Adder>::new().on::<CAdd>(|_adder, ctx, add| {
//!         let sum = u64::from(add.a.get()) + u64::from(add.b.get());
//!         ctx.send_packet(&SSum { sum: sum.into() });
//!         Ok(())
//!     })
//! });
//!
//! impl Session for Adder {
//!     fn on_packet(&mut self, ctx: &mut Context<'_>, packet: Packet<'_>) -> Result<(), Kick> {
//!         HANDLERS.dispatch(self, ctx, packet)
//!     }
//! }
//!
//! /// The next packet: its id, and its payload.
//! fn read(stream: &mut TcpStream) -> std::io::Result<(u16, Vec<u8>)> {
//!     let mut header = [0; 4];
//!     stream.read_exact(&mut header)?;
//!     let [size, id] = [[header[0], header[1]], [header[2], header[3]]].map(u16::from_le_bytes);
//!     let mut payload = vec![0; usize::from(size) - header.len()];
//!     stream.read_exact(&mut payload)?;
//!     Ok((id, payload))
//! }
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let server = Server::builder().start("127.0.0.1:0", |_peer| Adder)?;
//! let mut client = TcpStream::connect(server.local_addr())?;
//! client.set_read_timeout(Some(std::time::Duration::from_secs(10)))?;
//!
//! let add = CAdd { a: 2.into(), b: 3.into() };
//! let mut bytes = vec![0; add.packet_bytes()?];
//! add.write_packet(&mut bytes);
//! client.write_all(&bytes)?;
//!
//! let (id, payload) = read(&mut client)?;
//! let answer = Packet::new(id, &payload).decode::<SSum>()?;
//! assert_eq!(answer.sum.get(), 5);
//! # Ok(())
//! # }
//! ```
//!
//! # Limits and defaults
//!
//! Everything has a limit, and the limit has a name in [`Config`]. The defaults are meant for the
//! open internet. `off` is `None`; a size of zero is brought into the range in which a server works,
//! and no time is longer than a hundred years.
//!
//! | limit | unit | default | what it bounds | over it |
//! |---|---|---|---|---|
//! | [`workers`](Config::workers) | threads | the number of cores | event loops, 1 to 256 | |
//! | [`backlog`](Config::backlog) | connections | 4,096 | those that the kernel keeps waiting for accept | the kernel lets the peer ask again |
//! | [`max_sessions`](Config::max_sessions) | sessions | off | all at a time | [`DisconnectReason::ServerFull`] |
//! | [`max_sessions_per_ip`](Config::max_sessions_per_ip) | sessions | off | those of one address at a time | [`DisconnectReason::ServerFull`] |
//! | [`max_connects_per_ip_per_sec`](Config::max_connects_per_ip_per_sec) | connections a second | off | those of one address, in a burst twice that | closed without a packet, counted as rejected |
//! | [`login_timeout`](Config::login_timeout) | time | 10 s | the login of a session that [requires one](Session::requires_login) | [`DisconnectReason::LoginTimeout`] |
//! | [`max_unadmitted`](Config::max_unadmitted) | sessions | off | those that have not logged in, all at a time; without it half of `max_sessions` | [`DisconnectReason::LoginTimeout`] for the oldest |
//! | [`max_packet_bytes`](Config::max_packet_bytes) | bytes | 65,535 | a packet that a peer sends, header included | [`Kick::TooLarge`] |
//! | [`max_send_queue_bytes`](Config::max_send_queue_bytes) | bytes | 1 MiB | what waits for one session; eight times of it at once | [`Kick::SlowConsumer`] |
//! | [`max_send_grace`](Config::max_send_grace) | time | 1 s | a queue that is longer than `max_send_queue_bytes`, of a peer that takes less than 512 KiB a second | [`Kick::SlowConsumer`] |
//! | [`max_total_queue_bytes`](Config::max_total_queue_bytes) | bytes | a quarter of the memory | what waits for all sessions | the longest queues end with [`Kick::SlowConsumer`] |
//! | [`max_send_lag`](Config::max_send_lag) | time | 5 s | age of the oldest byte that waits for one session | [`Kick::SlowConsumer`] |
//! | [`min_send_rate_bytes`](Config::min_send_rate_bytes) | bytes a second | 16,384 | what a session that is behind takes without being a slow consumer by age | [`Kick::SlowConsumer`] |
//! | [`packet_timeout`](Config::packet_timeout) | time | 10 s | from the first byte of a packet to its last | [`Kick::PacketTimeout`] |
//! | [`idle_timeout`](Config::idle_timeout) | time | off | silence of a peer | [`DisconnectReason::Idle`] |
//! | [`unacknowledged_timeout`](Config::unacknowledged_timeout) | time | 30 s | silence of a peer's machine | [`Kick::SlowConsumer`] |
//! | [`connect_timeout`](Config::connect_timeout) | time | 10 s | making an outgoing connection | [`DisconnectReason::ConnectFailed`] |
//! | [`handshake_timeout`](Config::handshake_timeout) | time | 5 s | the handshake of a transport that has one | [`DisconnectReason::Handshake`] |
//! | [`max_handshakes`](Config::max_handshakes) | handshakes | 1,024 | those of all workers at a time | [`DisconnectReason::Handshake`] for the oldest |
//! | [`max_packets_per_sec`](Config::max_packets_per_sec) | packets a second | off | what one session sends, in a burst twice that | [`Kick::RateLimit`] |
//! | [`max_groups_per_session`](Config::max_groups_per_session) | groups | 64 | those that one session is in at a time | [`TooManyGroups`] |
//! | [`flush_timeout`](Config::flush_timeout) | time | 2 s | the flush of a session that ends | the rest is given up |
//! | [`linger`](Config::linger) | time | 500 ms | the wait for the peer's FIN after that flush | the socket is closed |
//! | [`unsent_window_bytes`](Config::unsent_window_bytes) | bytes | 16 KiB | what the kernel holds unsent for one session | the rest waits in the session's queue |
//! | [`chunk_bytes`](Config::chunk_bytes) | bytes | 64 KiB | a chunk that packets share, 1 KiB to 16 MiB | packets of more than half of it have a block of their own |
//! | [`pooled_chunks`](Config::pooled_chunks) | chunks | 64 | free chunks that are kept | they go back to the allocator |
//! | [`mailbox_bytes`](Config::mailbox_bytes) | bytes | 4 MiB | what waits for one worker | threads wait; other workers read nothing meanwhile |
//! | [`recv_buffer_bytes`](Config::recv_buffer_bytes) | bytes | 64 KiB | one read, 1 KiB to 16 MiB | the next read takes the rest |
//! | [`read_budget_bytes`](Config::read_budget_bytes) | bytes | 128 KiB | what is read from one session in one turn | the rest waits for the next turn |
//! | [`read_pause`](Config::read_pause) | time | 1 s | how long a peer that is behind with its answers is not read | it is read on, up to `max_send_queue_bytes` |
//! | [`write_budget_bytes`](Config::write_budget_bytes) | bytes | 64 KiB | what is written to one session in one turn | the rest waits for the next turn |
//! | [`turn_input_bytes`](Config::turn_input_bytes) | bytes | 256 KiB | what one turn reads from all sessions | the others are read in the next turn |
//! | [`turn_output_bytes`](Config::turn_output_bytes) | bytes | 8 MiB | what one turn queues for all sessions | the rest waits for the next turn, and so does all reading |
//! | [`accept_batch`](Config::accept_batch) | connections | 256 | those accepted in one go | the others are accepted right after |
//!
//! What the format or the layout fixes: 65,535 bytes in a packet, 16,777,216 sessions of one worker
//! at a time, lists that lie 16 deep. Budgets for what a packet costs beyond its bytes are the game's:
//! [`RateLimiter`](rate_limiter::RateLimiter) and [`Kick::ChatFlood`] are there for that, and
//! [`AddressBudgets`] for a budget that survives a reconnect.
//!
//! # Errors
//!
//! * **What a peer does** is never an error that you have to handle. It is a [`Kick`], or another
//!   [`DisconnectReason`]: the session ends, is counted by [label](DisconnectReason::label) in the
//!   [metrics](ServerHandle::metrics), and [`Session::on_disconnected`] is told. What a handler does
//!   not allow it says the same way, with `Err(Kick::..)`.
//! * **Sending does not fail.** A session that is gone is a count (`undeliverable`); a packet that does
//!   not fit its size field is not sent, and logged. Who wants to do something about that encodes first:
//!   [`Context::encode`] and its like return [`PacketTooLarge`].
//! * **Starting does**: [`ServerBuilder::start`] returns what the system said, for example that the
//!   address is in use. [`Server::join`] returns the first error of a thread that ended before it was
//!   told to; the whole server ends then. [`ServerHandle::connect`] returns what is known at once, and
//!   a refusal comes as [`DisconnectReason::ConnectFailed`].
//!
//! # Panics
//!
//! No bytes that a peer sends and no number in a [`Config`] make this library panic. Your mistakes do,
//! where each function's "Panics" section says so: [`Server::local_addr`] without a listener,
//! [`Handlers::on`] twice for one id.
//!
//! A panic in a callback of a [`Session`], in its destructor, or in the function that makes one, is caught
//! and costs that session alone ([`DisconnectReason::HandlerPanicked`]). That needs `panic = "unwind"`, which is the
//! default of every profile. A panic in the function of a [`Ticker`] is one of the thread that runs it.
//!
//! # What is promised
//!
//! Versions follow [Semantic Versioning](https://semver.org/). What this documentation shows is the
//! API. Modules that it does not show are public for the tests, benchmarks and fuzz targets of this
//! crate alone and may change at any time; `ARCHITECTURE.md` is their guide. Rust 1.88 or newer on a
//! 64-bit Unix, of which Linux is tested; a newer Rust is asked for in a new minor version only.
//!
//! # The layers
//!
//! For contributors to this crate. A folder is a layer; each imports from itself and from the layers below it.
//! `ARCHITECTURE.md` in the crate's folder says why, and follows a byte through them.
//!
//! | layer | what it holds |
//! |---|---|
//! | `server` | builder, handle, ticker and its schedule |
//! | `runtime` | worker, listener, acceptor, connector: threads, sockets, clocks, and the only `mio::Poll`s |
//! | `shard` | one worker's sessions and one turn of its loop |
//! | `routing` | mailboxes between threads, and the router that fans out |
//! | `connection` | one peer: reading, output, draining; admission |
//! | `transport` | a peer's bytes in and out, without a socket |
//! | `session` | the [`Session`] trait, its context, typed handlers, content |
//! | `groups` | members of groups, and the index of workers that have some |
//! | `buffer` | chunks, their pool, send queues, the receive buffer |
//! | `protocol` | packets, typed packets, the framer |
//! | `base` | ids, reasons, limits, metrics, timers, small machines |
//!
//! The layers below `runtime` touch no socket and no clock: bytes and instants are their arguments.

// The feature `testing` shows the layers to this crate's own tests, benchmarks and fuzz targets.
#[cfg(not(feature = "testing"))]
mod base;
#[cfg(feature = "testing")]
#[doc(hidden)]
pub mod base;
#[cfg(not(feature = "testing"))]
mod buffer;
#[cfg(feature = "testing")]
#[doc(hidden)]
pub mod buffer;
#[cfg(not(feature = "testing"))]
mod connection;
#[cfg(feature = "testing")]
#[doc(hidden)]
pub mod connection;
#[cfg(not(feature = "testing"))]
mod groups;
#[cfg(feature = "testing")]
#[doc(hidden)]
pub mod groups;
#[cfg(not(feature = "testing"))]
mod protocol;
#[cfg(feature = "testing")]
#[doc(hidden)]
pub mod protocol;
#[cfg(not(feature = "testing"))]
mod routing;
#[cfg(feature = "testing")]
#[doc(hidden)]
pub mod routing;
#[cfg(not(feature = "testing"))]
mod runtime;
#[cfg(feature = "testing")]
#[doc(hidden)]
pub mod runtime;
#[cfg(not(feature = "testing"))]
mod server;
#[cfg(feature = "testing")]
#[doc(hidden)]
pub mod server;
#[cfg(not(feature = "testing"))]
mod session;
#[cfg(feature = "testing")]
#[doc(hidden)]
pub mod session;
#[cfg(not(feature = "testing"))]
mod shard;
#[cfg(feature = "testing")]
#[doc(hidden)]
pub mod shard;
#[cfg(not(feature = "testing"))]
mod transport;
#[cfg(feature = "testing")]
#[doc(hidden)]
pub mod transport;

/// For the expansion of [`packets!`] alone.
#[doc(hidden)]
pub mod __private {
    pub use crate::protocol::reader::{limited, text_of};
}

pub use base::{backoff, metrics, rate_limiter, snapshot, wire};
pub use protocol::{framer, packet};
pub use runtime::start;
pub use server::schedule as tick;

#[doc(inline)]
pub use base::address_budgets::AddressBudgets;
#[doc(inline)]
pub use base::config::Config;
#[doc(inline)]
pub use base::id::SessionId;
#[doc(inline)]
pub use base::reason::{DisconnectReason, Kick};
#[doc(inline)]
pub use buffer::{SendBuffer, pool::PoolStats};
#[doc(inline)]
pub use groups::id::GroupId;
#[doc(inline)]
pub use groups::members::TooManyGroups;
#[doc(inline)]
pub use protocol::list::{List, ListIter};
#[doc(inline)]
pub use protocol::packet::{IncomingPacket, Packet, PacketHead, PacketTooLarge};
#[doc(inline)]
pub use protocol::reader::{PacketReader, ReadPart};
#[doc(inline)]
pub use protocol::writer::{OutgoingPacket, PacketWriter, WritePart};
#[doc(inline)]
pub use routing::mailbox::MailboxFull;
#[doc(inline)]
pub use server::ticker::{TickMetrics, TickStopper, Ticker};
#[doc(inline)]
pub use server::{Server, ServerBuilder, ServerHandle};
#[doc(inline)]
pub use session::content::{Content, ContentError, ContentReceiver, ContentSender};
#[doc(inline)]
pub use session::handlers::Handlers;
#[doc(inline)]
pub use session::{Context, Peer, Session};

/// The README's program has to compile.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
#[derive(Debug)]
pub struct Readme;
