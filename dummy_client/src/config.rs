//! What a run is asked for, as plain data.

use crate::error::Error;
use crate::executor::{Executor, MAX_DURATION, MAX_SESSIONS};
use crate::transport::Transport;
use serde_json::{Value, json};
use server_core::host::Addresses;
use server_core::{Framing, TransportKind};
use std::collections::BTreeMap;
use std::fmt;
use std::ops::RangeInclusive;
use std::str::FromStr;
use std::time::Duration;

/// The settings of a run. [`Run`](crate::Run) has a method for each that most runs need.
#[derive(Clone, Debug)]
pub struct RunConfig {
    /// The server. Of several addresses, the first that accepts a connection; the run tries each until then.
    pub addrs: Addresses,
    /// What carries the packets. A connection is made when its handshake is complete.
    pub transport: Transport,
    /// The number of users over time.
    pub executor: Executor,
    /// Event loops, one thread each: 1 to 256.
    pub threads: usize,
    /// Seed of everything that is random.
    pub seed: u64,
    /// The length of a session, drawn for each: then the user closes it and connects again.
    pub churn: Option<RangeInclusive<Duration>>,
    /// Whether users reconnect after a loss, with a backoff of 100 ms to 2 s and jitter.
    pub reconnect: bool,
    /// The time for the login of a scenario that has one.
    pub login_timeout: Duration,
    /// The framing of the server.
    pub framing: Framing,
    /// The number of sessions that log each packet.
    pub log_sessions: usize,
    /// The part of the users that this process has.
    pub share: Share,
    /// Settings for the report beside those of this struct: two runs with different settings cannot be compared.
    pub settings: BTreeMap<String, Value>,
}

pub(crate) const MAX_THREADS: usize = 256;

impl RunConfig {
    /// # Errors
    /// If a number is out of its range.
    pub(crate) fn check(&self) -> Result<(), Error> {
        let max_secs = MAX_DURATION.as_secs();
        let times = [
            ("a run lasts", self.executor.duration()),
            ("a login takes", Some(self.login_timeout)),
            (
                "a session lasts",
                self.churn.as_ref().map(|churn| *churn.end()),
            ),
        ];
        for (what, time) in times {
            if let Some(time) = time.filter(|time| *time > MAX_DURATION) {
                return Err(Error::usage(format!(
                    "{what} {max_secs} s at the most, not {} s",
                    time.as_secs()
                )));
            }
        }
        if let Some(churn) = self
            .churn
            .as_ref()
            .filter(|churn| churn.start() > churn.end())
        {
            return Err(Error::usage(format!(
                "the shortest session, {:?}, is longer than the longest, {:?}",
                churn.start(),
                churn.end()
            )));
        }
        let (users, threads) = (self.executor.max_users(), self.threads);
        if users > MAX_SESSIONS {
            let error = format!("a run has up to {MAX_SESSIONS} users, not {users}");
            return Err(Error::usage(error));
        }
        if self.framing != Framing::NATIVE && self.transport.has_websocket() {
            let error = "a WebSocket has the framing of game_server, and no other";
            return Err(Error::usage(error));
        }
        if !(1..=MAX_THREADS).contains(&threads) {
            let error = format!("a run has 1 to {MAX_THREADS} threads, not {threads}");
            return Err(Error::usage(error));
        }
        Ok(())
    }

    /// The settings that the report has of this configuration. The address, the seed and the share are in
    /// [`RunInfo`](crate::report::RunInfo); `log_sessions` changes no figure.
    pub(crate) fn own_settings(&self, has_login: bool) -> BTreeMap<String, Value> {
        let churn = self.churn.as_ref();
        let churn =
            churn.map(|time| format!("{}..{}", time.start().as_millis(), time.end().as_millis()));
        let mut settings = BTreeMap::from([
            ("executor".to_string(), json!(self.executor.to_string())),
            ("threads".to_string(), json!(self.threads)),
            ("churn_ms".to_string(), json!(churn)),
            ("reconnect".to_string(), json!(self.reconnect)),
        ]);
        if self.transport.kind() != TransportKind::Tcp {
            let label = self.transport.kind().label();
            settings.insert("transport".into(), json!(label));
        }
        if self.framing != Framing::NATIVE {
            settings.insert("framing".into(), json!(format!("{:?}", self.framing)));
        }
        if has_login {
            let secs = self.login_timeout.as_secs_f64();
            settings.insert("login_timeout_secs".into(), json!(secs));
        }
        settings
    }
}

/// `I/N`: this process has every N-th user, from the I-th on (1 to N). All processes of a run have the same
/// seed and the same number of users in total.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share {
    index: usize,
    count: usize,
}

impl Share {
    /// The whole run.
    pub const ALL: Self = Self { index: 0, count: 1 };

    /// The number of users of this process, of `users` in total.
    #[must_use]
    pub fn users(self, users: usize) -> usize {
        (users + self.count - 1 - self.index) / self.count
    }

    /// The number of a user in the whole run.
    #[must_use]
    pub fn global(self, user: usize) -> usize {
        user * self.count + self.index
    }

