//! Messages of other threads to a session.

use server_core::testing::{DEADLINE, RawClient, packet, wait_until};
use server_core::{
    Config, Context, DisconnectReason, Kick, MailboxFull, Message, Packet, Peer, Server,
    ServerHandle, Session, SessionId,
};
use std::any::Any;
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;

#[derive(Debug)]
enum Event {
    Connected(SessionId),
    /// With the name of the thread.
    Number(SessionId, u64, String),
    Disconnected(SessionId, DisconnectReason),
}

#[derive(Debug, PartialEq, Eq)]
struct Number(u64);
impl Message for Number {}

/// Stops the worker until the other end is dropped.
struct Stop(Receiver<()>);
impl Message for Stop {}

struct Bug;
impl Message for Bug {}

struct Large(usize);
impl Message for Large {
    fn bytes(&self) -> usize {
        self.0
    }
}

struct Player {
    events: Sender<Event>,
}

impl Session for Player {
    fn on_connected(&mut self, ctx: &mut Context<'_>) {
        let _ = self.events.send(Event::Connected(ctx.id()));
    }

    fn on_packet(&mut self, _: &mut Context<'_>, _: Packet<'_>) -> Result<(), Kick> {
        Ok(())
    }

    fn on_message(&mut self, ctx: &mut Context<'_>, message: Box<dyn Any + Send>) {
        if message.is::<Bug>() {
            // Silent for the hook: the panic is not the news here.
            std::panic::resume_unwind(Box::new("a bug in the handler"));
        }
        let message = match message.downcast::<Stop>() {
            Ok(stop) => {
                let _ = stop.0.recv();
                return;
            }
            Err(message) => message,
        };
        if let Ok(number) = message.downcast::<Number>() {
            let worker = thread::current().name().unwrap_or_default().to_owned();
            let _ = self.events.send(Event::Number(ctx.id(), number.0, worker));
        }
    }

    fn on_disconnected(&mut self, ctx: &mut Context<'_>, reason: DisconnectReason) {
        let _ = self.events.send(Event::Disconnected(ctx.id(), reason));
    }
}

struct Running {
    server: Server,
    events: Receiver<Event>,
}

impl Running {
    fn start(workers: usize, mailbox_bytes: usize) -> Self {
        let (sender, events) = channel();
        let sender = Mutex::new(sender);
        let player = move |_: Peer| Player {
            events: sender.lock().unwrap().clone(),
        };
        let mut config = Config::default();
        config.mailbox_bytes = mailbox_bytes;
        let builder = Server::builder().config(config).workers(workers);
        let server = builder.start("127.0.0.1:0", player).unwrap();
        Self { server, events }
    }

    fn next(&self) -> Event {
        self.events.recv_timeout(DEADLINE).unwrap()
    }

    fn connect(&self) -> (RawClient, SessionId) {
        let client = RawClient::connect(self.server.local_addr());
        match self.next() {
            Event::Connected(id) => (client, id),
            other => panic!("{other:?}"),
        }
    }

    fn expect_number(&self, id: SessionId, number: u64) {
        match self.next() {
            Event::Number(of, which, worker) => {
                assert_eq!((of, which), (id, number));
                assert_eq!(worker, format!("worker-{}", id.worker()));
            }
            other => panic!("{other:?} in place of {number}"),
        }
    }
}

/// Posts again while too many messages wait.
fn post(handle: &ServerHandle, id: SessionId, number: u64) {
    let mut message = Number(number);
    while let Err(MailboxFull(refused)) = handle.post(id, message) {
        message = refused;
        thread::yield_now();
    }
}

#[test]
fn messages_reach_their_sessions_in_order_on_their_workers() {
    const EACH: u64 = 3_000;
    let running = Running::start(2, 64 << 10);
    let clients = [(); 4].map(|()| running.connect());
    let threads = clients.each_ref().map(|(_, id)| {
        let (handle, id) = (running.server.handle(), *id);
        thread::spawn(move || (0..EACH).for_each(|number| post(&handle, id, number)))
    });
    let mut next = [0; 4];
    for _ in 0..EACH * 4 {
        let Event::Number(id, number, worker) = running.next() else {
            panic!("a message comes next");
        };
        let place = clients.iter().position(|(_, of)| *of == id).unwrap();
        assert_eq!(number, next[place]);
        assert_eq!(worker, format!("worker-{}", id.worker()));
        next[place] += 1;
    }
    for thread in threads {
        thread.join().unwrap();
    }
}

#[test]
fn message_to_an_ended_session_is_counted_as_undeliverable() {
    let running = Running::start(2, 4 << 20);
    let (mut client, ended) = running.connect();
    let handle = running.server.handle();
    handle.close(ended);
    client.expect_eof();
    assert!(matches!(running.next(), Event::Disconnected(id, _) if id == ended));
    // The next session of that worker has the same slot.
    let (_clients, later): (Vec<_>, Vec<_>) = (0..2).map(|_| running.connect()).unzip();
    assert!(later.iter().any(|id| id.slot() == ended.slot()));
    for number in 0..10 {
        assert_eq!(handle.post(ended, Number(number)), Ok(()));
    }
    assert_eq!(
        handle.post(SessionId::from_u64(u64::MAX), Number(0)),
        Ok(())
    );
    wait_until("the messages are counted", || {
        handle.metrics().totals().undeliverable == 10
    });
    post(&handle, later[0], 7);
    running.expect_number(later[0], 7);
}

#[test]
fn full_is_an_error_with_the_message_and_holds_up_no_other_worker() {
    let running = Running::start(2, 64 << 10);
    let (_one, stopped) = running.connect();
    let (_other, id) = running.connect();
    assert_ne!(stopped.worker(), id.worker());
    let handle = running.server.handle();
    let (release, stop) = channel();
    assert!(handle.post(stopped, Stop(stop)).is_ok());
    let mut accepted = 0;
    let refused = loop {
        match handle.post(stopped, Number(accepted)) {
            Ok(()) => accepted += 1,
            Err(MailboxFull(refused)) => break refused,
        }
    };
    assert_eq!(refused, Number(accepted));
    // A quarter of the mailbox, 72 bytes each.
    assert!((200..=227).contains(&accepted), "{accepted}");
    assert!(handle.post(stopped, Large(usize::MAX)).is_err());
    post(&handle, id, 1);
    running.expect_number(id, 1);
    drop(release);
    (0..accepted).for_each(|number| running.expect_number(stopped, number));
    post(&handle, stopped, accepted);
    running.expect_number(stopped, accepted);
    wait_until("room for a message of any size", || {
        handle.post(stopped, Large(usize::MAX)).is_ok()
    });
}

#[test]
fn panic_in_on_message_ends_its_session_alone() {
    let running = Running::start(1, 4 << 20);
    let (mut client, id) = running.connect();
    let (_other, other) = running.connect();
    let handle = running.server.handle();
    assert!(handle.post(id, Bug).is_ok());
    client.send(&packet(1, b""));
    client.expect_eof();
    let reason = DisconnectReason::HandlerPanicked;
    assert!(matches!(running.next(), Event::Disconnected(of, why) if (of, why) == (id, reason)));
    post(&handle, other, 1);
    running.expect_number(other, 1);
}
