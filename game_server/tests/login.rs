//! `--login`: which packets come before a login, how many logins a session has, and when they are answered. The
//! broker of these tests is away: each login is granted without it.

use crate::util::*;
use game_server::GameSession;
use game_server::game::world::World;
use game_server::packets::SBye;
use server_core::cluster::Cluster;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

const C_LOGIN: u16 = 8;
const S_LOGIN: u16 = 9;
const UNKNOWN_ID: u16 = 3;
const RATE_LIMIT: u16 = 7;
const NO_BROKER: &str = "unix:///nonexistent/redis.sock";

fn connect(addr: SocketAddr) -> RawClient {
    RawClient::connect(addr).with_known_ids(&[S_HELLO, S_ECHO, S_CHAT, S_BYE, S_LOGIN])
}

fn start(flags: &[&str]) -> Server {
    Server::start_quiet(&[&["--cluster", NO_BROKER, "--login"], flags].concat())
}

/// Fails unless the next packet is the answer of a node whose broker is away.
#[track_caller]
fn expect_login(client: &mut RawClient) {
    let answer = client.next_packet();
    assert_eq!(
        (answer.id, answer.payload[0]),
        (S_LOGIN, 2),
        "granted without the broker"
    );
}

#[track_caller]
fn expect_bye(client: &mut RawClient, code: u16) {
    loop {
        let packet = client.next_packet();
        if packet.id == S_BYE {
            assert_eq!(packet.payload[..2], code.to_le_bytes());
            return client.expect_eof();
        }
    }
}

#[test]
fn session_that_has_not_logged_in_may_send_nothing_else() {
    let server = start(&[]);
    for id in [C_ECHO, C_CHAT] {
        let mut client = connect(server.addr);
        client.send_packet(id, "hi");
        expect_bye(&mut client, UNKNOWN_ID);
    }
    let mut client = connect(server.addr);
    client.send_packet(C_LOGIN, "ada");
    expect_login(&mut client);
    client.send_packet(C_ECHO, "hi");
    assert_eq!(client.next_packet().id, S_ECHO);
}

#[test]
fn flood_of_logins_ends_its_session_and_no_other() {
    let server = start(&["--workers", "1"]);
    let mut other = connect(server.addr);
    other.send_packet(C_LOGIN, "bob");
    expect_login(&mut other);
    let mut client = connect(server.addr);
    let flood: Vec<u8> = (0..1000)
        .flat_map(|number| packet(C_LOGIN, format!("ada-{number}").as_bytes()))
        .collect();
    client.send(&flood);
    expect_bye(&mut client, RATE_LIMIT);
    other.send_packet(C_LOGIN, "eve");
    expect_login(&mut other);
}

#[test]
fn silent_session_gets_login_timeout() {
    let server = start(&["--login-timeout-ms", "300"]);
    let mut silent = connect(server.addr);
    expect_bye(&mut silent, 12);
}

/// The server accepts connections before it enters the cluster.
#[test]
fn login_before_the_server_is_in_the_cluster_waits_for_it() {
    let world = World::new(true);
    let of_sessions = Arc::clone(&world);
    let server = server_core::Server::builder()
        .close_message_with_text(SBye::close_message)
        .start("127.0.0.1:0", move |_peer| {
            GameSession::new(None)
                .with_login(true)
                .in_world(Some(Arc::clone(&of_sessions)))
        })
        .unwrap();
    let mut client = connect(server.local_addr());
    client.send_packet(C_LOGIN, "ada");
    let metrics = server.handle();
    wait_until("the login to be handled", DEADLINE, || {
        metrics.metrics().totals().packets_received == 1
    });
    let cluster = Cluster::builder(NO_BROKER).start(&server.handle()).unwrap();
    world.enter(cluster);
    expect_login(&mut client);
    client.send_packet(C_ECHO, "hi");
    assert_eq!(client.next_packet().id, S_ECHO);
    world.leave();
    server.handle().shutdown(Duration::ZERO);
    server.join().unwrap();
}
