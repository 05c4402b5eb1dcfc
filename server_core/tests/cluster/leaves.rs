//! What messages of nodes that leave cost the link.

use crate::logins::Setup;
use server_core::SessionId;
use server_core::cluster::broker::{Channel, Request};
use server_core::cluster::envelope::{Body, Envelope, Heartbeat, Incarnation};
use server_core::cluster::link::Event;

const LOGINS: u32 = 2_000;

fn hear(setup: &mut Setup, from: u64, body: Body<'_>) {
    let from = Incarnation(from);
    let message = Envelope { from, seq: 0, body }.encode();
    let channel = Channel::Nodes.to_string();
    setup.handle(Event::Message(channel.as_bytes(), &message));
}

/// A node with logins and 100 other nodes.
fn setup() -> Setup {
    let mut setup = Setup::new();
    for number in 0..LOGINS {
        let session = SessionId::new(1, 0, number);
        setup
            .link
            .login(session, &format!("account-{number}"), 1, setup.now);
    }
    setup.handle(Event::Connected);
    for node in 100..200 {
        hear(&mut setup, node, Body::Heartbeat(Heartbeat::default()));
    }
    setup
}

/// Serves all requests, and returns how many accounts were compared.
fn compared(setup: &mut Setup) -> usize {
    let mut compared = 0;
    for _ in 0..20 {
        let requests = setup.requests();
        for request in &requests {
            if let Request::GetLogins(accounts) = request {
                compared += accounts.len();
            }
        }
        setup.reply(requests);
    }
    compared
}

#[test]
fn node_that_leaves_is_one_comparison_and_an_unknown_or_late_one_is_none() {
    let mut setup = setup();
    assert_eq!(compared(&mut setup), LOGINS as usize);
    assert!(setup.link.is_up());
    for _ in 0..3 {
        hear(&mut setup, 7, Body::Leave);
    }
    assert_eq!(compared(&mut setup), 0, "that node was not there");
    hear(&mut setup, 100, Body::Leave);
    assert_eq!(compared(&mut setup), LOGINS as usize);
    hear(&mut setup, 100, Body::Leave);
    assert_eq!(compared(&mut setup), 0, "it has left before");
}

#[test]
fn nodes_that_leave_during_a_comparison_are_one_more_and_do_not_hold_the_link_up() {
    let mut setup = setup();
    let mut total = 0;
    // One leaves in each round trip.
    for node in 100..200 {
        hear(&mut setup, node, Body::Leave);
        let requests = setup.requests();
        for request in &requests {
            if let Request::GetLogins(accounts) = request {
                total += accounts.len();
            }
        }
        setup.reply(requests);
        if node == 120 {
            assert!(
                setup.link.is_up(),
                "the comparison was begun anew each time"
            );
        }
    }
    total += compared(&mut setup);
    let rounds = (LOGINS as usize).div_ceil(512);
    assert!(total <= LOGINS as usize * (100 / rounds + 2), "{total}");
    assert!(setup.link.is_up());
}
