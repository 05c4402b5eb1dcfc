//! A server without a listener, whose sessions are outgoing connections.

use crate::util::recorder::{Event, RecorderClient, builder, factory};
use server_core::connection::admission::Admission;
use server_core::routing::mailbox::Mailbox;
use server_core::routing::router::Router;
use server_core::runtime::connector::Connector;
use server_core::testing::{DEADLINE, RawClient, refusing_port};
use server_core::{
    ByteOrder, Context, DisconnectReason, Framing, IdField, Kick, LengthCounts, LengthField,
    Packet, Server, Session,
};
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, TcpListener};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

/// (lecture row 23)
#[test]
fn outgoing_connection_is_a_session_with_its_tag() {
    let there = TcpListener::bind("127.0.0.1:0").unwrap();
    let (factory, events, _) = factory();
    let client = builder().start_client(factory).unwrap();
    client
        .handle()
        .connect(there.local_addr().unwrap(), 77)
        .unwrap();
    let (stream, _) = there.accept().unwrap();
    let mut peer = RawClient::from_stream(stream);
    let connected = events.recv_timeout(DEADLINE).unwrap();
    assert!(
        matches!(connected, Event::Connected(_, Some(77), _)),
        "{connected:?}"
    );
    peer.echo(b"round");
    assert!(matches!(
        events.recv_timeout(DEADLINE).unwrap(),
        Event::Packet(..)
    ));
    drop(peer);
    let left = events.recv_timeout(DEADLINE).unwrap();
    assert!(
        matches!(
            left,
            Event::Disconnected(_, Some(77), DisconnectReason::PeerClosed, _)
        ),
        "{left:?}"
    );
}

#[test]
fn refused_connection_is_reported_once_as_connect_failed() {
    let (_port, addr) = refusing_port();
    let (factory, events, _) = factory();
    let client = builder().start_client(factory).unwrap();
    client.handle().connect(addr, 5).unwrap();
    let refused = DisconnectReason::ConnectFailed(ErrorKind::ConnectionRefused);
    let told = events.recv_timeout(DEADLINE).unwrap();
    assert!(
        matches!(told, Event::Disconnected(_, Some(5), reason, _) if reason == refused),
        "{told:?}"
    );
    client.handle().shutdown(Duration::ZERO);
    client.join().unwrap();
    assert!(events.recv().is_err(), "and nothing else");
}

#[test]
fn client_of_another_framing_exchanges_packets_and_ends_at_a_length_above_the_limit() {
    let framing = Framing {
        length: LengthField::U32,
        byte_order: ByteOrder::BigEndian,
        length_counts: LengthCounts::IdAndPayload,
        id: IdField::U8,
        max_frame_bytes: 1_000,
    };
    let there = TcpListener::bind("127.0.0.1:0").unwrap();
    let (factory, events, _) = factory();
    let client = builder().client_framing(framing).start_client(factory);
    let client = client.unwrap();
    let addr = there.local_addr().unwrap();
    client.handle().connect(addr, 7).unwrap();
    let (mut stream, _) = there.accept().unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    stream.set_nodelay(true).unwrap();
    let connected = events.recv_timeout(DEADLINE).unwrap();
    assert!(matches!(connected, Event::Connected(..)), "{connected:?}");
    // Cut inside of a header and inside of a payload.
    for piece in [&b"\0\0"[..], b"\0\x04\x02ab", b"c\0\0\0\x01\x02"] {
        stream.write_all(piece).unwrap();
    }
    for _ in 0..2 {
        let packet = events.recv_timeout(DEADLINE).unwrap();
        assert!(matches!(packet, Event::Packet(..)), "{packet:?}");
    }
    let mut answers = [0; 13];
    stream.read_exact(&mut answers).unwrap();
    assert_eq!(&answers, b"\0\0\0\x04\x03abc\0\0\0\x01\x03");
    stream.write_all(&1_001_u32.to_be_bytes()).unwrap();
    stream.write_all(&[2]).unwrap();
    let left = events.recv_timeout(DEADLINE).unwrap();
    let reason = DisconnectReason::from(Kick::TooLarge);
    assert!(
        matches!(left, Event::Disconnected(_, _, told, _) if told == reason),
        "{left:?}"
    );
}

