//! Callbacks, and their effects: on this worker, or through another worker's mailbox.

use super::{Deferred, Shard, guarded};
use crate::base::id::SessionId;
use crate::base::reason::DisconnectReason;
use crate::buffer::SendBuffer;
use crate::routing::link::{Audience, Origin, Target};
use crate::routing::outbox;
use crate::routing::router::Command;
use crate::session::{Context, Effect, Session};
use crate::transport::Transport;
use std::time::Instant;

impl<T: Transport + Send + 'static, S: Session> Shard<T, S> {
    /// Runs one callback, then applies its effects.
    pub(super) fn call(
        &mut self,
        id: SessionId,
        now: Instant,
        callback: impl FnOnce(&mut S, &mut Context<'_>),
    ) {
        let (buffers, effects) = (&self.shared.buffers, &mut self.effects);
        let (groups, config) = (&mut self.groups, &self.shared.config);
        let outcome = self.table.visit(id, |connection| {
            let (peer, queued_bytes) = (connection.peer(id), connection.queued_bytes());
            let mut ctx = Context::new(peer, now, buffers, effects, groups, queued_bytes);
            ctx.is_admitted = connection.is_admitted;
            ctx.crowded_bytes = config.crowded_bytes();
            ctx.max_send_lag = config.max_send_lag;
            guarded(|| callback(&mut connection.session, &mut ctx))
        });
        self.apply_effects(id, now);
        if let Some(Err(reason)) = outcome {
            self.close_in_order(id, reason);
        }
    }

    /// Whether reading may go on: no effect waits, or few effects wait, and they wait for receivers.
    pub(super) fn may_read(&self) -> bool {
        self.stalled.is_empty()
            && outbox::is_empty()
            && (self.deferred.is_empty() || self.may_read_while_paced())
    }

    /// Applies deferred effects, in order, as far as the output of this turn and the receivers allow.
    pub(super) fn release_deferred(&mut self, now: Instant) {
        self.paced_until = None;
        while self.output_left > 0
            && let Some(next) = self.deferred.front()
        {
            let bytes = next.fan_out_bytes;
            if !self.may_fan_out(bytes, now) {
                self.paced_until = Some(self.pacing.retry_at(now));
                return;
            }
            if let Some(Deferred { source, effect, .. }) = self.deferred.pop_front() {
                self.deferred_bytes -= effect.bytes();
                self.apply(effect);
                self.release_one(source, now);
            }
        }
    }

    /// Counts an effect of this session that waits no more. After the last such effect the session is read
    /// again.
    fn release_one(&mut self, source: SessionId, now: Instant) {
        let (timeouts, config) = (&mut self.timeouts, &self.shared.config);
        let released = self.table.visit(source, |connection| {
            connection.held_effects -= 1;
            if connection.is_held() {
                return (false, false);
            }
            connection.restart_input_clock(now);
            if let Some(at) = connection.next_deadline(config) {
                // A deadline that has passed meanwhile is due now: otherwise it would look like a stall of
                // this process.
                timeouts.arm(source, &mut connection.timer, at.max(now));
            }
            let is_readable = connection.has_input && connection.list_readable();
            (is_readable, connection.has_drained())
        });
        let (is_readable, has_drained) = released.unwrap_or_default();
        if is_readable {
            self.readable.push_back(source);
        }
        if has_drained {
            self.drained.push_back(source);
        }
    }

    /// Applies the effects of a callback of `source`, in order, as far as the output of this turn and the
    /// receivers allow. The other effects are deferred, and `source` is not read until they are applied.
    /// Timers and logins are not output and never wait.
    pub(super) fn apply_effects(&mut self, source: SessionId, now: Instant) {
        let mut effects = std::mem::take(&mut self.effects);
        for effect in effects.drain(..) {
            let fan_out_bytes = effect.fan_out_bytes(source);
            if matches!(
                effect,
                Effect::Timer(..) | Effect::KeyedTimer(..) | Effect::Admit(_)
            ) || self.may_apply(source, effect.is_own(source), fan_out_bytes, now)
            {
                self.apply(effect);
            } else {
                self.defer(source, effect, fan_out_bytes);
            }
        }
        // No callback ran above, so `self.effects` is empty; the memory is used again.
        debug_assert!(self.effects.is_empty());
        self.effects = effects;
    }

    fn may_apply(
        &mut self,
        source: SessionId,
        is_own: bool,
        fan_out_bytes: usize,
        now: Instant,
    ) -> bool {
        if self.output_left <= 0 {
            return false;
        }
        if self.deferred.is_empty() {
            let may_fan_out = self.may_fan_out(fan_out_bytes, now);
            if !may_fan_out {
                self.paced_until = Some(self.pacing.retry_at(now));
            }
            return may_fan_out;
        }
        // An effect that no other session can notice overtakes deferred effects of other sessions, but
        // not those of its own session.
        is_own && (self.table).visit(source, |connection| connection.is_held()) == Some(false)
    }

    fn defer(&mut self, source: SessionId, effect: Effect, fan_out_bytes: usize) {
        self.table
            .visit(source, |connection| connection.held_effects += 1);
        self.deferred_bytes += effect.bytes();
        self.deferred.push_back(Deferred {
            source,
            effect,
            fan_out_bytes,
        });
    }

    pub(super) fn apply(&mut self, effect: Effect) {
        let workers = self.shared.router.workers();
        match effect {
            Effect::Send(to, buffer) if to.worker() == self.worker => self.queue_for(to, buffer),
            Effect::Send(to, buffer) if to.worker() < workers => {
                self.forward(to.worker(), Command::Send(to, buffer));
            }
            Effect::Send(..) => self.metrics().undeliverable.add(1),
            Effect::Broadcast(buffer) => self.fan_out(Audience::All, None, &buffer),
            Effect::BroadcastTo(group, except, buffer) => {
                self.fan_out(Audience::Group(group), except, &buffer);
            }
            Effect::Close(id, reason) if id.worker() == self.worker => self.close(id, reason),
            Effect::Close(id, reason) if id.worker() < workers => {
                self.forward(id.worker(), Command::Close(id, reason));
            }
            Effect::CloseWith(id, reason, text) if id.worker() == self.worker => {
                self.close_with(id, reason, text);
            }
            Effect::CloseWith(id, reason, text) if id.worker() < workers => {
                self.forward(id.worker(), Command::CloseWith(id, reason, text));
            }
            Effect::Close(..) | Effect::CloseWith(..) => {}
            Effect::Timer(id, at) => {
                self.table.visit(id, |connection| connection.set_timer(at));
                self.rearm(id);
            }
            Effect::KeyedTimer(id, key, at) => {
                self.table
                    .visit(id, |connection| connection.set_keyed_timer(key, at));
                self.rearm(id);
            }
            Effect::NotifyDrained(id, below) => {
                let is_new = (self.table).visit(id, |connection| connection.notify_drained(below));
                if is_new == Some(true) {
                    self.dirty.push(id);
                }
            }
            Effect::Admit(id) => self.admit(id),
        }
    }

    /// Queues a packet here, and forwards it to the other targets.
    fn fan_out(&mut self, audience: Audience, except: Option<SessionId>, buffer: &SendBuffer) {
        let router = &self.shared.router;
        for target in router.targets(audience, router.scope(audience, Origin::Node)) {
            match (target, audience) {
                (Target::Worker(worker), Audience::All) if worker == self.worker => {
                    self.queue_for_all(buffer);
                }
                (Target::Worker(worker), Audience::Group(group)) if worker == self.worker => {
                    self.queue_for_group(group, except, buffer);
                }
                (Target::Worker(worker), _) => {
                    let command = Command::fan_out(audience, except, buffer.clone());
                    self.forward(worker, command);
                }
                (Target::Link, _) => self.shared.router.publish(audience, buffer),
            }
        }
    }

    /// Ends a session behind the packets that it was sent so far.
    pub(super) fn close(&mut self, id: SessionId, reason: DisconnectReason) {
        self.detach(id);
        self.table.close(id, reason);
    }

    /// Ends a session with a text for its peer. The text of a session that ends already stays.
    pub(super) fn close_with(&mut self, id: SessionId, reason: DisconnectReason, text: Box<str>) {
        self.table
            .visit(id, |connection| connection.set_close_text(text));
        self.close(id, reason);
    }

    /// Ends a session behind all earlier effects.
    pub(super) fn close_in_order(&mut self, id: SessionId, reason: DisconnectReason) {
        if self.deferred.is_empty() {
            self.close(id, reason);
        } else {
            (self.table).visit(id, |connection| connection.is_leaving = true);
            self.defer(id, Effect::Close(id, reason), 0);
        }
    }

    fn forward(&mut self, worker: usize, command: Command<T>) {
        if !self.stalled.is_empty() {
            self.stalled.push_back((worker, command));
        } else if let Err(command) = self.shared.router.forward(worker, command) {
            self.stalled.push_back((worker, command));
            self.retry_stalled();
        }
    }

    /// Posts the packets of the outbox. Returns the instant of the next try, if some are left.
    pub(super) fn retry_outbox(&mut self, now: Instant) -> Option<Instant> {
        let pacing = &mut self.pacing;
        let is_empty = outbox::retry(|bytes| pacing.take(bytes, now));
        (!is_empty).then(|| pacing.retry_at(now))
    }

    /// Forwards the commands that wait for another worker's mailbox, as far as it has room now. At the
    /// first full mailbox it asks to be woken, and tries once more: the room may have come in between.
    pub(super) fn retry_stalled(&mut self) {
        let mut has_asked = false;
        while let Some((worker, command)) = self.stalled.pop_front() {
            let Err(command) = self.shared.router.forward(worker, command) else {
                continue;
            };
            self.stalled.push_front((worker, command));
            if has_asked {
                break;
            }
            self.shared.router.wake_when_room(worker, self.worker);
            has_asked = true;
        }
    }
}
