//! A login that this node has overwritten, though it is newer, is written back, and no third login is overwritten.

use crate::logins::Setup;
use server_core::cluster::broker::{Channel, Reply, Request};
use server_core::cluster::envelope::{Body, Envelope, Incarnation};
use server_core::cluster::link::{Event, Output};
use server_core::cluster::logins::Login;
use server_core::{DisconnectReason, SessionId};
use std::time::Duration;

const ACCOUNT: &str = "ada";

fn login(node: u64, stamp: u64) -> Login {
    Login {
        stamp,
        node: Incarnation(node),
        session: SessionId::new(1, 0, node as u32),
    }
}

/// A node that has claimed the account by a login of stamp 10, and learns that a login of stamp 100 of node 2 was
/// its key meanwhile. Returns the request that writes it back.
fn overwritten() -> (Setup, Request) {
    let mut setup = Setup::new();
    setup
        .link
        .login(login(1, 0).session, ACCOUNT, 10, setup.now);
    setup.handle(Event::Connected);
    let mut requests = setup.requests();
    assert_eq!(
        requests.pop(),
        Some(Request::GetLogins(vec![ACCOUNT.into()]))
    );
    setup.reply(requests);
    setup.handle(Event::Reply(Reply::Values(vec![None])));
    let claim = Request::SetLogin(ACCOUNT.into(), login(1, 10).encode());
    assert_eq!(setup.requests(), [claim]);
    setup.link.take_outputs();
    setup.handle(Event::Reply(Reply::Value(login(2, 100).encode())));
    let lost = Output::Close(login(1, 0).session, DisconnectReason::LoggedInElsewhere);
    assert_eq!(setup.link.take_outputs(), [lost]);
    let mut requests = setup.requests();
    let request = requests.remove(0);
    assert_eq!(requests, []);
    (setup, request)
}

#[test]
fn newer_login_is_written_back_where_the_key_is_still_of_this_node() {
    let (mut setup, request) = overwritten();
    let (from, to) = (login(1, 10).encode(), login(2, 100).encode());
    assert_eq!(
        request,
        Request::ReplaceLogin(ACCOUNT.into(), from.clone(), to)
    );
    setup.handle(Event::Reply(Reply::Value(from)));
    assert_eq!(setup.requests(), []);
}

#[test]
fn third_login_in_between_stays_and_ends_the_one_that_its_node_does_not_know() {
    let (mut setup, _) = overwritten();
    // Node 3 has overwritten the login of this node, so its stamp is above 10 alone.
    setup.handle(Event::Reply(Reply::Value(login(3, 11).encode())));
    let body = Body::Kick {
        session: login(2, 0).session,
        stamp: 101,
        is_by_request: false,
        account: ACCOUNT,
    };
    let from = Incarnation(1);
    let kick = Envelope { from, seq: 0, body }.encode();
    let channel = Channel::Node(Incarnation(2));
    assert_eq!(setup.requests(), [Request::Publish(channel, kick)]);
}

#[test]
fn login_that_could_not_be_written_back_leaves_no_key_of_this_node() {
    let (mut setup, _) = overwritten();
    setup.handle(Event::Reply(Reply::Error));
    assert_eq!(setup.requests(), [Request::GetLogins(vec![ACCOUNT.into()])]);
    let mine = login(1, 10).encode();
    setup.handle(Event::Reply(Reply::Values(vec![Some(mine.clone())])));
    assert_eq!(setup.requests(), [Request::DropLogin(ACCOUNT.into(), mine)]);
    setup.now += Duration::from_millis(1);
    setup.handle(Event::Reply(Reply::Done));
    assert_eq!(setup.requests(), []);
}
