//! The users of a run against a network of the test, in virtual time.

use super::*;
use std::collections::VecDeque;

/// Records what the users want of the network.
#[derive(Debug, Default)]
pub struct FakeNetwork {
    /// Users whose connection is under way.
    pub begun: Vec<usize>,
    /// Sessions that the run has closed.
    pub closed: Vec<SessionId>,
    /// What the next connects end with; without one, they begin.
    pub errors: VecDeque<io::Error>,
}

impl Endpoint for FakeNetwork {
    fn connect(&mut self, user: usize, _: Instant) -> io::Result<()> {
        if let Some(error) = self.errors.pop_front() {
            return Err(error);
        }
        self.begun.push(user);
        Ok(())
    }

    fn close(&mut self, id: SessionId) {
        self.closed.push(id);
    }
}

impl Default for UserSettings {
    fn default() -> Self {
        Self {
            addr: "192.0.2.1:7777".into(),
            churn: None,
            reconnect: false,
            seed: 1,
        }
    }
}

/// Users, their network, and the time.
struct Load {
    users: Users,
    network: FakeNetwork,
    start: Instant,
    now: Instant,
}

const MS: Duration = Duration::from_millis(1);

impl Load {
    fn new(count: usize, settings: UserSettings) -> Self {
        let start = Instant::now();
        Self {
            users: Users::new(count, settings),
            network: FakeNetwork::default(),
            start,
            now: start,
        }
    }

    fn reconnecting(count: usize) -> Self {
        let settings = UserSettings {
            reconnect: true,
            ..UserSettings::default()
        };
        Self::new(count, settings).target(count)
    }

    fn churning(count: usize, millis: RangeInclusive<u32>) -> Self {
        let settings = UserSettings {
            churn: Some(MS * *millis.start()..=MS * *millis.end()),
            ..UserSettings::default()
        };
        Self::new(count, settings).target(count)
    }

    fn target(mut self, target: usize) -> Self {
        self.set_target(target);
        self
    }

    fn set_target(&mut self, target: usize) {
        self.users.set_target(target, self.now, &mut self.network);
    }

    /// Goes on to a time since the start.
    fn at(&mut self, since_start: Duration) {
        self.now = self.start + since_start;
        self.users.run_timers(self.now, &mut self.network);
    }

    fn event(&mut self, event: UserEvent) -> Option<Left> {
        self.users.on_event(event, self.now, &mut self.network)
    }

    /// The server accepts this connection.
    fn accept(&mut self, user: usize) {
        let begun = &mut self.network.begun;
        let place = begun.iter().position(|one| *one == user);
        begun.remove(place.expect("a connection under way"));
        self.event(UserEvent::Connected(user, id(user)));
    }

    /// The server accepts all connections under way.
    fn accept_all(&mut self) {
        for user in self.network.begun.clone() {
            self.accept(user);
        }
    }

    /// The server refuses all connections under way, as a system does without a listener.
    fn reject_all(&mut self) {
        for user in std::mem::take(&mut self.network.begun) {
            let why = "connection refused".into();
            self.event(UserEvent::Failed(user, why, Stage::Connect));
        }
    }

    fn lose(&mut self, user: usize) -> Option<Left> {
        self.event(UserEvent::Lost(user, DisconnectReason::PeerReset))
    }

    /// The sessions that the run has closed end. Returns their number.
    fn end_closed(&mut self) -> usize {
        let closed = std::mem::take(&mut self.network.closed);
        for id in &closed {
            self.event(UserEvent::Lost(id.slot(), DisconnectReason::Closed));
        }
        closed.len()
    }

    fn reasons(&mut self) -> Vec<(String, u64)> {
        std::mem::take(&mut self.users.reasons).into_largest(9).0
    }

    fn finish(mut self) -> Sessions {
        self.users.finish();
        self.users.sessions
    }
}

fn id(user: usize) -> SessionId {
    SessionId::new(1, 0, user as u32)
}

