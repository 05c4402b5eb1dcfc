//! Tools for tests: a whole server in virtual time, a client of raw bytes, a stream without a socket, a clock that a
//! test moves.
//!
//! The feature `testing` brings this module. [`SimServer`] runs a game, from its sessions down to the framing, on
//! the thread of its test, without sockets, in an order that a seed decides. A minute of play takes milliseconds:
//! its page shows a test. With real sockets, a test of a game starts the server on port 0 and talks to it by a
//! [`RawClient`]:
//!
//! ```
//! use server_core::testing::{RawClient, RawPacket, packet};
//! use server_core::{Context, Kick, Packet, Server, Session};
//!
//! server_core::packets! {
//!     client 2 => CEcho + bytes;
//!     server 3 => SEcho + bytes;
//! }
//!
//! struct Echo;
//!
//! impl Session for Echo {
//!     fn on_packet(&mut self, ctx: &mut Context<'_>, packet: Packet<'_>) -> Result<(), Kick> {
//!         ctx.send(&SEcho, packet.decode::<CEcho>()?);
//!         Ok(())
//!     }
//! }
//!
//! let server = Server::builder().start("127.0.0.1:0", |_peer| Echo)?;
//! let mut client = RawClient::connect(server.local_addr());
//! client.send(&packet(CEcho::ID, b"hi"));
//! assert_eq!(client.next_packet(), RawPacket::new(SEcho::ID, b"hi"));
//! // The server kicks a client that sends a packet id of no table:
//! client.send(&packet(99, b""));
//! client.expect_eof();
//! # Ok::<(), std::io::Error>(())
//! ```
//!
//! [`FakeStream`] and [`FakeClock`] drive the layers below the runtime, which have no socket and no
//! clock. The feature shows these layers to the tests of this workspace, without a promise that they
//! stay as they are.

mod clock;
mod fake_stream;
mod fake_tls;
mod packet;
mod raw_client;
#[cfg(feature = "cluster")]
mod redis;
mod rng;
mod sim;

pub use clock::FakeClock;
pub use fake_stream::{Call, Connect, Edges, FakePeer, FakeState, FakeStream, Outcome};
pub use fake_tls::FakeTls;
pub use packet::{RawPacket, header, packet};
pub use raw_client::RawClient;
#[cfg(feature = "cluster")]
pub use redis::Redis;
pub use rng::SimRng;
pub use sim::{SimClient, SimServer, for_each_seed};

use socket2::{Domain, Socket, Type};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

/// How long the tools of this module wait for a server: longer than any answer takes on a slow machine.
/// A passing test never waits this long.
pub const DEADLINE: Duration = Duration::from_secs(20);

/// A port of 127.0.0.1 that refuses connections. No listener can take the port while the caller keeps the socket, which
/// is bound and does not listen.
///
/// # Panics
///
/// If the system has no free port or no descriptor.
#[must_use]
#[track_caller]
pub fn refusing_port() -> (TcpStream, SocketAddr) {
    let bound = Socket::new(Domain::IPV4, Type::STREAM, None).and_then(|socket| {
        socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into())?;
        let socket = TcpStream::from(socket);
        let addr = socket.local_addr()?;
        Ok((socket, addr))
    });
    bound.unwrap_or_else(|error| panic!("cannot bind a port: {error}"))
}

/// Waits until a condition holds.
///
/// # Panics
///
/// If the condition does not hold within [`DEADLINE`]; the message names `what`.
#[track_caller]
pub fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let give_up_at = Instant::now() + DEADLINE;
    while !holds() {
        assert!(Instant::now() < give_up_at, "waited in vain for {what}");
        thread::sleep(Duration::from_millis(1));
    }
}