/// All of 127.0.0.0/8 is this machine on Linux; elsewhere 127.0.0.1 alone may be.
#[cfg(target_os = "linux")]
#[test]
fn source_address_is_the_peer_address_of_the_connection() {
    let there = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = there.local_addr().unwrap();
    let (factory, events, _) = factory();
    let client = builder().start_client(factory).unwrap();
    for (tag, source) in [(1, "127.0.0.2"), (2, "127.0.0.3"), (3, "127.0.0.1")] {
        let source: IpAddr = source.parse().unwrap();
        (client.handle().connect_from(Some(source), addr, tag)).unwrap();
        let (stream, peer) = there.accept().unwrap();
        assert_eq!(peer.ip(), source);
        let connected = events.recv_timeout(DEADLINE).unwrap();
        assert!(
            matches!(connected, Event::Connected(_, told, _) if told == Some(tag)),
            "{connected:?}"
        );
        drop(stream);
        let left = events.recv_timeout(DEADLINE).unwrap();
        assert!(matches!(left, Event::Disconnected(..)), "{left:?}");
    }
}

#[test]
fn invalid_source_address_is_an_error_without_a_session() {
    let there = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = there.local_addr().unwrap();
    let (factory, events, _) = factory();
    let client = builder().start_client(factory).unwrap();
    // The first is reserved for documentation, so no machine has it; the second is of another family.
    for source in ["192.0.2.1", "::1"] {
        let source: IpAddr = source.parse().unwrap();
        assert!(client.handle().connect_from(Some(source), addr, 1).is_err());
    }
    client.handle().shutdown(Duration::ZERO);
    client.join().unwrap();
    assert!(events.recv().is_err(), "no session came of it");
}

struct Told(Sender<DisconnectReason>);

impl Session for Told {
    fn on_packet(&mut self, _: &mut Context<'_>, _: Packet<'_>) -> Result<(), Kick> {
        Ok(())
    }

    fn on_disconnected(&mut self, _: &mut Context<'_>, reason: DisconnectReason) {
        self.0.send(reason).unwrap();
    }
}

#[test]
fn connect_during_shutdown_is_an_error_or_a_session_that_disconnects() {
    let there = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = there.local_addr().unwrap();
    for round in 0..100 {
        let (tell, told) = channel();
        let sessions = Mutex::new(tell);
        let server = (Server::builder().workers(2))
            .start_client(move |_| Told(sessions.lock().unwrap().clone()))
            .unwrap();
        let (handle, (begin, begun)) = (server.handle(), channel());
        let connecting = thread::spawn(move || {
            (1..10_000)
                .take_while(|number| match handle.connect(addr, *number) {
                    Ok(()) => {
                        let _ = begin.send(());
                        true
                    }
                    Err(error) => {
                        assert_eq!(error.kind(), ErrorKind::NotConnected, "{error}");
                        false
                    }
                })
                .count()
        });
        (0..round % 4).for_each(|_| begun.recv_timeout(DEADLINE).unwrap());
        server.handle().shutdown(Duration::ZERO);
        server.join().unwrap();
        let connections = connecting.join().unwrap();
        assert!(connections < 9_999, "an ended server goes on connecting");
        assert_eq!(told.iter().count(), connections, "round {round}");
    }
}

/// The server's own flag is seen by most callers; here a worker ends without it.
#[test]
fn connect_to_an_ended_worker_releases_its_permit() {
    let there = TcpListener::bind("127.0.0.1:0").unwrap();
    let admission = Arc::new(Admission::new(1, None, None));
    let router = Arc::new(Router::new([Mailbox::new(1 << 20, || {})]));
    let connector = Connector::new(Arc::clone(&admission), Arc::clone(&router));
    let addr = there.local_addr().unwrap();
    connector.connect_from(None, addr, 1).unwrap();
    assert_eq!(admission.total(), 1);
    router.mailbox(0).close();
    assert_eq!(admission.total(), 0);
    let error = connector.connect_from(None, addr, 2).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotConnected);
    assert_eq!(admission.total(), 0);
}
