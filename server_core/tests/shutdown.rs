//! The end of a server, from outside and by one of its own callbacks.

use crate::util::recorder::{RecorderClient, Running, builder, numbered, start};
use server_core::testing::{DEADLINE, RawPacket, wait_until};
use server_core::{Context, DisconnectReason, Kick, Packet, Server, Session};
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, Once};
use std::thread;
use std::time::{Duration, Instant};

#[test]
fn shutdown_flushes_sends_the_close_message_and_joins() {
    let running = start(builder());
    let (mut client, id) = running.connect();
    let handle = running.server.handle();
    let addr = running.server.local_addr();
    assert!(!handle.is_shutting_down());
    for number in 0..100 {
        handle.send_to(id, &numbered(0, number), [3; 500]);
    }
    handle.shutdown(Duration::from_secs(5));
    assert!(handle.is_shutting_down());
    let reader = thread::spawn(move || {
        for number in 0..100 {
            assert_eq!(client.receive_numbered().1, number);
        }
        assert_eq!(client.next_packet(), RawPacket::new(6, [10, 0]));
        client.expect_eof();
    });
    assert_eq!(running.next_departure(), (id, DisconnectReason::Shutdown));
    running.server.join().unwrap();
    reader.join().unwrap();
    assert!(TcpStream::connect(addr).is_err(), "nobody listens any more");
    // A handle that outlives its server is harmless.
    handle.broadcast(&numbered(0, 0), b"");
    handle.send_to(id, &numbered(0, 0), b"");
    handle.close(id);
    handle.shutdown(Duration::ZERO);
    assert_eq!(handle.metrics().totals().sessions, 0);
}

#[test]
fn dropped_server_has_ended_all_its_threads() {
    let running = start(builder());
    let (mut client, _) = running.connect();
    client.echo(b"here");
    let Running { server, events } = running;
    // Each thread of the server holds a sender, in its factory: when all are gone, so are they.
    let began = Instant::now();
    drop(client);
    drop(server);
    while events.recv_timeout(DEADLINE).is_ok() {}
    assert!(matches!(
        events.try_recv(),
        Err(std::sync::mpsc::TryRecvError::Disconnected)
    ));
    assert!(began.elapsed() < DEADLINE);
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Shutdown,
    Join,
    JoinWithoutShutdown,
    Drop,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Factory,
    OnConnected,
    OnPacket,
    OnTimer,
    OnDisconnected,
    CloseMessage,
}

/// Ends its server in one of its own callbacks.
#[derive(Clone)]
struct Ender {
    way: Way,
    place: Place,
    server: Arc<Mutex<Option<Server>>>,
    outcomes: Sender<Option<ErrorKind>>,
    disconnect_log: Sender<DisconnectReason>,
    /// Gone with the last thread.
    _token: Arc<()>,
}

impl Ender {
    fn pass(&self, place: Place) {
        // The lock must be free again: what is dropped here may be the last session.
        let server = || self.server.lock().unwrap().take();
        let Some(server) = (place == self.place).then(server).flatten() else {
            return;
        };
        let handle = server.handle();
        let outcome = match self.way {
            Way::Shutdown => {
                handle.shutdown(Duration::from_secs(1));
                *self.server.lock().unwrap() = Some(server);
                None
            }
            Way::Join => {
                handle.shutdown(Duration::from_secs(1));
                server.join().err()
            }
            Way::JoinWithoutShutdown => server.join().err(),
            Way::Drop => {
                drop(server);
                None
            }
        };
        assert!(handle.is_shutting_down());
        let kind = outcome.map(|error| error.kind());
        self.outcomes.send(kind).unwrap();
    }
}

impl Session for Ender {
    fn on_connected(&mut self, ctx: &mut Context<'_>) {
        self.pass(Place::OnConnected);
        if self.place == Place::OnTimer {
            ctx.set_timer(ctx.now());
        }
    }

    fn on_packet(&mut self, _: &mut Context<'_>, _: Packet<'_>) -> Result<(), Kick> {
        self.pass(Place::OnPacket);
        match self.place {
            Place::OnDisconnected | Place::CloseMessage => Err(Kick::UnknownId),
            _ => Ok(()),
        }
    }

    fn on_timer(&mut self, _: &mut Context<'_>) {
        self.pass(Place::OnTimer);
    }

    fn on_disconnected(&mut self, _: &mut Context<'_>, reason: DisconnectReason) {
        self.pass(Place::OnDisconnected);
        self.disconnect_log.send(reason).unwrap();
    }
}

struct Scene {
    shared: Arc<Mutex<Option<Server>>>,
    token: Arc<()>,
    addr: SocketAddr,
    outcomes: Receiver<Option<ErrorKind>>,
    disconnect_log: Receiver<DisconnectReason>,
}

