//! A kick of an older login ends that login, and no other.

use server_core::cluster::ClusterMetrics;
use server_core::cluster::broker::Channel;
use server_core::cluster::envelope::{Body, Envelope, Incarnation};
use server_core::cluster::link::{Command, Event, Link, LinkConfig, Output};
use server_core::{DisconnectReason, SessionId};
use std::sync::Arc;
use std::time::Instant;

const OWN: Incarnation = Incarnation(1);

#[test]
fn late_kick_ends_no_newer_login() {
    let now = Instant::now();
    let config = LinkConfig {
        name: "a".into(),
        incarnation: OWN,
        seed: 1,
    };
    let mut link = Link::new(config, Arc::<ClusterMetrics>::default(), now);
    link.tick(now);
    let [Command::Connect(connection)] = link.take_commands()[..] else {
        panic!("no connect");
    };
    link.handle(connection, Event::Connected, now);
    let [older, newer] = [1, 2].map(|slot| SessionId::new(1, 0, slot));
    link.login(older, "ada", 100, now);
    link.login(newer, "ada", 200, now);
    link.take_outputs();
    let mut closed_by = |channel: Channel, session, stamp, account| {
        let body = Body::Kick {
            session,
            stamp,
            is_by_request: false,
            account,
        };
        let from = Incarnation(2);
        let message = Envelope { from, seq: 0, body }.encode();
        let channel = channel.to_string();
        link.handle(
            connection,
            Event::Message(channel.as_bytes(), &message),
            now,
        );
        link.take_outputs()
    };
    let own = Channel::Node(OWN);
    // The kick of the older session is late; a stamp of the same login, or an earlier one, is not newer.
    assert_eq!(closed_by(own, older, 150, "ada"), []);
    assert_eq!(closed_by(own, older, 300, "ada"), []);
    assert_eq!(closed_by(own, newer, 200, "ada"), []);
    assert_eq!(closed_by(own, newer, 300, "bob"), []);
    assert_eq!(closed_by(Channel::Nodes, older, 200, "ada"), []);
    let close = Output::Close(newer, DisconnectReason::LoggedInElsewhere);
    assert_eq!(closed_by(own, newer, 201, "ada"), [close]);
    assert_eq!(closed_by(own, newer, 300, "ada"), [], "once");
}
