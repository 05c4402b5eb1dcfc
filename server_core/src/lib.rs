//! Event loop, sessions, send-buffer chunk pool and packet framing for TCP game servers.
//!
//! # Building your own game on it
//!
//! A game implements [`Session`], one object per peer, which is called on its worker's thread:
//!
//! ```
//! use server_core::{Context, Handlers, Kick, Packet, Server, Session, Ticker};
//! use std::{io, sync::LazyLock, time::Duration};
//!
//! server_core::packets! {
//!     /// Sent to all on every tick.
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
//!         server.broadcast(&SHello::new(tick.number), "Hello World");
//! #       stopper.stop();
//!     });
//!     Ok(())
//! }
//! ```
//!
//! `examples/` in the crate's folder has complete programs, each with one idea: `echo`, `chat_rooms`,
//! `timers`, `admin` (an admin port with metrics of the game), `game_thread` (one thread owns the world,
//! without a lock), `rooms` (a thread for each room of the world), `app` (a whole server program), `zones` (players see
//! their neighbourhood), `interest` (1,000 players with a budget of bytes for each), `web` (a world for browsers and
//! bots), `world` (three nodes over Redis) and `world_download` (20 MB for a slow reader that plays at the same time).
//! `cargo run -p server_core --example NAME -- --bots 5` runs one with bots. `arena` is a small game with all of its
//! parts: logins, rooms, snapshots, resume, and its tests.
//!
//! `tutorial` leads from an echo to this arena in five steps. A test of a game runs the whole server in virtual
//! time, without sockets: `testing::SimServer` of the feature `testing`.
//!
//! # Typed packets
//!
//! [`packets!`] is the table of a game's packets: direction, id, name and payload, each once. The same
//! id twice does not compile. An invalid packet is a [`Kick`] before any code of yours runs.
//! Fixed fields are read in place. A lifetime on the name makes a packet of variable size, with
//! strings, lists, and lists in lists, all borrowed from the received payload:
//!
//! ```
//! use server_core::{Kick, List, OutgoingPacket, Packet};
//!
//! server_core::packets! {
//!     /// The players in a room.
//!     server 8 => pub SRoom<'a> {
//!         room: u32,
//!         name: &'a str where 1..=32,
//!         players: List<'a, Player<'a>>,
//!     };
//!     /// One player and its items.
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
//! // A byte too few, a byte too many and a count beyond the bytes are errors:
//! let cut = Packet::new(SRoom::ID, &bytes[4..bytes.len() - 1]);
//! assert_eq!(cut.decode::<SRoom<'_>>(), Err(Kick::BadPayload));
//! # Ok::<(), Kick>(())
//! ```
//!
//! [`Handlers`] calls a typed function for each id, and kicks for an id without a function. A payload that
//! the table cannot describe is read and written by hand with [`PacketReader`] and [`PacketWriter`]. No
//! bytes and no value make them read or write outside of their buffer.
//!
//! # Groups
//!
//! A group is a room, a zone or a party. A [`GroupId`] is a number that the game chooses. A session is in
//! up to 64 groups by default. A packet to a group is written once and costs time for its members, whatever
//! the number of sessions. A worker without members gets no command.
//!
//! ```
//! use server_core::{Context, DisconnectReason, GroupId, Handlers, Kick, Packet, Server, Session};
//! # use std::io::{Read, Write};
//! use std::{io, sync::LazyLock};
//!
//! server_core::packets! {
//!     /// Enters a room.
//!     client 1 => pub CEnter { room: u32 };
//!     /// A line of chat for all in the room.
//!     client 2 => pub CSay { room: u32 } + text(1..=200);
//!     server 3 => pub SSaid { guest: u64 } + text;
//!     server 4 => pub SEntered { guest: u64 };
//!     server 5 => pub SGone { guest: u64 };
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
//!             let room = room(enter.room());
//!             ctx.join(room).map_err(|_| Kick::custom(1000, "too_many_rooms"))?;
//!             ctx.broadcast_packet_to(room, &SEntered::new(ctx.id().to_u64()));
//!             Ok(())
//!         })
//!         .on::<CSay>(|_guest, ctx, (say, text)| {
//!             let room = room(say.room());
//!             if ctx.is_in(room) {
//!                 ctx.broadcast_to_others(room, &SSaid::new(ctx.id().to_u64()), text);
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
//!     /// The session leaves its rooms by itself. This tells the other guests.
//!     fn on_disconnected(&mut self, ctx: &mut Context<'_>, _: DisconnectReason) {
//!         for room in ctx.groups() {
//!             ctx.broadcast_packet_to(room, &SGone::new(ctx.id().to_u64()));
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
//!     // From any thread, for example that of the ticks:
//!     server.handle().broadcast_to(room(7), &SSaid::new(0), "The inn closes.");
//! #   let mut said = [0; 27];
//! #   one.read_exact(&mut said)?;
//! #   assert_eq!(&said[12..], b"The inn closes.");
//!     Ok(())
//! }
//! ```
//!
//! Guarantees:
//!
//! * A join or leave of a callback's own session is done when the call returns. A packet to a group goes
//!   to the sessions that are members when it is queued. A callback's packet is queued after all packets
//!   that were read together are handled. So a session that sends a last line to a group and leaves it in
//!   the same callback, or with its next packet, may not get its own line.
//! * A thread that learns of such a join and then broadcasts to the group reaches the new member. A join
//!   through the handle is in order with all later sends through handles. Only callbacks of the session's
//!   own worker may send before that worker takes the join from its mailbox.
//! * After a leave no further packet to the group is queued for the session. After a leave through the
//!   handle, no packet of a later send through handles is queued for it. Packets that were queued before
//!   still arrive.
//! * The packets of one sender reach each member once, in the order of the sends. A sender is a callback
//!   through its context, or another thread through the handle. A session in two groups gets two packets
//!   when one is sent to each.
//! * A session that ends leaves its groups. A later session, even in the same slot, is in no group.
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
//! **What blocks.** A callback runs on its worker's thread and delays the other sessions of the worker: keep
//! it short, and give long work to a thread of yours. A thread that sends through a [`ServerHandle`]
//! waits while a worker's mailbox is full ([`mailbox_bytes`](Config::mailbox_bytes)). So never send
//! through a handle while you hold a lock that a callback takes: the callback would wait for your thread,
//! and your thread for its worker. Copy what you need and release the lock first. A callback that sends by
//! its [`Context`] never waits, whatever lock it holds. [`ServerHandle::try_send_buffer`] and the other
//! `try_` methods return [`MailboxFull`] instead of waiting.
//!
//! # Slow readers and large content
//!
//! A packet waits in its session's queue until the peer's socket takes it.
//! [`Context::queued_bytes`] is the length of that queue. [`Context::notify_drained`] requests one call of
//! [`Session::on_drained`] when the queue has fallen to a given length, so a session can send as fast as its
//! peer reads, and no faster. [`ContentSender`] does that for content of any size, above the 65,535 bytes of
//! a packet: it keeps one window of pieces in the queue, and the session's other packets wait behind one
//! window at most. [`ContentReceiver`] is its counterpart, with a limit on the bytes of one content.
//!
//! # Pacing
//!
//! A reader that takes 1 MiB/s or more on average over 250 ms, with pauses of up to 100 ms, is never ended
//! as a slow consumer by packets of other sessions. Its queue *paces* when it is longer than 128 KiB (or
//! half of [`max_send_queue_bytes`](Config::max_send_queue_bytes)): packets that callbacks send to other
//! sessions then leave at 768 KiB a second, all workers together, until the queue is short again. The rest
//! waits in order, and a session that caused some of it is not read. A packet that a callback sends to its
//! own session does not wait for that. A reader that takes less than 512 KiB a second paces no session.
//! Measured broadcasts (ticks) never wait, and are a part of the 768 KiB: callbacks get the rest, and an eighth at
//! least.
//! Packets of other threads are not paced: a game's thread asks
//! [`ServerHandle::is_congested`] and sends less.
//!
//! A server with a cluster divides the 768 KiB: 256 KiB a second for packets of other nodes, 512 KiB for callbacks.
//! While a queue paces, a packet of another node beyond its part is dropped and counted (`Why::Congested`), and the
//! game learns of the gap.
//!
//! # The end of a server
//!
//! [`ServerHandle::shutdown`] ends a server in order: it stops accepting, each queue is flushed, and each
//! session gets the last packet of [`close_message`](ServerBuilder::close_message), then a FIN. Any thread
//! may call it, for example that of a signal. Signals are left to you (crates `ctrlc` and
//! `signal-hook`). A [`Ticker::for_server`] ends with the server, and [`Server::join`] returns when the last
//! session has ended or the time for that is up. A callback of the server may call `shutdown`, too, but
//! cannot wait for the end: `join` returns an error there. [A table](ServerHandle#after-the-end) lists the
//! results of a handle's methods after the end.
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
//! # Features
//!
//! * `admin` (off by default): an admin port with `/metrics` as Prometheus text, `/healthz`, `/sessions` and a
//!   live page, over HTTP. `server_core::admin::Admin::start(addr, &handle)` starts it.
//! * `app` (off by default): the module `app`, a whole server program around a game: flags, `--check`, logs, signals,
//!   admin port. `App::from_command_line("my_game").play(game_loop, game)` is its `main`.
//! * `cluster` (off by default): several nodes as one world over Redis: groups that span nodes, presence, one
//!   session an account. `server_core::cluster::Cluster::builder(url).start(&handle)` attaches a node.
//! * `framing` (off by default): clients of servers that are not built on this library.
//!   `ServerBuilder::client_framing` sets the length and id fields of such a server.
//! * `host` (off by default): the module `host` for programs. It reads the limits of the machine, checks the
//!   needs of a program against the limits, handles SIGINT, SIGTERM and SIGHUP, and logs to standard error.
//! * `testing` (off by default): the module `testing` for the tests of a game: `SimServer`, a whole server in virtual
//!   time, a client of raw bytes, a packet builder, a stream without a socket and a clock that a test moves.
//! * `tls` (off by default): TLS 1.3 and 1.2 with rustls, for listeners and for outgoing connections.
//! * `websocket` (off by default): browsers as peers, over WebSocket (RFC 6455). The payloads of the binary
//!   messages, joined, are the byte stream of packets.
//!
//! # Testing a game
//!
//! The feature `testing` is a dev-dependency of a game: `server_core = { version = "0.1", features = ["testing"] }`.
//! `SimServer` runs the whole server on the thread of the test, in virtual time, without sockets.
//! `SimServer::start_game` runs a [`GameLoop`] too.
//!
//! ```
//! use server_core::testing::SimServer;
//! use server_core::{Context, Handlers, Kick, Packet, Server, Session};
//! use std::{sync::LazyLock, time::Duration};
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
//!         ctx.send_packet(&SSum::new(u64::from(add.a()) + u64::from(add.b())));
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
//! # fn main() {
//! let mut server = SimServer::start(1, Server::builder(), |_peer| Adder); // 1: the seed
//! let mut client = server.connect();
//! client.send_packet(&CAdd::new(2, 3));
//! server.advance(Duration::from_millis(10));
//! let answer = client.next_packet().expect("an answer");
//! assert_eq!(answer.decode::<SSum>().expect("a sum").sum(), 5);
//! # }
//! ```
//!
//! `RawClient` is a client over a real socket. It tests what virtual time leaves out: listeners, transports, bans. A
//! server on port 0 starts and ends in milliseconds, and any number of servers run side by side. For many clients, the
//! bots of the examples are sessions of [`start_client`](ServerBuilder::start_client) and [`ServerHandle::connect`].
//!
//! ```
//! # use server_core::{Context, Kick, Packet, Server, Session, testing::RawClient};
//! # server_core::packets! {
//! #     client 1 => pub CAdd { a: u32, b: u32 };
//! #     server 2 => pub SSum { sum: u64 };
//! # }
//! # struct Adder;
//! # impl Session for Adder {
//! #     fn on_packet(&mut self, ctx: &mut Context<'_>, packet: Packet<'_>) -> Result<(), Kick> {
//! #         let add = packet.decode::<CAdd>()?;
//! #         ctx.send_packet(&SSum::new(u64::from(add.a()) + u64::from(add.b())));
//! #         Ok(())
//! #     }
//! # }
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let server = Server::builder().start("127.0.0.1:0", |_peer| Adder)?;
//! let mut client = RawClient::connect(server.local_addr());
//! client.send_packet(CAdd::ID, [2, 0, 0, 0, 3, 0, 0, 0]); // the payload as bytes
//! assert_eq!(client.next_packet().decode::<SSum>()?.sum(), 5);
//! # Ok(())
//! # }
//! ```
//!
//! # Limits and defaults
//!
//! Everything has a limit, and the limit has a name in [`Config`]. The defaults suit the open internet.
//! `off` is `None`. A size of zero is raised to the range in which a server works, and a time above a
//! hundred years is a hundred years.
//!
//! | limit | unit | default | bounds | over the limit |
//! |---|---|---|---|---|
//! | [`workers`](Config::workers) | threads | the number of cores | event loops, 1 to 256 | |
//! | [`backlog`](Config::backlog) | connections | 4,096 | connections that wait in the kernel for accept | the peer's kernel sends its SYN again |
//! | [`max_sessions`](Config::max_sessions) | sessions | off | all sessions at a time | [`DisconnectReason::ServerFull`] |
//! | [`max_sessions_per_ip`](Config::max_sessions_per_ip) | sessions | off | sessions of one address at a time | [`DisconnectReason::ServerFull`] |
//! | [`max_connects_per_ip_per_sec`](Config::max_connects_per_ip_per_sec) | connections a second | off | connections of one address, in a burst twice that number | closed without a packet, counted as rejected |
//! | [`trusted_proxies`](Config::trusted_proxies) | networks | none | proxies whose connections begin with a PROXY header of at most 536 bytes within 2 s | [`DisconnectReason::Handshake`] |
//! | [`login_timeout`](Config::login_timeout) | time | 10 s | the login of a session that [requires one](Session::requires_login) | [`DisconnectReason::LoginTimeout`] |
//! | [`max_unadmitted`](Config::max_unadmitted) | sessions | off | unadmitted sessions at a time; half of `max_sessions` where not set | [`DisconnectReason::LoginTimeout`] for the oldest |
//! | [`max_packet_bytes`](Config::max_packet_bytes) | bytes | 65,535 | a received packet, header included | [`Kick::TooLarge`] |
//! | [`max_send_queue_bytes`](Config::max_send_queue_bytes) | bytes | 1 MiB | the queue of one session; a queue of eight times the limit ends it at once | [`Kick::SlowConsumer`] |
//! | [`max_send_grace`](Config::max_send_grace) | time | 1 s | a queue above `max_send_queue_bytes` of a peer that takes less than 512 KiB a second on average over that time | [`Kick::SlowConsumer`] |
//! | [`max_total_queue_bytes`](Config::max_total_queue_bytes) | bytes | a quarter of the memory | the queues of all sessions | the longest queues end with [`Kick::SlowConsumer`] |
//! | [`max_send_lag`](Config::max_send_lag) | time | 5 s | age of the oldest byte in the queue of one session | [`Kick::SlowConsumer`] |
//! | [`min_send_rate_bytes`](Config::min_send_rate_bytes) | bytes a second | 16,384 | below this rate, a session that is behind is a slow consumer by age | [`Kick::SlowConsumer`] |
//! | [`packet_timeout`](Config::packet_timeout) | time | 10 s | from the first byte of a packet to its last | [`Kick::PacketTimeout`] |
//! | [`idle_timeout`](Config::idle_timeout) | time | off | silence of a peer | [`DisconnectReason::Idle`] |
//! | [`unacknowledged_timeout`](Config::unacknowledged_timeout) | time | 30 s | silence of a peer's machine | [`Kick::SlowConsumer`] |
//! | [`connect_timeout`](Config::connect_timeout) | time | 10 s | the connect of an outgoing connection | [`DisconnectReason::ConnectFailed`] |
//! | [`handshake_timeout`](Config::handshake_timeout) | time | 5 s | the handshake of a transport that has one | [`DisconnectReason::Handshake`] |
//! | [`max_handshakes`](Config::max_handshakes) | handshakes | 1,024 | handshakes of all workers at a time; half of `max_sessions` if that is less | [`DisconnectReason::Handshake`] for the oldest |
//! | [`max_packets_per_sec`](Config::max_packets_per_sec) | packets a second | off | received packets of one session, in a burst twice that number | [`Kick::RateLimit`] |
//! | [`max_groups_per_session`](Config::max_groups_per_session) | groups | 64 | groups of one session at a time | [`TooManyGroups`] |
//! | [`flush_timeout`](Config::flush_timeout) | time | 2 s | the flush of a session that ends | the rest is dropped |
//! | [`linger`](Config::linger) | time | 500 ms | the wait for the peer's FIN after that flush | the socket is closed |
//! | [`unsent_window_bytes`](Config::unsent_window_bytes) | bytes | 16 KiB | unsent bytes in the kernel for one session | the rest waits in the session's queue |
//! | [`chunk_bytes`](Config::chunk_bytes) | bytes | 64 KiB | a chunk that packets share, 1 KiB to 16 MiB | packets of more than half of it have a block of their own |
//! | [`pooled_chunks`](Config::pooled_chunks) | chunks | 64 | free chunks in the pool | further chunks go back to the allocator |
//! | [`mailbox_bytes`](Config::mailbox_bytes) | bytes | 4 MiB | the mailbox of one worker | threads wait; other workers read nothing until there is room |
//! | [`recv_buffer_bytes`](Config::recv_buffer_bytes) | bytes | 64 KiB | one read, 1 KiB to 16 MiB | the next read takes the rest |
//! | [`read_budget_bytes`](Config::read_budget_bytes) | bytes | 128 KiB | bytes read from one session in one turn | the rest waits for the next turn |
//! | [`read_pause`](Config::read_pause) | time | 1 s | pause of the reads from a peer that does not take its answers | the peer is read again, up to `max_send_queue_bytes` |
//! | [`write_budget_bytes`](Config::write_budget_bytes) | bytes | 64 KiB | bytes written to one session in one turn | the rest waits for the next turn |
//! | [`turn_input_bytes`](Config::turn_input_bytes) | bytes | 256 KiB | bytes that one turn reads from all sessions | the other sessions are read in the next turn |
//! | [`turn_output_bytes`](Config::turn_output_bytes) | bytes | 8 MiB | bytes that one turn queues for all sessions | the rest waits for the next turn, and so does all reading |
//! | [`accept_batch`](Config::accept_batch) | connections | 256 | connections accepted in one batch | the next batch follows directly |
//!
//! Format and layout fix these limits: 65,535 bytes in a packet, 16,777,216 sessions of one worker
//! at a time, lists 16 deep. The game sets budgets for the costs of a packet beyond its bytes, with
//! [`RateLimiter`](rate_limiter::RateLimiter) and [`Kick::Custom`], and with [`AddressBudgets`] for a
//! budget that survives a reconnect.
//!
//! # Errors
//!
//! * **Actions of a peer** are never errors that you have to handle. An offence is a [`Kick`], another end
//!   is another [`DisconnectReason`]. The session ends, is counted by [label](DisconnectReason::label) in
//!   the [metrics](ServerHandle::metrics), and [`Session::on_disconnected`] is called. A handler kicks for
//!   its own rules with `Err(Kick::..)`, and with a text for the peer by [`Kick::with_text`] or
//!   [`Context::close_with`]. Reasons of the game are made by [`Kick::custom`], and counted by
//!   [label](ServerBuilder::custom_labels).
//! * **Sending does not fail.** A packet to a session that has ended is counted (`undeliverable`). A packet
//!   that does not fit its size field is not sent, and an error is logged. To handle that error, encode
//!   first: [`Context::encode`] and [`Context::encode_packet`] return [`PacketTooLarge`].
//! * **Starting can fail**: [`ServerBuilder::start`] returns the error of the system, for example that the
//!   address is in use. [`Server::join`] returns the first error of a thread that ended before the shutdown.
//!   The whole server ends then. [`ServerHandle::connect`] returns the errors that are known at once, and
//!   a refusal comes as [`DisconnectReason::ConnectFailed`].
//!
//! # Panics
//!
//! No bytes of a peer and no number in a [`Config`] make this library panic. Wrong calls panic where the
//! function's "Panics" section says so: [`Server::local_addr`] without a listener, [`Handlers::on`] twice
//! for one id.
//!
//! A panic in a callback of a [`Session`], in its destructor, or in the function that makes it is caught
//! and ends that session alone ([`DisconnectReason::HandlerPanicked`]). That needs `panic = "unwind"`, the
//! default of every profile. A panic in the function of a [`Ticker`] is a panic of the thread that runs it.
//!
//! # Stability
//!
//! Versions follow [Semantic Versioning](https://semver.org/). The API is the part that this documentation
//! shows. The feature `testing` shows further modules to the tests, benchmarks and fuzz targets of this
//! crate. They may change at any time, and `ARCHITECTURE.md` describes them. The crate needs Rust 1.88 or
//! newer on a 64-bit Unix, of which Linux is tested. Only a new minor version requires a newer Rust.
//!
//! # The layers
//!
//! This table is for contributors to this crate. A folder is a layer, and imports only from itself and from
//! the layers below it. `ARCHITECTURE.md` in the crate's folder gives the reasons, and follows a byte
//! through the layers.
//!
//! | layer | contents |
//! |---|---|
//! | `testing` (feature) | a whole server in virtual time, a client of raw bytes, a stream without a socket, a clock that a test moves |
//! | `app` | (feature `app`) a whole program: flags, `--check`, logs, signals, admin port |
//! | `game` | game loop: one thread owns the world, and gets a fair share of each player's packets |
//! | `admin` (feature) | the admin port: Prometheus text, health, sessions, live page |
//! | `cluster` (feature) | several nodes as one world: the link to a broker |
//! | `server` | builder, handle, ticker and its schedule |
//! | `runtime` | worker, listener, acceptor, connector: threads, sockets, clocks, and the only `mio::Poll`s |
//! | `shard` | one worker's sessions and one turn of its loop |
//! | `routing` | mailboxes between threads, and the router that fans out |
//! | `connection` | one peer: reading, output, draining; admission |
//! | `transport` | a peer's bytes in and out, without a socket |
//! | `session` | the [`Session`] trait, its context, typed handlers, content |
//! | `interest` | entities in sight by position, and the changes that a player gets within a byte budget |
//! | `groups` | members of groups, and the index of workers with members |
//! | `buffer` | chunks, their pool, send queues, the receive buffer |
//! | `protocol` | packets, typed packets, the framer |
//! | `host` | (feature `host`) limits of the machine, their checks, signals, logs |
//! | `base` | ids, reasons, limits, metrics, timers, small machines |
//!
//! The layers below `runtime` use no socket and no clock: bytes and instants are their arguments.

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
mod game;
#[cfg(feature = "testing")]
#[doc(hidden)]
pub mod game;
#[cfg(not(feature = "testing"))]
mod groups;
#[cfg(feature = "testing")]
#[doc(hidden)]
pub mod groups;
#[cfg(feature = "host")]
pub mod host;
#[cfg(not(feature = "testing"))]
mod interest;
#[cfg(feature = "testing")]
#[doc(hidden)]
pub mod interest;
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
#[cfg(any(test, feature = "testing"))]
pub mod testing;
#[cfg(not(feature = "testing"))]
mod transport;
#[cfg(feature = "testing")]
#[doc(hidden)]
pub mod transport;