    /// The number of the part, from 0.
    pub(crate) fn index(self) -> usize {
        self.index
    }

    /// The number of parts.
    pub(crate) fn count(self) -> usize {
        self.count
    }

    /// Whether there is one process only.
    #[must_use]
    pub fn is_all(self) -> bool {
        self == Self::ALL
    }
}

impl fmt::Display for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.index + 1, self.count)
    }
}

impl FromStr for Share {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parts = text.split_once('/');
        let number = |text: &str| text.trim().parse::<usize>().ok();
        let parts = parts.and_then(|(index, count)| Some((number(index)?, number(count)?)));
        match parts {
            Some((index @ 1.., count @ ..=MAX_SHARES)) if index <= count => Ok(Self {
                index: index - 1,
                count,
            }),
            _ => Err(format!(
                "expected I/N, with I from 1 to N and N up to {MAX_SHARES}, for example 1/3"
            )),
        }
    }
}

const MAX_SHARES: usize = 1_000;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::executor::{Stage, Stages};
    use std::net::SocketAddr;

    #[test]
    fn numbers_out_of_their_range_are_refused() {
        let config = RunConfig {
            addrs: SocketAddr::from(([127, 0, 0, 1], 1)).into(),
            transport: Transport::default(),
            executor: Executor::constant(1, Some(MAX_DURATION)),
            threads: 1,
            seed: 1,
            churn: Some(Duration::ZERO..=Duration::ZERO),
            reconnect: false,
            login_timeout: MAX_DURATION,
            framing: Framing::NATIVE,
            log_sessions: 0,
            share: Share::ALL,
            settings: BTreeMap::new(),
        };
        config.check().expect("the largest numbers");
        let (zero, second, max) = (Duration::ZERO, Duration::from_secs(1), Duration::MAX);
        let stage = |duration| Stage {
            sessions: 1,
            duration,
        };
        let stages = Stages(vec![stage(max), stage(max)]);
        let wrong: [fn(&mut RunConfig, Duration, &Stages); 7] = [
            |config, max, _| config.executor = Executor::constant(1, Some(max)),
            |config, _, stages| config.executor = Executor::ramping(stages),
            |config, max, _| config.login_timeout = max,
            |config, max, _| config.churn = Some(Duration::ZERO..=max),
            |config, _, _| config.executor = Executor::constant(usize::MAX, None),
            |config, _, _| config.threads = 0,
            |config, _, _| config.threads = 257,
        ];
        for (index, wrong) in wrong.into_iter().enumerate() {
            let mut config = config.clone();
            wrong(&mut config, max, &stages);
            assert!(config.check().is_err(), "{index}");
        }
        let reversed = RunConfig {
            churn: Some(second..=zero),
            ..config
        };
        assert!(reversed.check().is_err());
    }

    #[test]
    fn settings_of_the_report_tell_two_runs_apart() {
        let config = RunConfig {
            addrs: std::net::SocketAddr::from(([127, 0, 0, 1], 7777)).into(),
            transport: Transport::default(),
            executor: Executor::ramp(11, 5, Some(Duration::from_secs(60))),
            threads: 2,
            seed: 1,
            churn: Some(Duration::from_millis(20)..=Duration::from_secs(3)),
            reconnect: true,
            login_timeout: Duration::from_millis(1_500),
            framing: Framing {
                max_frame_bytes: 77,
                ..Framing::NATIVE
            },
            log_sessions: 0,
            share: Share::ALL,
            settings: BTreeMap::new(),
        };
        let settings = config.own_settings(true);
        for (name, value) in [
            ("executor", json!("1 at 0s, 11 at 2s, until 1m")),
            ("threads", json!(2)),
            ("churn_ms", json!("20..3000")),
            ("reconnect", json!(true)),
            ("login_timeout_secs", json!(1.5)),
        ] {
            assert_eq!(settings[name], value, "{name}");
        }
        assert!(
            settings["framing"].to_string().contains("77"),
            "{settings:?}"
        );
        let executor = Executor::capacity(500).to_string();
        assert_eq!(executor, "capacity search up to 500");
        let plain = RunConfig {
            framing: Framing::NATIVE,
            ..config
        };
        let settings = plain.own_settings(false);
        assert!(!settings.contains_key("framing") && !settings.contains_key("login_timeout_secs"));
    }

    #[test]
    fn shares_cover_each_user_once() {
        for (users, count) in [(1, 1), (10, 3), (2, 5), (1000, 7)] {
            let mut seen = vec![0; users];
            for index in 1..=count {
                let share: Share = format!("{index}/{count}").parse().unwrap();
                for user in 0..share.users(users) {
                    seen[share.global(user)] += 1;
                }
            }
            assert!(
                seen.iter().all(|times| *times == 1),
                "{users} {count} {seen:?}"
            );
        }
    }

    #[test]
    fn a_text_that_is_no_share_is_refused() {
        for bad in ["", "1", "0/3", "4/3", "a/b", "1/1001", "1/2/3"] {
            assert!(bad.parse::<Share>().is_err(), "{bad}");
        }
        assert_eq!("2/3".parse::<Share>().unwrap().to_string(), "2/3");
    }
}