#[test]
fn at_most_256_connects_are_under_way() {
    let mut load = Load::new(1_000, UserSettings::default()).target(1_000);
    assert_eq!(load.network.begun.len(), MAX_CONNECTING);
    assert!(!load.users.may_connect());
    for user in 0..10 {
        load.accept(user);
    }
    load.set_target(1_000);
    assert_eq!(load.network.begun.len(), MAX_CONNECTING);
    while load.users.target() < 1_000 || !load.network.begun.is_empty() {
        load.accept_all();
        load.set_target(1_000);
    }
    let sessions = load.finish();
    assert_eq!((sessions.connected, sessions.never_connected), (1_000, 0));
}

/// A stage is over before the server has accepted all of its sessions.
#[test]
fn users_of_a_stage_that_were_never_begun_were_never_connected() {
    let mut load = Load::new(1_000, UserSettings::default()).target(1_000);
    load.accept_all();
    load.set_target(100);
    let sessions = load.finish();
    assert_eq!(
        (sessions.requested, sessions.connected),
        (1_000, MAX_CONNECTING)
    );
    assert_eq!(sessions.never_connected, 1_000 - MAX_CONNECTING);
}

/// The step of a capacity search wants more users than may connect at once.
#[test]
fn step_is_full_when_all_of_its_users_are_connected() {
    let mut load = Load::new(1_000, UserSettings::default()).target(1_000);
    load.accept_all();
    assert_eq!(load.users.sessions.connected_at_end, load.users.target());
    assert_eq!(load.users.occupancy(1_000), Occupancy::Partial);
    while load.users.target() < 1_000 || !load.network.begun.is_empty() {
        load.set_target(1_000);
        load.accept_all();
    }
    assert_eq!(load.users.occupancy(1_000), Occupancy::Full);
    assert_eq!(load.users.occupancy(500), Occupancy::Partial);
}

#[test]
fn stages_open_and_close_sessions_without_a_loss() {
    let mut load = Load::new(40, UserSettings::default()).target(40);
    load.accept_all();
    load.set_target(10);
    assert_eq!(load.end_closed(), 30);
    load.set_target(0);
    assert_eq!(load.end_closed(), 10);
    load.set_target(5);
    load.accept_all();
    let sessions = load.finish();
    assert_eq!((sessions.requested, sessions.connected), (40, 40));
    assert_eq!((sessions.max_connected, sessions.connected_at_end), (40, 5));
    assert_eq!((sessions.closed, sessions.lost), (40, 0));
    assert_eq!(sessions.disconnected_at_end, 0);
}

/// The stage goes down while connections are under way: the run closes them when they are made.
#[test]
fn user_that_is_dismissed_while_it_connects_is_closed_and_not_lost() {
    let mut load = Load::new(2, UserSettings::default()).target(2);
    load.set_target(0);
    load.accept_all();
    assert_eq!(load.network.closed, [id(0), id(1)]);
    load.end_closed();
    let sessions = load.finish();
    assert_eq!((sessions.closed, sessions.lost), (2, 0));
}

/// A user that is wanted again before its session has ended connects when it has ended.
#[test]
fn user_that_is_wanted_again_while_it_closes_connects_again() {
    let mut load = Load::new(1, UserSettings::default()).target(1);
    load.accept_all();
    load.set_target(0);
    load.set_target(1);
    assert!(load.network.begun.is_empty());
    load.end_closed();
    assert_eq!(load.network.begun, [0]);
}

#[test]
fn churn_is_not_counted_as_loss() {
    let mut load = Load::churning(20, 100..=300);
    load.accept_all();
    for millis in 1..=2_000 {
        load.at(MS * millis);
        load.end_closed();
        load.accept_all();
    }
    assert!(load.users.outages.is_empty());
    let sessions = load.finish();
    // Each session stays for 0.2 s on average: about 200 in 2 s.
    assert!((150..260).contains(&sessions.closed), "{sessions:?}");
    assert_eq!((sessions.lost, sessions.connected), (0, 20));
    assert_eq!(sessions.not_reconnected, 0);
}

#[test]
fn each_session_stays_for_a_time_of_the_range() {
    let mut load = Load::churning(200, 100..=300);
    load.accept_all();
    load.at(MS * 99);
    assert_eq!(load.network.closed, []);
    load.at(MS * 200);
    let half = load.network.closed.len();
    assert!((60..140).contains(&half), "{half} of 200");
    load.at(MS * 300);
    assert_eq!(load.network.closed.len(), 200);
}

