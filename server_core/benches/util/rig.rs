//! The share of one worker of a server, on this thread. The sockets of its sessions take everything and cost nothing.

use server_core::connection::admission::Admission;
use server_core::routing::router::NewConnection;
use server_core::shard::{Shard, Shared};
use server_core::testing::FakeStream;
use server_core::{Config, Peer, Session, SessionId};
use std::net::SocketAddr;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Instant;

pub struct Rig<S> {
    pub shared: Arc<Shared<FakeStream, S>>,
    pub now: Instant,
    shard: Shard<FakeStream, S>,
}

impl<S: Session> Rig<S> {
    /// The sessions are connected, in the slots from 0 on.
    pub fn new(sessions: usize, make: fn(Peer) -> S) -> Self {
        let shared = Arc::new(Shared::for_tests(&Config::default(), 1, make));
        let mut rig = Self {
            shard: Shard::new(0, Arc::clone(&shared)),
            shared,
            now: Instant::now(),
        };
        let admission = Arc::new(Admission::new(1, None, None));
        for port in 0..sessions {
            let permit = admission.admit(SocketAddr::from(([127, 0, 0, 1], port as u16)));
            rig.shared.router.adopt(NewConnection {
                stream: FakeStream::sink(),
                permit: permit.expect("the admission has no limit"),
                tag: None,
                is_connecting: false,
            });
        }
        rig.turn();
        rig
    }

    /// Runs a turn, as a worker does.
    pub fn turn(&mut self) {
        let (shard, now) = (&mut self.shard, self.now);
        self.shared.router.mailbox(0).take_some(|command| {
            shard.handle_command(command, now, |_, _| Ok(()));
            ControlFlow::Continue(())
        });
        shard.run(now);
    }
}

pub fn session(slot: usize) -> SessionId {
    SessionId::new(1, 0, slot as u32)
}