#[cfg(feature = "admin")]
pub mod admin;
#[cfg(feature = "app")]
pub mod app;
#[cfg(feature = "cluster")]
pub mod cluster;

/// For the expansion of [`packets!`] alone.
#[doc(hidden)]
pub mod __private {
    pub use crate::protocol::reader::{limited, text_of};
}

pub use base::{backoff, metrics, rate_limiter, snapshot, start, text, wire};
pub use protocol::{framer, packet};
pub use server::schedule as tick;

#[doc(inline)]
pub use base::address_budgets::AddressBudgets;
#[doc(inline)]
pub use base::bans::{BanList, BanListError, Bans};
#[doc(inline)]
pub use base::cidr::{Cidr, InvalidCidr};
#[doc(inline)]
pub use base::config::Config;
#[doc(inline)]
pub use base::id::{InvalidSessionId, SessionId};
#[doc(inline)]
pub use base::packet_counts::{PacketCount, PacketDirection, PacketInfo};
#[doc(inline)]
pub use base::reason::{DisconnectReason, Kick};
#[doc(inline)]
pub use base::trace::{TraceEvent, TraceKind, TraceTarget};
#[doc(inline)]
pub use base::transport_kind::TransportKind;
#[doc(inline)]
pub use buffer::{SendBuffer, pool::PoolStats};
#[doc(inline)]
pub use game::{Game, GameContext, GameLoop, GamePlayer};
#[doc(inline)]
pub use groups::id::GroupId;
#[doc(inline)]
pub use groups::members::TooManyGroups;
#[doc(inline)]
pub use interest::grid::{EntityId, InterestEvent, InterestGrid, Sight};
#[doc(inline)]
pub use interest::view::{PlayerView, ViewChange};
#[cfg(feature = "framing")]
#[doc(inline)]
pub use protocol::framing::{ByteOrder, Framing, IdField, LengthCounts, LengthField};
#[doc(inline)]
pub use protocol::list::{List, ListIter};
#[doc(inline)]
pub use protocol::packet::{IncomingPacket, Packet, PacketHead, PacketTooLarge};
#[doc(inline)]
pub use protocol::reader::{PacketReader, ReadPart};
#[cfg(feature = "websocket")]
#[doc(inline)]
pub use protocol::upgrade::{
    InvalidOrigin, InvalidWebSocketTarget, Origin, WebSocketServerConfig, WebSocketTarget,
};
#[doc(inline)]
pub use protocol::writer::{OutgoingPacket, PacketWriter, WritePart};
#[doc(inline)]
pub use routing::accounts::LoginPolicy;
#[doc(inline)]
pub use routing::mailbox::MailboxFull;
#[doc(inline)]
pub use runtime::listener_kind::ListenerKind;
#[cfg(feature = "tls")]
#[doc(inline)]
pub use runtime::tls::{TlsClientConfig, TlsClientStream, TlsServerConfig};
#[doc(inline)]
pub use server::ticker::{TickMetrics, TickStopper, Ticker};
#[doc(inline)]
pub use server::trace::Trace;
#[doc(inline)]
pub use server::{Server, ServerBuilder, ServerHandle};
#[doc(inline)]
pub use session::content::{Content, ContentError, ContentReceiver, ContentSender};
#[doc(inline)]
pub use session::handlers::Handlers;
#[doc(inline)]
pub use session::login::LoginRules;
#[doc(inline)]
pub use session::message::Message;
#[doc(inline)]
pub use session::{Context, LoginAnswer, Peer, Session};

/// A game in five steps, from an echo to an arena.
#[cfg(any(all(doc, feature = "testing"), doctest))]
#[doc = include_str!("../TUTORIAL.md")]
pub mod tutorial {}

/// Compiles the program of the README.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
#[derive(Debug)]
pub struct Readme;