fn scene(way: Way, place: Place) -> Scene {
    assert_eq!(server_panics(), 0);
    let (shared, token) = (Arc::new(Mutex::new(None)), Arc::new(()));
    let ((outcome, outcomes), (departure, disconnect_log)) = (channel(), channel());
    let ender = Ender {
        way,
        place,
        server: Arc::clone(&shared),
        outcomes: outcome,
        disconnect_log: departure,
        _token: Arc::clone(&token),
    };
    let (for_farewell, for_factory) = (Mutex::new(ender.clone()), Mutex::new(ender));
    // Held until the server is where the callbacks look for it.
    let mut place_for_server = shared.lock().unwrap();
    let server = (Server::builder().workers(2))
        .close_message(move |_| {
            for_farewell.lock().unwrap().pass(Place::CloseMessage);
            Some((numbered(0, 1), ""))
        })
        .start("127.0.0.1:0", move |_| {
            let ender = for_factory.lock().unwrap().clone();
            ender.pass(Place::Factory);
            ender
        })
        .unwrap();
    let addr = server.local_addr();
    *place_for_server = Some(server);
    drop(place_for_server);
    Scene {
        shared,
        token,
        addr,
        outcomes,
        disconnect_log,
    }
}

/// Panics of the servers' own threads, from now on: a callback's is caught, and a detached thread's
/// is seen by no join.
fn server_panics() -> usize {
    static PANICS: AtomicUsize = AtomicUsize::new(0);
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let hook = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            let this = thread::current();
            let name = this.name().unwrap_or_default();
            let is_server = name.starts_with("worker-") || name == "listener";
            PANICS.fetch_add(is_server.into(), Ordering::SeqCst);
            hook(info);
        }));
    });
    PANICS.load(Ordering::SeqCst)
}

/// Reads what is left, and whether the end came as an end.
fn read_to_end(stream: &mut TcpStream) -> std::io::Result<usize> {
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    stream.read_to_end(&mut Vec::new())
}

#[test]
fn shutdown_in_a_callback_succeeds_and_join_is_a_deadlock_error() {
    let ways = [
        Way::Shutdown,
        Way::Join,
        Way::JoinWithoutShutdown,
        Way::Drop,
    ];
    let places = [
        Place::Factory,
        Place::OnConnected,
        Place::OnPacket,
        Place::OnTimer,
        Place::OnDisconnected,
        Place::CloseMessage,
    ];
    for (way, place) in ways
        .into_iter()
        .flat_map(|way| places.map(|place| (way, place)))
    {
        let scene = scene(way, place);
        let mut actor = TcpStream::connect(scene.addr).unwrap();
        actor.write_all(&[4, 0, 1, 0]).unwrap();
        let outcome = scene.outcomes.recv_timeout(DEADLINE);
        let expected = match way {
            Way::Join | Way::JoinWithoutShutdown => Some(ErrorKind::Deadlock),
            Way::Shutdown | Way::Drop => None,
        };
        assert_eq!(outcome, Ok(expected), "{way:?} in {place:?}");
        read_to_end(&mut actor).unwrap();
        drop(actor);
        let reason = scene.disconnect_log.recv_timeout(DEADLINE).unwrap();
        let expected = match place {
            Place::OnDisconnected | Place::CloseMessage => {
                DisconnectReason::Kicked(Kick::UnknownId)
            }
            _ => DisconnectReason::Shutdown,
        };
        assert_eq!(reason, expected, "{way:?} in {place:?}: no callback panics");
        let left = scene.shared.lock().unwrap().take();
        assert_eq!(left.is_some(), way == Way::Shutdown);
        if let Some(server) = left {
            server.join().unwrap();
        }
        wait_until("every thread has ended", || {
            Arc::strong_count(&scene.token) == 1
        });
        let refused = TcpStream::connect(scene.addr).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
        assert_eq!(server_panics(), 0);
    }
}

/// The others of that server see an end, too.
#[test]
fn server_dropped_in_a_callback_ends_all_its_sessions() {
    let scene = scene(Way::Drop, Place::OnPacket);
    let connect = |_| TcpStream::connect(scene.addr).unwrap();
    let mut clients = [0; 6].map(connect);
    clients[0].write_all(&[4, 0, 1, 0]).unwrap();
    for client in &mut clients {
        // What was accepted gets its last packet; what was not is reset with the port.
        let said = read_to_end(client);
        assert!(
            said.is_ok() || said.is_err_and(|error| error.kind() == ErrorKind::ConnectionReset)
        );
    }
    wait_until("every thread has ended", || {
        Arc::strong_count(&scene.token) == 1
    });
    assert_eq!(server_panics(), 0);
}

/// The last owner of a server may be its own factory.
#[test]
fn server_owned_by_its_factory_ends() {
    let scene = scene(Way::Shutdown, Place::OnPacket);
    let Scene {
        shared,
        token,
        addr,
        ..
    } = scene;
    let handle = (shared.lock().unwrap().as_ref())
        .map(Server::handle)
        .unwrap();
    drop(shared);
    handle.shutdown(Duration::ZERO);
    drop(handle);
    wait_until("every thread has ended", || Arc::strong_count(&token) == 1);
    assert!(TcpStream::connect(addr).is_err());
    assert_eq!(server_panics(), 0);
}