/// The timer of a session that was lost must not close the next session of the user.
#[test]
fn timer_of_an_earlier_connection_is_void() {
    let settings = UserSettings {
        churn: Some(MS * 500..=MS * 500),
        reconnect: true,
        ..UserSettings::default()
    };
    let mut load = Load::new(1, settings).target(1);
    load.accept_all();
    load.at(MS * 100);
    load.lose(0);
    load.at(MS * 400);
    load.accept_all();
    load.at(MS * 899);
    assert_eq!(load.network.closed, [], "the first session's 500 ms");
    load.at(MS * 900);
    assert_eq!(load.network.closed, [id(0)]);
}

#[test]
fn session_lost_under_churn_is_a_loss() {
    let mut load = Load::churning(5, 300..=600);
    load.accept_all();
    assert_eq!(load.lose(3), Some(Left::Lost));
    assert_eq!(load.reasons(), [("peer_reset".into(), 1)]);
    let sessions = load.finish();
    assert_eq!((sessions.lost, sessions.disconnected_at_end), (1, 1));
}

/// A bot may close its session at any time.
#[test]
fn session_that_its_bot_closes_is_no_loss_and_its_user_connects_again() {
    let mut load = Load::new(2, UserSettings::default()).target(2);
    load.accept_all();
    let closed = load.event(UserEvent::Lost(1, DisconnectReason::Closed));
    let since = load.start;
    assert_eq!(closed, Some(Left::Closed { since }));
    assert_eq!(load.network.begun, [1]);
    load.accept_all();
    assert_eq!(load.reasons(), []);
    let sessions = load.finish();
    assert_eq!((sessions.closed, sessions.lost), (1, 0));
    assert_eq!((sessions.connected, sessions.connected_at_end), (2, 2));
}

#[test]
fn session_whose_bot_panics_is_no_loss_and_its_user_tries_again() {
    let mut load = Load::reconnecting(1);
    load.accept_all();
    let ended = UserEvent::Lost(0, DisconnectReason::HandlerPanicked);
    assert!(matches!(load.event(ended), Some(Left::Closed { .. })));
    assert_eq!(load.reasons(), [("handler_panic".into(), 1)]);
    load.at(MS * 100);
    load.accept_all();
    let sessions = load.finish();
    assert_eq!((sessions.closed, sessions.lost), (1, 0));
    assert_eq!(sessions.connected_at_end, 1);
}

/// The server resets a session at the moment at which the run closes it.
#[test]
fn session_that_is_reset_while_it_closes_is_a_loss() {
    let mut load = Load::churning(1, 100..=100);
    load.accept_all();
    load.at(MS * 100);
    assert_eq!(load.network.closed, [id(0)]);
    assert_eq!(load.lose(0), Some(Left::Lost));
    assert_eq!(load.finish().lost, 1);
}

/// The listener is gone: a user that has left by plan does not come back.
#[test]
fn users_that_do_not_come_back_after_churn_are_not_reconnected() {
    let mut load = Load::churning(4, 200..=600);
    load.accept_all();
    load.at(MS * 600);
    assert_eq!(load.end_closed(), 4);
    load.reject_all();
    assert!(load.users.all_have_failed());
    let sessions = load.finish();
    assert_eq!((sessions.not_reconnected, sessions.lost), (4, 0));
    assert_eq!(sessions.never_connected, 0);
    assert_eq!(sessions.failed_connects, 4);
}

#[test]
fn without_reconnect_a_failed_connect_is_the_end_of_its_user() {
    let mut load = Load::new(50, UserSettings::default()).target(50);
    load.reject_all();
    assert!(load.users.all_have_failed());
    load.at(Duration::from_secs(60));
    assert!(load.network.begun.is_empty());
    assert_eq!(load.reasons(), [("connection refused".into(), 50)]);
    let sessions = load.finish();
    assert_eq!(
        (sessions.never_connected, sessions.failed_connects),
        (50, 50)
    );
    assert_eq!((sessions.not_reconnected, sessions.lost), (0, 0));
}

