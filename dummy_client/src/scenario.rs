//! What a game's bots are.

use crate::context::BotContext;
use crate::metrics::{Registry, RequestSeries};
use server_core::{DisconnectReason, Kick, Packet};
use std::fmt;

/// One kind of user of a game: makes the bots, and registers what they measure.
pub trait Scenario: Send + Sync + 'static {
    /// The bot of one connection.
    type Bot: Bot;

    /// The name in reports.
    fn name(&self) -> &str {
        "scenario"
    }

    /// Registers metrics, checks, series and packet labels. Called once, before the first user; the handles
    /// are kept for the bots.
    fn register(&mut self, metrics: &mut Registry);

    /// A bot for a new connection of this user. The seed is another one for each user and each of its
    /// connections; the same run seed gives the same seeds.
    fn bot(&self, user: UserId, seed: u64) -> Self::Bot;

    /// Whether a user is connected only when its bot calls [`BotContext::logged_in`].
    ///
    /// The login has a time of its own (`login_time`). A session that is not logged in within
    /// [`RunConfig::login_timeout`](crate::RunConfig::login_timeout) is closed and counts as a failed login.
    fn has_login(&self) -> bool {
        false
    }

    /// The readable text of a packet, for the log lines of a session.
    fn text<'a>(&self, packet: &Packet<'a>) -> Option<&'a [u8]> {
        let _ = packet;
        None
    }

    /// # Errors
    /// A sentence that says why the run cannot be made with users of these numbers: too few accounts, for
    /// example. Called once, before the first user.
    fn check_users(&self, users: usize) -> Result<(), String> {
        let _ = users;
        Ok(())
    }
}

/// A scenario of functions: `register` registers the metrics, and returns what makes the bot of a connection from the
/// number of its user and a seed. See [`Scenario::register`] and [`Scenario::bot`].
///
/// ```
/// # use dummy_client::{Bot, BotContext, BotResult, scenario};
/// # struct Mover(dummy_client::metrics::Trend);
/// # impl Bot for Mover {
/// #     fn on_packet(&mut self, _: &mut BotContext<'_, '_>, _: server_core::Packet<'_>) -> BotResult { Ok(()) }
/// # }
/// let movers = scenario(|metrics| {
///     let rtt = metrics.trend("move_rtt", "move, to its answer");
///     move |_user, _seed| Mover(rtt)
/// });
/// # let _ = movers.with_login();
/// ```
pub fn scenario<R, F, B>(register: R) -> FnScenario<R, F>
where
    R: Fn(&mut Registry) -> F + Send + Sync + 'static,
    F: Fn(UserId, u64) -> B + Send + Sync + 'static,
    B: Bot,
{
    FnScenario {
        register,
        bots: None,
        has_login: false,
    }
}

/// The scenario of [`scenario`].
pub struct FnScenario<R, F> {
    register: R,
    /// Set by [`Scenario::register`].
    bots: Option<F>,
    has_login: bool,
}

impl<R, F> FnScenario<R, F> {
    /// A user is connected when its bot calls [`BotContext::logged_in`]: see [`Scenario::has_login`].
    #[must_use]
    pub fn with_login(mut self) -> Self {
        self.has_login = true;
        self
    }
}

impl<R, F, B> Scenario for FnScenario<R, F>
where
    R: Fn(&mut Registry) -> F + Send + Sync + 'static,
    F: Fn(UserId, u64) -> B + Send + Sync + 'static,
    B: Bot,
{
    type Bot = B;

    fn register(&mut self, metrics: &mut Registry) {
        self.bots = Some((self.register)(metrics));
    }

    fn bot(&self, user: UserId, seed: u64) -> B {
        let bots = self.bots.as_ref();
        bots.expect("a run registers the metrics first")(user, seed)
    }

    fn has_login(&self) -> bool {
        self.has_login
    }
}

impl<R, F> fmt::Debug for FnScenario<R, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FnScenario")
            .field("has_login", &self.has_login)
            .finish_non_exhaustive()
    }
}

/// One connection of a user. A user that reconnects gets a new bot.
pub trait Bot: Send + 'static {
    /// The connection is made.
    fn on_connected(&mut self, ctx: &mut BotContext<'_, '_>) {
        let _ = ctx;
    }

    /// A complete packet was received.
    ///
    /// # Errors
    /// A packet that the server must not send. It counts as malformed or as unknown, and the run fails.
    fn on_packet(&mut self, ctx: &mut BotContext<'_, '_>, packet: Packet<'_>) -> BotResult;

    /// The instant of [`BotContext::set_timer`] has come. Not called at the end of a run, when nothing new is
    /// to be sent.
    fn on_timer(&mut self, ctx: &mut BotContext<'_, '_>) {
        let _ = ctx;
    }

    /// A request is due, of a series that the bot has [started](BotContext::start_requests): the bot sends it. `number`:
    /// 0, 1, 2 ... of this connection. Not called at the end of a run.
    fn on_request(&mut self, ctx: &mut BotContext<'_, '_>, series: RequestSeries, number: u64) {
        let _ = (ctx, series, number);
    }

    /// The connection has ended. Not called for a connection that was never made.
    fn on_disconnected(&mut self, ctx: &mut BotContext<'_, '_>, reason: DisconnectReason) {
        let _ = (ctx, reason);
    }
}

