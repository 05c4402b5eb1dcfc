//! The bots of a profile.

use super::file::Profile;
use dummy_client::metrics::{Counter, RequestSeries, TickSeries};
use dummy_client::{Bot, BotContext, BotResult, Registry, Scenario, UserId, Violation};
use server_core::Packet;
use std::sync::Arc;

/// The users of a server that a profile describes.
#[derive(Debug)]
pub struct ProfileScenario {
    profile: Arc<Profile>,
    metrics: Metrics,
}

/// `None` for what the profile does not have.
#[derive(Clone, Copy, Debug, Default)]
struct Metrics {
    tick: Option<TickSeries>,
    /// Of hellos without a number.
    hellos: Option<Counter>,
    requests: Option<RequestSeries>,
}

/// One connection of a user.
pub struct ProfileBot {
    profile: Arc<Profile>,
    metrics: Metrics,
    user: UserId,
    awaits_login: bool,
}

impl ProfileScenario {
    /// Users of this server.
    #[must_use]
    pub fn new(profile: Profile) -> Self {
        Self {
            profile: Arc::new(profile),
            metrics: Metrics::default(),
        }
    }
}

impl Scenario for ProfileScenario {
    type Bot = ProfileBot;

    fn name(&self) -> &str {
        "profile"
    }

    fn register(&mut self, metrics: &mut Registry) {
        let profile = &self.profile;
        if let Some(hello) = &profile.hello {
            self.metrics.tick = hello.tick.map(|_| metrics.tick_series("tick"));
            if hello.tick.is_none() {
                let hellos = metrics.expected("hellos_received", "no hello was received");
                self.metrics.hellos = Some(hellos);
            }
        }
        if profile.request.is_some() {
            self.metrics.requests =
                Some(metrics.request_series("requests", "answered", "rtt", "round trips"));
        }
    }

    fn bot(&self, user: UserId, _: u64) -> ProfileBot {
        ProfileBot {
            profile: Arc::clone(&self.profile),
            metrics: self.metrics,
            user,
            awaits_login: false,
        }
    }

    fn has_login(&self) -> bool {
        (self.profile.login.as_ref()).is_some_and(|login| login.answer.is_some())
    }
}

impl Bot for ProfileBot {
    fn on_connected(&mut self, ctx: &mut BotContext<'_, '_>) {
        if let Some(login) = &self.profile.login {
            let mut payload = Vec::new();
            login.payload.write(self.user.0, 0, &mut payload);
            ctx.send_raw(login.id, &payload);
            self.awaits_login = login.answer.is_some();
        }
        if !self.awaits_login {
            self.begin_requests(ctx);
        }
    }

    fn on_packet(&mut self, ctx: &mut BotContext<'_, '_>, packet: Packet<'_>) -> BotResult {
        let profile = &self.profile;
        let (id, payload) = (packet.id(), packet.payload());
        if let Some(hello) = profile.hello.as_ref()
            && hello.kind.is(id, payload)
        {
            if let (Some(series), Some(field)) = (self.metrics.tick, hello.tick) {
                let tick = field.read(payload).ok_or(Violation::Malformed)?;
                ctx.tick(series, tick);
            }
            if let Some(hellos) = self.metrics.hellos {
                ctx.add(hellos, 1);
            }
            return Ok(());
        }
        let login_answer = profile.login.iter().flat_map(|login| &login.answer).next();
        if login_answer.is_some_and(|answer| answer.is(id, payload)) {
            if std::mem::take(&mut self.awaits_login) {
                ctx.logged_in();
                self.begin_requests(ctx);
            }
            return Ok(());
        }
        if let (Some(request), Some(requests)) = (&profile.request, self.metrics.requests)
            && request.answer.is(id, payload)
        {
            let answer = &payload[request.answer.prefix.len()..];
            ctx.answered(requests, |number| {
                let mut sent = Vec::new();
                if request.is_same {
                    request.payload.write(self.user.0, number, &mut sent);
                }
                !request.is_same || answer == sent
            });
            return Ok(());
        }
        let is_ignored = profile.ignored_ids.contains(&id)
            || (profile.ignored_prefixes.iter()).any(|prefix| payload.starts_with(prefix));
        if is_ignored {
            Ok(())
        } else {
            Err(Violation::UnknownId)
        }
    }

    fn on_request(&mut self, ctx: &mut BotContext<'_, '_>, _: RequestSeries, number: u64) {
        if let Some(request) = &self.profile.request {
            let mut payload = request.prefix.clone();
            request.payload.write(self.user.0, number, &mut payload);
            ctx.send_raw(request.id, &payload);
        }
    }
}

impl ProfileBot {
    fn begin_requests(&mut self, ctx: &mut BotContext<'_, '_>) {
        if let (Some(request), Some(series)) = (&self.profile.request, self.metrics.requests) {
            let bytes = request.prefix.len() + request.payload.max_bytes();
            ctx.start_requests(series, request.period, bytes);
        }
    }
}