#[test]
fn lost_session_reconnects_and_its_outage_is_recorded() {
    let mut load = Load::reconnecting(3);
    load.accept_all();
    load.at(MS * 2_000);
    load.lose(1);
    assert_eq!(load.reasons(), [("peer_reset".into(), 1)]);
    load.at(MS * 4_500);
    assert_eq!(load.network.begun, [1]);
    load.accept_all();
    // The session lives, and is not refused any more.
    load.at(MS * 5_500);
    assert_eq!(load.users.outages, [MS * 2_500]);
    load.users.finish();
    assert_eq!(load.users.outages, [MS * 2_500]);
    let sessions = load.users.sessions;
    assert_eq!((sessions.lost, sessions.reconnected), (1, 1));
    assert_eq!((sessions.connected_at_end, sessions.connected), (3, 3));
}

/// The delays from one attempt of a user to the next, `attempts` times rejected.
fn delays(load: &mut Load, attempts: usize) -> Vec<Duration> {
    let mut delays = Vec::new();
    while delays.len() < attempts {
        load.reject_all();
        let at = load.users.next_at(load.now).expect("a timer");
        delays.push(at - load.now);
        load.at(at - load.start);
        assert_eq!(load.network.begun, [0]);
    }
    delays
}

/// One user of a run with this seed, without a server.
fn of_seed(seed: u64) -> Load {
    let mut load = Load::reconnecting(1);
    load.users.rng = fastrand::Rng::with_seed(seed);
    load
}

/// Each delay is random, from 0 to a bound that doubles.
#[test]
fn backoff_grows_to_2_s_with_jitter() {
    let of_seeds: Vec<_> = (0..200).map(|seed| delays(&mut of_seed(seed), 7)).collect();
    let bounds = [100, 200, 400, 800, 1_600, 2_000, 2_000].map(|bound| MS * bound);
    for (attempt, bound) in bounds.into_iter().enumerate() {
        let all = of_seeds.iter().map(|delays| delays[attempt]);
        let (shortest, longest) = (all.clone().min().unwrap(), all.max().unwrap());
        assert!(shortest < bound / 10, "{shortest:?}");
        assert!((bound * 9 / 10..=bound).contains(&longest), "{longest:?}");
    }
}

#[test]
fn session_of_a_second_resets_the_backoff_and_a_shorter_one_does_not() {
    for (stays, bound) in [(MS * 1_000, MS * 100), (MS * 900, MS * 2_000)] {
        let next_delay = |seed| {
            let mut load = of_seed(seed);
            delays(&mut load, 8);
            load.accept_all();
            load.at(load.now - load.start + stays);
            load.lose(0);
            let lost_at = load.now;
            while load.network.begun.is_empty() {
                let at = load.users.next_at(load.now).expect("a timer");
                load.at(at - load.start);
            }
            load.now - lost_at
        };
        let longest = (0..200).map(next_delay).max().unwrap();
        assert!((bound * 9 / 10..=bound).contains(&longest), "{longest:?}");
    }
}

/// 1,000 users lose their server at one moment: the attempts keep to the limit of connects under way, and each
/// user has its turn.
#[test]
fn reconnects_keep_to_the_limit_of_connects_under_way() {
    let mut load = Load::reconnecting(1_000);
    while load.users.sessions.connected_at_end < 1_000 {
        load.accept_all();
        load.set_target(1_000);
    }
    load.at(MS * 5_000);
    (0..1_000).for_each(|user| {
        load.lose(user);
    });
    for step in 1..=50 {
        load.at(MS * (5_000 + step * 100));
        assert!(load.network.begun.len() <= MAX_CONNECTING);
        assert!(load.users.next_at(load.now).is_none_or(|at| at > load.now));
        load.accept_all();
    }
    let sessions = load.finish();
    assert_eq!((sessions.lost, sessions.reconnected), (1_000, 1_000));
    assert_eq!(sessions.connected_at_end, 1_000);
}

#[test]
fn session_back_after_more_than_10_s_is_late() {
    let mut load = Load::reconnecting(2);
    load.accept_all();
    load.lose(0);
    load.lose(1);
    load.at(Duration::from_secs(10));
    load.accept(0);
    load.at(Duration::from_secs(11));
    load.accept(1);
    let sessions = load.finish();
    assert_eq!((sessions.reconnected, sessions.reconnected_late), (1, 1));
}

