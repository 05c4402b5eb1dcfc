//! A packet, or a kick, for the session of an account on another node: one that reaches no session is counted.

use crate::logins::Setup;
use server_core::SessionId;
use server_core::cluster::Why;
use server_core::cluster::broker::{Channel, Reply, Request};
use server_core::cluster::envelope::{Body, Envelope, Incarnation};
use server_core::cluster::link::Event;
use server_core::cluster::logins::Login;

const PACKET: [u8; 4] = [4, 0, 7, 0];
const OWN: Incarnation = Incarnation(1);

fn up() -> Setup {
    let mut setup = Setup::new();
    setup.handle(Event::Connected);
    assert!(setup.is_up_after(20));
    let _ = setup.requests();
    setup
}

fn no_session(setup: &Setup) -> u64 {
    setup.metrics.dropped(Why::NoSession)
}

#[test]
fn packet_or_kick_to_an_account_without_a_session_is_counted() {
    let mut setup = up();
    let of_node = |node| Login {
        stamp: 5,
        node: Incarnation(node),
        session: SessionId::new(1, 0, 9),
    };
    let mut counted = 0;
    for is_kick in [false, true] {
        // No key; a session of this node that has ended; a node that has ended.
        for (key, subscribers) in [
            (None, None),
            (Some(1), None),
            (Some(2), Some(0)),
            (Some(2), Some(1)),
        ] {
            if is_kick {
                setup.link.kick("ada");
            } else {
                setup.link.tell("ada", &PACKET);
            }
            assert_eq!(setup.requests(), [Request::GetLogins(vec!["ada".into()])]);
            let key = key.map(|node| of_node(node).encode());
            setup.handle(Event::Reply(Reply::Values(vec![key])));
            let requests = setup.requests();
            assert_eq!(requests.len(), usize::from(subscribers.is_some()));
            if let Some(subscribers) = subscribers {
                let to_node = matches!(
                    requests[0],
                    Request::Publish(Channel::Node(Incarnation(2)), _)
                );
                assert!(to_node, "{requests:?}");
                setup.handle(Event::Reply(Reply::Count(subscribers)));
            }
            counted += u64::from(subscribers != Some(1));
            assert_eq!(no_session(&setup), counted);
        }
    }
}

#[test]
fn packet_or_kick_that_finds_its_session_ended_is_counted() {
    let mut setup = up();
    let (session, account) = (SessionId::new(1, 0, 9), "ada");
    let tell = Body::Tell {
        session,
        account,
        packet: &PACKET,
    };
    let kick = |is_by_request| Body::Kick {
        session,
        stamp: 9,
        is_by_request,
        account,
    };
    // The kick of an older login counts no drop. The link reads the key that named the session, and deletes it.
    for (body, counted) in [(tell, 1), (kick(true), 2), (kick(false), 2)] {
        let before = no_session(&setup);
        let from = Incarnation(2);
        let message = Envelope { from, seq: 0, body }.encode();
        let channel = Channel::Node(OWN).to_string();
        setup.handle(Event::Message(channel.as_bytes(), &message));
        assert_eq!(no_session(&setup), counted);
        let requests = setup.requests();
        if counted == before {
            assert_eq!(requests, []);
            continue;
        }
        assert_eq!(requests, [Request::GetLogins(vec![account.into()])]);
        let (stamp, node) = (5, OWN);
        let ended = Login {
            stamp,
            node,
            session,
        };
        let key = ended.encode();
        setup.handle(Event::Reply(Reply::Values(vec![Some(key.clone())])));
        assert_eq!(setup.requests(), [Request::DropLogin(account.into(), key)]);
        setup.handle(Event::Reply(Reply::Count(1)));
    }
}
