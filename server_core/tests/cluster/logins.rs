//! The logins of one session cost the link one request at a time, and a link that is down nothing.

use server_core::SessionId;
use server_core::cluster::broker::{Channel, Reply, Request};
use server_core::cluster::envelope::{Body, Envelope, Heartbeat, Incarnation};
use server_core::cluster::link::{Command, Event, LOGIN_TIMEOUT, Link, LinkConfig, Output};
use server_core::cluster::logins::Login;
use server_core::cluster::{AccountSession, ClusterMetrics, LoginAnswer, Why};
use server_core::routing::link::Audience;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, TryRecvError};
use std::time::Instant;

const PACKET: [u8; 4] = [4, 0, 7, 0];

pub struct Setup {
    pub link: Link,
    pub metrics: Arc<ClusterMetrics>,
    connection: u64,
    pub now: Instant,
}

impl Setup {
    pub fn new() -> Self {
        let config = LinkConfig {
            name: "a".into(),
            incarnation: Incarnation(1),
            seed: 1,
        };
        let now = Instant::now();
        let metrics = Arc::<ClusterMetrics>::default();
        let mut link = Link::new(config, Arc::clone(&metrics), now);
        link.tick(now);
        let [Command::Connect(connection)] = link.take_commands()[..] else {
            panic!("no connect");
        };
        Self {
            link,
            metrics,
            connection,
            now,
        }
    }

    pub fn handle(&mut self, event: Event<'_>) {
        self.link.handle(self.connection, event, self.now);
    }

    pub fn requests(&mut self) -> Vec<Request> {
        let commands = self.link.take_commands().into_iter();
        let requests = commands.filter_map(|command| match command {
            Command::Send(request) => Some(request),
            _ => None,
        });
        requests.collect()
    }

    /// Replies to requests, and returns the probes' messages to their sender.
    pub fn reply(&mut self, requests: Vec<Request>) {
        for request in requests {
            let reply = match &request {
                Request::GetLogins(accounts) => Reply::Values(vec![None; accounts.len()]),
                _ => Reply::Done,
            };
            self.handle(Event::Reply(reply));
            if let Request::Publish(channel, message) = &request {
                let channel = channel.to_string();
                self.handle(Event::Message(channel.as_bytes(), message));
            }
        }
    }

    pub fn is_up_after(&mut self, rounds: usize) -> bool {
        for _ in 0..rounds {
            let requests = self.requests();
            self.reply(requests);
        }
        self.link.is_up()
    }

    fn login(&mut self, number: usize) {
        let session = SessionId::new(1, 0, 0);
        let account = format!("account-{number}");
        self.link.login(session, &account, 1, self.now);
    }
}

/// Finds an account, whose key at the broker is this login.
fn find(setup: &mut Setup, account: &str, key: Option<Login>) -> Receiver<Option<AccountSession>> {
    let (sender, receiver) = mpsc::sync_channel(1);
    setup.link.find_session(account, sender);
    for request in setup.requests() {
        assert_eq!(request, Request::GetLogins(vec![account.into()]));
        assert_eq!(receiver.try_recv(), Err(TryRecvError::Empty));
        setup.handle(Event::Reply(Reply::Values(vec![key.map(Login::encode)])));
    }
    receiver
}

fn logins(requests: &[Request]) -> usize {
    let is_login =
        |request: &&Request| matches!(request, Request::SetLogin(..) | Request::DropLogin(..));
    requests.iter().filter(is_login).count()
}

#[test]
fn flood_of_one_session_is_one_request_at_a_time_and_packets_go_on() {
    let mut setup = Setup::new();
    setup.handle(Event::Connected);
    assert!(setup.is_up_after(20));
    let _ = setup.requests();
    for number in 0..20_000 {
        setup.login(number);
    }
    setup.link.publish(Audience::All, &PACKET, setup.now);
    let requests = setup.requests();
    assert_eq!(logins(&requests), 1, "the first login alone");
    assert!(matches!(requests.last(), Some(Request::Publish(..))));
    setup.reply(requests);
    // The newest login follows, and the session leaves the first account.
    let requests = setup.requests();
    assert_eq!(logins(&requests), 2, "{requests:?}");
    setup.reply(requests);
    let session = SessionId::new(1, 0, 0);
    let answer = Output::Answer(session, LoginAnswer::Granted);
    let answers = setup.link.take_outputs();
    assert_eq!(answers, [answer.clone(), answer]);
    assert_eq!(setup.link.local_login("account-19999"), Some(session));
    assert_eq!(setup.link.local_login("account-0"), None);
}