/// A full server accepts a connection and ends it at once.
#[test]
fn refused_user_was_never_connected_and_tries_again() {
    let mut load = Load::reconnecting(2);
    load.accept_all();
    load.event(UserEvent::Refused(1));
    assert_eq!(load.users.sessions.connected, 1);
    assert_eq!(load.reasons(), [("refused: the server is full".into(), 1)]);
    load.at(MS * 100);
    assert_eq!(load.network.begun, [1]);
    load.accept(1);
    let sessions = load.finish();
    assert_eq!((sessions.refused, sessions.failed_connects), (1, 1));
    assert_eq!((sessions.connected, sessions.lost), (2, 0));
}

/// A server with room for two sessions. Whatever the order in which it lets users in, closes and refuses them, the
/// run never has more.
#[test]
fn largest_number_of_sessions_has_no_refused_one() {
    let mut load = Load::reconnecting(5);
    load.accept_all();
    for user in [4, 2, 3] {
        load.event(UserEvent::Refused(user));
    }
    load.lose(0);
    load.at(MS * 200);
    [2, 3, 4].into_iter().for_each(|user| load.accept(user));
    load.event(UserEvent::Refused(3));
    load.event(UserEvent::Refused(4));
    assert_eq!(load.users.connected().count(), 2);
    let sessions = load.finish();
    assert_eq!((sessions.max_connected, sessions.refused), (2, 5));
}

/// No session of this run is a second old: each is decided when it ends.
#[test]
fn largest_number_of_sessions_counts_short_ones() {
    let mut load = Load::churning(30, 50..=100);
    for step in 1..=20 {
        load.accept_all();
        load.at(MS * 100 * step);
        load.end_closed();
    }
    assert_eq!(load.finish().max_connected, 30);
}

#[test]
fn failed_login_is_a_failed_connect_of_its_own_kind() {
    let mut load = Load::new(1, UserSettings::default()).target(1);
    let why = "login failed: timed out".to_string();
    load.event(UserEvent::Failed(0, why.clone(), Stage::Login));
    assert_eq!(load.reasons(), [(why, 1)]);
    let sessions = load.finish();
    assert_eq!((sessions.failed_logins, sessions.failed_connects), (1, 1));
    assert_eq!(sessions.never_connected, 1);
}

/// Ports, descriptors and memory of this machine that are used up are no fault of the server.
#[test]
fn limits_of_this_machine_are_told_from_faults_of_the_server() {
    let own = [
        (ErrorKind::AddrNotAvailable.into(), "ports"),
        (ErrorKind::AddrInUse.into(), "ports"),
        (io::Error::from_raw_os_error(EMFILE), "file descriptors"),
        (io::Error::from_raw_os_error(ENFILE), "file descriptors"),
        (ErrorKind::OutOfMemory.into(), "memory"),
        (io::Error::from_raw_os_error(ENOBUFS), "memory"),
    ];
    for (error, resource) in own {
        let mut load = Load::new(1, UserSettings::default());
        load.network.errors.push_back(error);
        load.set_target(1);
        assert_eq!(load.users.own_limit_count, 1);
        let limits = std::mem::take(&mut load.users.own_limits);
        assert_eq!(limits.into_largest(9).0, [(resource.into(), 1)]);
        assert_eq!(load.users.sessions.failed_connects, 1);
        assert!(!load.users.is_connecting());
        let sessions = load.finish();
        assert_eq!(
            (sessions.never_connected, sessions.limited_by_client),
            (1, 1)
        );
    }
    let mut load = Load::new(1, UserSettings::default());
    let network_is_down = ErrorKind::ConnectionRefused.into();
    load.network.errors.push_back(network_is_down);
    load.set_target(1);
    assert_eq!(load.users.own_limit_count, 0);
    assert_eq!(load.users.sessions.failed_connects, 1);
    assert_eq!(load.finish().limited_by_client, 0);
}

/// Without a port now, there may be one in a moment.
#[test]
fn user_without_a_port_tries_again() {
    let mut load = Load::new(1, Load::reconnecting(1).users.settings);
    load.network
        .errors
        .push_back(ErrorKind::AddrNotAvailable.into());
    load.set_target(1);
    load.at(MS * 100);
    load.accept_all();
    assert_eq!(load.finish().connected, 1);
}