impl<B: Bot + ?Sized> Bot for Box<B> {
    fn on_connected(&mut self, ctx: &mut BotContext<'_, '_>) {
        (**self).on_connected(ctx);
    }

    fn on_packet(&mut self, ctx: &mut BotContext<'_, '_>, packet: Packet<'_>) -> BotResult {
        (**self).on_packet(ctx, packet)
    }

    fn on_timer(&mut self, ctx: &mut BotContext<'_, '_>) {
        (**self).on_timer(ctx);
    }

    fn on_request(&mut self, ctx: &mut BotContext<'_, '_>, series: RequestSeries, number: u64) {
        (**self).on_request(ctx, series, number);
    }

    fn on_disconnected(&mut self, ctx: &mut BotContext<'_, '_>, reason: DisconnectReason) {
        (**self).on_disconnected(ctx, reason);
    }
}

/// The number of a user, from 0. In a run of several processes ([`RunConfig::share`](crate::RunConfig::share))
/// it is a number of the whole run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct UserId(pub usize);

impl fmt::Display for UserId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What a bot says of a packet.
pub type BotResult = Result<(), Violation>;

/// A packet that the server must not send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Violation {
    /// No packet of the game has this id.
    UnknownId,
    /// The payload is not one of its id.
    Malformed,
}

/// What [`Packet::parse`] returns for a payload that does not fit.
impl From<Kick> for Violation {
    fn from(kick: Kick) -> Self {
        match kick {
            Kick::UnknownId => Self::UnknownId,
            _ => Self::Malformed,
        }
    }
}

/// Several scenarios in one run, by weight: of the weights 3 and 1, three of four users have the first one.
///
/// The users are spread evenly, so each prefix of a ramp has the mix.
#[derive(Default)]
pub struct Mix {
    name: String,
    parts: Vec<(u32, Box<dyn AnyScenario>)>,
}

trait AnyScenario: Send + Sync {
    fn name(&self) -> &str;
    fn register(&mut self, metrics: &mut Registry);
    fn bot(&self, user: UserId, seed: u64) -> Box<dyn Bot>;
    fn has_login(&self) -> bool;
    fn text<'a>(&self, packet: &Packet<'a>) -> Option<&'a [u8]>;
    fn check(&self, users: usize) -> Result<(), String>;
}

impl<S: Scenario> AnyScenario for S {
    fn name(&self) -> &str {
        Scenario::name(self)
    }

    fn register(&mut self, metrics: &mut Registry) {
        Scenario::register(self, metrics);
    }

    fn bot(&self, user: UserId, seed: u64) -> Box<dyn Bot> {
        Box::new(Scenario::bot(self, user, seed))
    }

    fn has_login(&self) -> bool {
        Scenario::has_login(self)
    }

    fn text<'a>(&self, packet: &Packet<'a>) -> Option<&'a [u8]> {
        Scenario::text(self, packet)
    }

    fn check(&self, users: usize) -> Result<(), String> {
        Scenario::check_users(self, users)
    }
}

impl Mix {
    /// A mix without a scenario: [`Run::run`](crate::Run::run) refuses it.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a scenario. With a weight of 0, it has neither users nor metrics. All scenarios of a mix have a login, or none has.
    #[must_use]
    pub fn with(mut self, weight: u32, scenario: impl Scenario) -> Self {
        self.parts.push((weight, Box::new(scenario)));
        let names = self
            .parts
            .iter()
            .map(|(weight, part)| format!("{weight} {}", part.name()));
        self.name = names.collect::<Vec<_>>().join(" + ");
        self
    }

    fn total(&self) -> u64 {
        self.parts
            .iter()
            .map(|(weight, _)| u64::from(*weight))
            .sum()
    }

    /// The scenario of a user: the one whose share of the users so far is the furthest behind its weight.
    fn part(&self, user: UserId) -> Option<&dyn AnyScenario> {
        let total = self.total();
        // The pattern repeats after `total` users: the golden ratio spreads the places of a pattern.
        let place =
            (user.0 as u64 % total.max(1)).wrapping_mul(coprime_near_golden(total)) % total.max(1);
        let mut end = 0;
        let mut parts = self.parts.iter();
        let found = parts.find(|(weight, _)| {
            end += u64::from(*weight);
            place < end
        });
        found.map(|(_, part)| &**part)
    }
}

