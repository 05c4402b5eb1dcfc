//! The address that a server listens on.

use crate::util::recorder::{builder, factory, start};
use server_core::Server;
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