/// The thread of the ticks may be in a write to a broker that takes no bytes.
#[test]
fn login_that_waits_for_too_long_is_answered_by_whatever_comes_next() {
    let mut setup = Setup::new();
    setup.handle(Event::Connected);
    assert!(setup.is_up_after(20));
    setup.login(1);
    setup.now += LOGIN_TIMEOUT;
    setup.link.publish(Audience::All, &PACKET, setup.now);
    let answer = Output::Answer(SessionId::new(1, 0, 0), LoginAnswer::Unsure);
    assert_eq!(setup.link.take_outputs(), [answer]);
}

#[test]
fn flood_while_the_link_is_down_or_begins_leaves_nothing_behind() {
    let mut setup = Setup::new();
    for number in 0..20_000 {
        setup.login(number);
    }
    assert_eq!(setup.link.accounts_to_compare(), 0);
    setup.handle(Event::Connected);
    for round in 0..20 {
        for number in 0..1_000 {
            setup.login(round * 1_000 + number);
        }
        assert!(setup.link.accounts_to_compare() <= 1);
        let requests = setup.requests();
        setup.reply(requests);
    }
    assert!(setup.link.is_up(), "the flood does not hold the link up");
}

#[test]
fn account_is_found_on_its_node_and_a_void_key_is_no_session() {
    let mut setup = Setup::new();
    setup.handle(Event::Connected);
    assert!(setup.is_up_after(20));
    setup.login(1);
    assert!(setup.is_up_after(20));
    let local = find(&mut setup, "account-1", None).try_recv();
    let local = local
        .unwrap()
        .expect("a login of this node needs no broker");
    assert_eq!(
        (&*local.node_name, local.session),
        ("a", SessionId::new(1, 0, 0))
    );

    let (node, session) = (Incarnation(2 << 32), SessionId::new(7, 1, 3));
    let stamp = 5;
    let key = Login {
        stamp,
        node,
        session,
    };
    assert_eq!(find(&mut setup, "bob", None).try_recv(), Ok(None));
    let of_killed = find(&mut setup, "bob", Some(key));
    assert_eq!(of_killed.try_recv(), Ok(None), "its node is not there");
    let heartbeat = Heartbeat {
        name: "b",
        ..Heartbeat::default()
    };
    let (seq, body) = (0, Body::Heartbeat(heartbeat));
    let message = Envelope {
        from: node,
        seq,
        body,
    }
    .encode();
    let channel = Channel::Nodes.to_string();
    setup.handle(Event::Message(channel.as_bytes(), &message));
    let found = find(&mut setup, "bob", Some(key))
        .try_recv()
        .unwrap()
        .unwrap();
    assert_eq!((&*found.node_name, found.session), ("b", session));
    assert_eq!(found.node.to_u32(), 2);
    let own = Login {
        node: Incarnation(1),
        ..key
    };
    let ended = find(&mut setup, "bob", Some(own));
    assert_eq!(
        ended.try_recv(),
        Ok(None),
        "a session of this node has ended"
    );
}

#[test]
fn search_without_the_link_ends_and_one_of_this_node_is_answered() {
    let mut setup = Setup::new();
    setup.handle(Event::Connected);
    assert!(setup.is_up_after(20));
    let queued = setup.link.queued_bytes();
    let (sender, receiver) = mpsc::sync_channel(1);
    setup.link.find_session("bob", sender);
    assert!(setup.link.queued_bytes() > queued, "searches are bounded");
    setup.handle(Event::Lost);
    assert_eq!(receiver.try_recv(), Err(TryRecvError::Disconnected));
    assert_eq!(setup.link.queued_bytes(), queued);
    assert_eq!(
        setup.metrics.dropped(Why::LinkDown),
        0,
        "a search counts as a packet"
    );
    let _ = setup.requests();
    let down = find(&mut setup, "bob", None);
    assert_eq!(down.try_recv(), Err(TryRecvError::Disconnected));
    setup.login(1);
    assert!(
        find(&mut setup, "account-1", None)
            .try_recv()
            .unwrap()
            .is_some()
    );
}
