//! A server whose sessions record what happens to them, and raw clients of it.

use bytemuck::{Pod, Zeroable};
use server_core::testing::{DEADLINE, RawClient, RawPacket, wait_until};
use server_core::wire::{U16Le, U64Le};
use server_core::{
    Context, DisconnectReason, Kick, Packet, PacketHead, Peer, Server, ServerBuilder, ServerHandle,
    Session, SessionId,
};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, OnceLock};
use std::thread;

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub struct Numbered {
    pub sender: U64Le,
    pub number: U64Le,
}

impl PacketHead for Numbered {
    const ID: u16 = 1;
}

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub struct Echo;

impl PacketHead for Echo {
    const ID: u16 = 3;
}

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(transparent)]
pub struct Bye(U16Le);

impl PacketHead for Bye {
    const ID: u16 = 6;
}

pub const C_ECHO: u16 = 2;
pub const C_PANIC: u16 = 20;
pub const C_BURST: u16 = 21;
pub const C_BACK_CALL: u16 = 22;
pub const C_CLOSE: u16 = 23;
pub const BURST: u64 = 200;

/// What happened to a session, in order, and on which thread.
#[derive(Debug, PartialEq, Eq)]
pub enum Event {
    Connected(SessionId, Option<u64>, String),
    Packet(SessionId, String),
    Disconnected(SessionId, Option<u64>, DisconnectReason, String),
}

pub struct Recorder {
    pub peer: Peer,
    pub events: Sender<Event>,
    pub handle: Arc<OnceLock<ServerHandle>>,
}

pub fn this_thread() -> String {
    thread::current().name().unwrap_or_default().to_owned()
}

impl Session for Recorder {
    fn on_connected(&mut self, ctx: &mut Context<'_>) {
        let _ = self
            .events
            .send(Event::Connected(ctx.id(), self.peer.tag, this_thread()));
    }

    fn on_packet(&mut self, ctx: &mut Context<'_>, packet: Packet<'_>) -> Result<(), Kick> {
        let _ = self.events.send(Event::Packet(ctx.id(), this_thread()));
        match packet.id() {
            C_ECHO => ctx.send(&Echo, packet.payload()),
            // Silent for the hook: the panic is not the news here.
            C_PANIC => std::panic::resume_unwind(Box::new("a bug in the handler")),
            C_BURST => {
                for number in 0..BURST {
                    ctx.send(&numbered(0, number), b"");
                }
            }
            C_CLOSE => {
                ctx.send(&Echo, b"closing");
                ctx.close();
            }
            C_BACK_CALL => {
                // The whole handle, from inside a worker's callback.
                let handle = self.handle.get().unwrap();
                for number in 0..2_000 {
                    handle.broadcast(&numbered(1, number), [7; 1_000]);
                    handle.send_to(ctx.id(), &numbered(2, number), b"");
                }
                handle.close(SessionId::from_u64(u64::MAX));
                assert!(handle.metrics().totals().sessions >= 1);
            }
            _ => return Err(Kick::UnknownId),
        }
        Ok(())
    }

    fn on_disconnected(&mut self, ctx: &mut Context<'_>, reason: DisconnectReason) {
        let event = Event::Disconnected(ctx.id(), self.peer.tag, reason, this_thread());
        let _ = self.events.send(event);
    }
}

pub fn numbered(sender: u64, number: u64) -> Numbered {
    Numbered {
        sender: sender.into(),
        number: number.into(),
    }
}

/// A server of recorders, and what they tell.
pub struct Running {
    pub server: Server,
    pub events: Receiver<Event>,
}

pub fn builder() -> ServerBuilder {
    Server::builder()
        .workers(2)
        .close_message(|reason| Some((Bye(reason.code()?.into()), "")))
}

pub fn factory() -> (
    impl Fn(Peer) -> Recorder + Send + Sync,
    Receiver<Event>,
    Arc<OnceLock<ServerHandle>>,
) {
    let (sender, events) = channel();
    let handle = Arc::new(OnceLock::new());
    let for_sessions = Arc::clone(&handle);
    let sender = Mutex::new(sender);
    let factory = move |peer| Recorder {
        peer,
        events: sender.lock().unwrap().clone(),
        handle: Arc::clone(&for_sessions),
    };
    (factory, events, handle)
}

pub fn start(builder: ServerBuilder) -> Running {
    let (factory, events, handle) = factory();
    let server = builder.start("127.0.0.1:0", factory).unwrap();
    assert!(handle.set(server.handle()).is_ok());
    Running { server, events }
}

impl Running {
    pub fn next(&self) -> Event {
        self.events.recv_timeout(DEADLINE).unwrap()
    }

    pub fn connect(&self) -> (RawClient, SessionId) {
        let client = RawClient::connect(self.server.local_addr());
        loop {
            if let Event::Connected(id, ..) = self.next() {
                return (client, id);
            }
        }
    }

    pub fn next_departure(&self) -> (SessionId, DisconnectReason) {
        loop {
            if let Event::Disconnected(id, _, reason, _) = self.next() {
                return (id, reason);
            }
        }
    }

    pub fn wait_for(&self, what: &str, mut is_so: impl FnMut(&ServerHandle) -> bool) {
        let handle = self.server.handle();
        wait_until(what, || is_so(&handle));
    }
}

/// What a client does with a server of recorders.
pub trait RecorderClient {
    /// The sender, the number and the tail of the next packet, which is a [`Numbered`].
    fn receive_numbered(&mut self) -> (u64, u64, Vec<u8>);
    /// Sends an echo and reads its answer.
    fn echo(&mut self, payload: &[u8]);
}

impl RecorderClient for RawClient {
    fn receive_numbered(&mut self) -> (u64, u64, Vec<u8>) {
        let RawPacket { id, payload } = self.next_packet();
        assert_eq!(id, 1);
        let number = |at: usize| u64::from_le_bytes(payload[at..at + 8].try_into().unwrap());
        (number(0), number(8), payload[16..].to_vec())
    }

    fn echo(&mut self, payload: &[u8]) {
        self.send_packet(C_ECHO, payload);
        assert_eq!(self.next_packet(), RawPacket::new(3, payload));
    }
}
