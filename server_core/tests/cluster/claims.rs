//! A node that announces itself writes its logins only over the values that it has compared.

use crate::logins::Setup;
use server_core::SessionId;
use server_core::cluster::broker::{Channel, Reply, Request};
use server_core::cluster::envelope::{Body, Envelope, Incarnation};
use server_core::cluster::link::Event;
use server_core::cluster::logins::Login;

const ACCOUNT: &str = "ada";

fn login(node: u64, stamp: u64) -> Login {
    Login {
        stamp,
        node: Incarnation(node),
        session: SessionId::new(1, 0, node as u32),
    }
}

/// The request of node 1 to write its login of stamp 10 over this login.
fn claim(over: Option<Login>) -> Request {
    let seen = over.map(Login::encode).unwrap_or_default();
    Request::ReplaceLogin(ACCOUNT.into(), seen, login(1, 10).encode())
}

fn value(login: Login) -> Event<'static> {
    Event::Reply(Reply::Value(login.encode()))
}

/// Node 1, which has found this login in its comparison.
fn compared(found: Option<Login>) -> Setup {
    let mut setup = Setup::new();
    setup
        .link
        .login(login(1, 0).session, ACCOUNT, 10, setup.now);
    setup.handle(Event::Connected);
    let mut requests = setup.requests();
    let compare = Request::GetLogins(vec![ACCOUNT.into()]);
    assert_eq!(requests.pop(), Some(compare));
    setup.reply(requests);
    let values = vec![found.map(Login::encode)];
    setup.handle(Event::Reply(Reply::Values(values)));
    assert_eq!(setup.requests(), [claim(found)]);
    setup.link.take_outputs();
    setup
}

fn kick_of(node: u64, stamp: u64) -> Request {
    let body = Body::Kick {
        session: login(node, 0).session,
        stamp,
        is_by_request: false,
        account: ACCOUNT,
    };
    let from = Incarnation(1);
    let kick = Envelope { from, seq: 0, body }.encode();
    Request::Publish(Channel::Node(Incarnation(node)), kick)
}

#[test]
fn older_login_is_replaced_and_ended() {
    let mut setup = compared(Some(login(2, 5)));
    setup.handle(value(login(2, 5)));
    assert_eq!(setup.requests(), [kick_of(2, 10)]);
}

#[test]
fn login_of_the_same_stamp_is_ended_too() {
    let mut setup = compared(Some(login(0, 10)));
    setup.handle(value(login(0, 10)));
    assert_eq!(setup.requests(), [kick_of(0, 11)]);
}

#[test]
fn newer_login_in_between_stays_and_is_compared() {
    let mut setup = compared(None);
    setup.handle(value(login(2, 100)));
    let lease = Request::GetLease(Incarnation(2));
    assert_eq!(setup.requests(), [lease]);
}

#[test]
fn older_login_in_between_is_replaced_by_a_second_claim() {
    let mut setup = compared(Some(login(2, 5)));
    setup.handle(value(login(3, 6)));
    assert_eq!(setup.requests(), [claim(Some(login(3, 6)))]);
    setup.handle(value(login(3, 6)));
    assert_eq!(setup.requests(), [kick_of(3, 10)]);
}

#[test]
fn login_that_is_another_one_meanwhile_leaves_no_key_of_an_ended_session() {
    let mut setup = compared(None);
    setup.link.end_session(login(1, 0).session);
    let ended = Request::DropLogin(ACCOUNT.into(), login(1, 10).encode());
    assert_eq!(setup.requests(), [ended]);
}
