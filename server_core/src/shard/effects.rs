//! Callbacks, and doing what they have asked for: here, or by way of another worker's mailbox.

use super::{Shard, guarded};
use crate::connection::Transport;
use crate::id::SessionId;
use crate::reason::DisconnectReason;
use crate::router::Command;
use crate::session::{Context, Effect, Session};
use std::time::Instant;

impl<T: Transport + Send + 'static, S: Session> Shard<T, S> {
    /// Runs one callback, then does what it asked for.
    pub(super) fn call(
        &mut self,
        id: SessionId,
        now: Instant,
        callback: impl FnOnce(&mut S, &mut Context<'_>),
    ) {
        let (buffers, effects) = (&self.shared.buffers, &mut self.effects);
        let groups = &mut self.groups;
        let outcome = self.table.visit(id, |connection| {
            let mut ctx = Context::new(connection.peer(id), now, buffers, effects, groups);
            ctx.is_admitted = connection.is_admitted;
            guarded(|| callback(&mut connection.session, &mut ctx))
        });
        self.apply_effects();
        if let Some(Err(reason)) = outcome {
            self.close_in_order(id, reason);
        }
    }

    /// Whether reading may go on: nothing that was asked for has to wait.
    pub(super) fn may_read(&self) -> bool {
        self.stalled.is_empty() && self.deferred.is_empty()
    }

    /// Does what callbacks have asked for, in order, as far as the output of this turn goes. The
    /// rest waits for the next turn, and so does all reading. Timers and logins are no output and
    /// never wait.
    pub(super) fn apply_effects(&mut self) {
        while self.output_left > 0
            && let Some(effect) = self.deferred.pop_front()
        {
            self.apply(effect);
        }
        let mut effects = std::mem::take(&mut self.effects);
        for effect in effects.drain(..) {
            let may_wait = !matches!(effect, Effect::Timer(..) | Effect::Admit(_));
            if may_wait && (self.output_left <= 0 || !self.deferred.is_empty()) {
                self.deferred.push_back(effect);
            } else {
                self.apply(effect);
            }
        }
        // No callback ran above, so nothing was asked for meanwhile; the memory is used again.
        debug_assert!(self.effects.is_empty());
        self.effects = effects;
    }

    fn apply(&mut self, effect: Effect) {
        let workers = self.shared.router.workers();
        match effect {
            Effect::Send(to, buffer) if to.worker() == self.worker => self.queue_for(to, buffer),
            Effect::Send(to, buffer) if to.worker() < workers => {
                self.forward(to.worker(), Command::Send(to, buffer));
            }
            Effect::Send(..) => self.metrics().undeliverable.add(1),
            Effect::Broadcast(buffer) => {
                let own = self.worker;
                for worker in (0..workers).filter(|worker| *worker != own) {
                    self.forward(worker, Command::Broadcast(buffer.clone()));
                }
                self.queue_for_all(&buffer);
            }
            Effect::BroadcastTo(group, except, buffer) => {
                let (to, own) = (self.shared.router.groups().workers(group), self.worker);
                for worker in to.iter().filter(|worker| *worker != own) {
                    let command = Command::BroadcastTo(group, except, buffer.clone());
                    self.forward(worker, command);
                }
                self.queue_for_group(group, except, &buffer);
            }
            Effect::Close(id, reason) if id.worker() == self.worker => self.close(id, reason),
            Effect::Close(id, reason) if id.worker() < workers => {
                self.forward(id.worker(), Command::Close(id, reason));
            }
            Effect::Close(..) => {}
            Effect::Timer(id, at) => {
                self.table.visit(id, |connection| connection.set_timer(at));
                self.rearm(id);
            }
            Effect::Admit(id) => self.admit(id),
        }
    }

    /// Ends a session behind what it was sent so far.
    pub(super) fn close(&mut self, id: SessionId, reason: DisconnectReason) {
        self.set_apart(id);
        self.table.close(id, reason);
    }

    /// Ends a session behind everything that was asked for before.
    pub(super) fn close_in_order(&mut self, id: SessionId, reason: DisconnectReason) {
        match self.deferred.is_empty() {
            true => self.close(id, reason),
            false => {
                (self.table).visit(id, |connection| connection.is_leaving = true);
                self.deferred.push_back(Effect::Close(id, reason));
            }
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

    /// Sends on what had to wait for another worker's mailbox, as far as there is room now. Before
    /// giving up it asks to be woken, and tries once more: the room may have come in between.
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
