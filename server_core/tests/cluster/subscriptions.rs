//! The subscriptions of a link follow the members of its groups.

use crate::logins::Setup;
use server_core::GroupId;
use server_core::cluster::link::Event;

fn up() -> Setup {
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
