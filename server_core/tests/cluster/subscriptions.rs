//! The subscriptions of a link follow the members of its groups.

use crate::logins::Setup;
use server_core::GroupId;
use server_core::cluster::Why;
use server_core::cluster::broker::{Channel, Reply, Request};
use server_core::cluster::link::Event;
use std::time::Duration;

pub fn up() -> Setup {
    let mut setup = Setup::new();
    setup.handle(Event::Connected);
    assert!(setup.is_up_after(20));
    let _ = setup.requests();
    setup
}

#[test]
fn groups_that_come_and_go_while_the_broker_hangs_wait_for_nothing() {
    let mut setup = up();
    let now = setup.now;
    // The subscriptions of these fill the window.
    for number in 0..2_000 {
        let group = GroupId::new(1, number);
        setup.link.change_members(group, true, now);
    }
    let waiting = setup.link.groups_to_settle();
    assert!(waiting < 2_000, "the first ones are at the broker");
    for number in 2_000..22_000 {
        let group = GroupId::new(1, number);
        setup.link.change_members(group, true, now);
        setup.link.change_members(group, false, now);
    }
    assert_eq!(setup.link.groups_to_settle(), waiting);
}

#[test]
fn subscription_that_the_broker_refuses_is_counted_and_tried_again() {
    let mut setup = up();
    let group = GroupId::new(1, 7);
    let subscribe = Request::Subscribe(Channel::Group(group));
    setup.link.change_members(group, true, setup.now);
    assert_eq!(setup.requests(), std::slice::from_ref(&subscribe));
    setup.handle(Event::Reply(Reply::Error));
    assert_eq!(setup.metrics.dropped(Why::Refused), 1);
    assert_eq!(setup.requests(), [], "not at once");
    let mut tried = 0;
    for _ in 0..10 {
        setup.now += Duration::from_secs(1);
        setup.link.tick(setup.now);
        let requests = setup.requests();
        tried += requests.iter().filter(|one| **one == subscribe).count();
        setup.reply(requests);
    }
    assert_eq!(tried, 1, "within five heartbeats, and then it is there");
    assert!(setup.link.is_up());
}
