//! The logins of one session cost the link one request at a time, and a link that is down nothing.

use server_core::SessionId;
use server_core::cluster::broker::{Reply, Request};
use server_core::cluster::envelope::Incarnation;
use server_core::cluster::link::{Command, Event, Link, LinkConfig, Output};
use server_core::cluster::{ClusterMetrics, LoginAnswer};
use server_core::routing::link::Audience;
use std::sync::Arc;
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
