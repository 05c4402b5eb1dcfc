//! The address that a server listens on.

use crate::util::recorder::{Event, RecorderClient, builder, factory, numbered, start};
use server_core::testing::RawClient;
use server_core::{ListenerKind, Server, TransportKind};
use std::io::ErrorKind;
use std::net::TcpListener;

/// On an address that no other test uses, so that none can take the port in between.
#[cfg(target_os = "linux")]
#[test]
fn try_bind_leaves_the_address_free() {
    let taken = TcpListener::bind("127.0.0.77:0").unwrap();
    let addr = taken.local_addr().unwrap();
    let refused = Server::try_bind(addr).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::AddrInUse);
    drop(taken);
    Server::try_bind(addr).unwrap();
    TcpListener::bind(addr).expect("the try has left it free");
}

#[test]
fn address_in_use_fails_the_start() {
    let running = start(builder());
    let (factory, _events, _) = factory();
    let second = builder().start(running.server.local_addr(), factory);
    assert_eq!(second.unwrap_err().kind(), ErrorKind::AddrInUse);
}

#[test]
fn sessions_of_all_listeners_are_sessions_of_one_server() {
    let running = start(builder().listen(ListenerKind::Tcp, "127.0.0.1:0"));
    let [(first, addr), (second, other)] = *running.server.local_addrs() else {
        panic!("{:?}", running.server.local_addrs());
    };
    assert_eq!((first, second), (TransportKind::Tcp, TransportKind::Tcp));
    assert_eq!(running.server.local_addr(), addr);
    let mut clients = [addr, other].map(RawClient::connect);
    for _ in &clients {
        assert!(matches!(running.next(), Event::Connected(..)));
    }
    running.server.broadcast(&numbered(0, 7), b"to all");
    for client in &mut clients {
        assert_eq!(client.receive_numbered(), (0, 7, b"to all".to_vec()));
    }
}

#[test]
fn start_fails_if_one_of_its_listeners_cannot_be_bound() {
    let running = start(builder());
    let (factory, _events, _) = factory();
    let second = builder().listen(ListenerKind::Tcp, running.server.local_addr());
    let error = second.start("127.0.0.1:0", factory).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AddrInUse);
}