/// A step through `total` places that visits each place once, and neighbours one after the other never.
fn coprime_near_golden(total: u64) -> u64 {
    let gcd = |mut a: u64, mut b: u64| {
        while b > 0 {
            (a, b) = (b, a % b);
        }
        a
    };
    let golden = ((total as f64) * 0.618).round() as u64;
    (golden.max(1)..)
        .find(|step| gcd(*step, total.max(1)) == 1)
        .unwrap_or(1)
}

impl Scenario for Mix {
    type Bot = Box<dyn Bot>;

    fn name(&self) -> &str {
        &self.name
    }

    fn register(&mut self, metrics: &mut Registry) {
        // The ticks of a scenario without users do not come.
        for (_, part) in self.parts.iter_mut().filter(|(weight, _)| *weight > 0) {
            part.register(metrics);
        }
    }

    fn bot(&self, user: UserId, seed: u64) -> Box<dyn Bot> {
        match self.part(user) {
            Some(part) => part.bot(user, seed),
            None => Box::new(Silent),
        }
    }

    fn has_login(&self) -> bool {
        self.parts.iter().any(|(_, part)| part.has_login())
    }

    fn text<'a>(&self, packet: &Packet<'a>) -> Option<&'a [u8]> {
        self.parts.iter().find_map(|(_, part)| part.text(packet))
    }

    fn check_users(&self, users: usize) -> Result<(), String> {
        if self.total() == 0 {
            return Err("the mix has no scenario with a weight above 0".into());
        }
        let with_login = self
            .parts
            .iter()
            .filter(|(_, part)| part.has_login())
            .count();
        if with_login != 0 && with_login != self.parts.len() {
            return Err("of a mix, all scenarios have a login, or none has".into());
        }
        // The numbers of users are those of the whole run, whatever their share of it.
        let mut parts = self.parts.iter().filter(|(weight, _)| *weight > 0);
        parts.try_for_each(|(_, part)| part.check(users))
    }
}

/// The bot of a mix without a scenario. No run has it.
struct Silent;

impl Bot for Silent {
    fn on_packet(&mut self, _: &mut BotContext<'_, '_>, _: Packet<'_>) -> Result<(), Violation> {
        Ok(())
    }
}

impl fmt::Debug for Mix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Mix").field(&self.name).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Named(&'static str);

    impl Scenario for Named {
        type Bot = Box<dyn Bot>;

        fn name(&self) -> &str {
            self.0
        }

        fn register(&mut self, _: &mut Registry) {}

        fn bot(&self, _: UserId, _: u64) -> Box<dyn Bot> {
            Box::new(Silent)
        }
    }

    #[test]
    fn a_mix_gives_each_scenario_its_share_in_every_prefix_of_the_ramp() {
        let mix = Mix::new()
            .with(3, Named("walk"))
            .with(1, Named("shop"))
            .with(0, Named("none"));
        assert_eq!(Scenario::name(&mix), "3 walk + 1 shop + 0 none");
        let name = |user| mix.part(UserId(user)).map(AnyScenario::name);
        for users in [4, 8, 100, 1000] {
            let walking = (0..users)
                .filter(|user| name(*user) == Some("walk"))
                .count();
            assert_eq!(walking, users * 3 / 4);
        }
        assert!((0..1000).all(|user| name(user) != Some("none")));
        let even = Mix::new().with(50, Named("a")).with(50, Named("b"));
        let of_a = (0..10)
            .filter(|user| even.part(UserId(*user)).unwrap().name() == "a")
            .count();
        assert!((3..=7).contains(&of_a), "{of_a} of the first 10");
    }

    struct TenAccounts;

    impl Scenario for TenAccounts {
        type Bot = Box<dyn Bot>;

        fn register(&mut self, _: &mut Registry) {}

        fn bot(&self, _: UserId, _: u64) -> Box<dyn Bot> {
            Box::new(Silent)
        }

        fn check_users(&self, users: usize) -> Result<(), String> {
            let is_enough = users <= 10;
            is_enough.then_some(()).ok_or("10 accounts".into())
        }
    }

    #[test]
    fn a_mix_asks_each_scenario_that_has_users() {
        let mix = Mix::new().with(1, Named("one")).with(1, TenAccounts);
        assert_eq!(mix.check_users(10), Ok(()));
        assert_eq!(mix.check_users(11), Err("10 accounts".into()));
        let unused = Mix::new().with(1, Named("one")).with(0, TenAccounts);
        assert_eq!(unused.check_users(11), Ok(()));
    }

    #[test]
    fn a_mix_without_users_is_refused() {
        assert!(Mix::new().check_users(5).is_err());
        assert!(Mix::new().with(0, Named("none")).check_users(5).is_err());
        assert!(Mix::new().with(1, Named("one")).check_users(5).is_ok());
    }
}