#[test]
fn no_user_reconnects_at_the_end_of_the_run() {
    let mut load = Load::reconnecting(2);
    load.accept_all();
    load.users.stop();
    load.lose(0);
    load.at(Duration::from_secs(60));
    assert!(load.network.begun.is_empty());
    let mut churning = Load::churning(1, 100..=100);
    churning.accept_all();
    churning.at(MS * 100);
    churning.users.stop();
    churning.end_closed();
    assert!(churning.network.begun.is_empty());
}

#[test]
fn user_that_is_no_longer_wanted_does_not_reconnect() {
    let mut load = Load::reconnecting(2);
    load.accept_all();
    load.lose(1);
    load.set_target(1);
    load.at(Duration::from_secs(60));
    assert!(load.network.begun.is_empty());
    assert_eq!(load.finish().disconnected_at_end, 0);
}

/// A new step of a capacity search wants the users that failed in the step before.
#[test]
fn users_that_have_failed_try_again_in_the_next_step() {
    let mut load = Load::new(4, UserSettings::default()).target(4);
    load.accept(0);
    load.accept(1);
    load.reject_all();
    load.lose(1);
    assert_eq!(load.users.sessions.connected_at_end, 1);
    load.users.retry_failed(load.now);
    load.at(MS);
    assert_eq!(load.network.begun, [1, 2, 3]);
    load.accept_all();
    assert_eq!(load.users.sessions.connected_at_end, 4);
    assert_eq!(load.users.sessions.connected, 4);
}

#[test]
fn all_have_failed_only_if_none_is_connected_or_connecting() {
    let mut load = Load::new(2, UserSettings::default());
    assert!(!load.users.all_have_failed(), "no user is wanted");
    load.set_target(2);
    assert!(!load.users.all_have_failed(), "both connect");
    load.accept(0);
    load.reject_all();
    assert!(!load.users.all_have_failed(), "one is connected");
    load.lose(0);
    assert!(load.users.all_have_failed());
    let mut load = Load::reconnecting(1);
    load.reject_all();
    assert!(!load.users.all_have_failed(), "it tries again");
}

/// Nothing of a session's end stays wrong, whatever the order of events.
#[test]
fn sums_add_up_whatever_happens() {
    for seed in 0..200 {
        let mut rng = fastrand::Rng::with_seed(seed);
        let settings = UserSettings {
            churn: rng.bool().then_some(MS * 10..=MS * 500),
            reconnect: rng.bool(),
            seed,
            ..UserSettings::default()
        };
        let mut load = Load::new(20, settings);
        for step in 1..300 {
            load.at(MS * step * 10);
            match rng.u8(..8) {
                0 => load.set_target(rng.usize(..=20)),
                1 => load.reject_all(),
                2 | 3 => load.accept_all(),
                4 => {
                    let connected: Vec<usize> = load.users.connected().map(|one| one.0).collect();
                    if let Some(user) = rng.choice(connected) {
                        load.lose(user);
                    }
                }
                5 => {
                    let connected: Vec<usize> = load.users.connected().map(|one| one.0).collect();
                    if let Some(user) = rng.choice(connected) {
                        load.event(UserEvent::Refused(user));
                    }
                }
                _ => {
                    load.end_closed();
                }
            }
            let sessions = load.users.sessions;
            let closing = load.network.closed.len();
            let connected = load.users.connected().count();
            assert_eq!(
                sessions.connected_at_end,
                connected + closing,
                "seed {seed}"
            );
            assert_eq!(
                load.users.connecting,
                load.network.begun.len(),
                "seed {seed}"
            );
            assert!(sessions.connected <= sessions.requested, "seed {seed}");
            let back = sessions.reconnected + sessions.reconnected_late;
            assert!(back <= sessions.lost, "seed {seed}: {sessions:?}");
        }
        let requested = load.users.sessions.requested;
        let sessions = load.finish();
        assert_eq!(
            sessions.connected + sessions.never_connected,
            requested,
            "seed {seed}: {sessions:?}"
        );
    }
}
