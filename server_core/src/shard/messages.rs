//! Messages of other threads to the sessions of this worker.

use super::{MIN_PACKET_COST, Shard, guarded};
use crate::base::id::SessionId;
use crate::session::Session;
use crate::session::message::MessageRoom;
use crate::transport::Transport;
use std::any::Any;
use std::collections::VecDeque;
use std::time::Instant;

/// The messages that wait, in the order of their posts.
#[derive(Debug, Default)]
pub(super) struct Messages {
    waiting: VecDeque<Posted>,
    /// The last turn left messages that wait for no held session.
    pub(super) is_turn_used_up: bool,
}

#[derive(Debug)]
pub(super) struct Posted {
    to: SessionId,
    message: Box<dyn Any + Send>,
    room: MessageRoom,
    account: Option<Box<str>>,
}

impl Messages {
    pub(super) fn push(
        &mut self,
        to: SessionId,
        message: Box<dyn Any + Send>,
        room: MessageRoom,
        account: Option<Box<str>>,
    ) {
        self.waiting.push_back(Posted {
            to,
            message,
            room,
            account,
        });
    }
}

impl<T: Transport + Send + 'static, S: Session> Shard<T, S> {
    /// Calls `on_message` for the messages that wait, as far as this turn allows. A callback may send, so
    /// messages wait as reads do: while effects wait, and for a held session. Meanwhile their bytes stay
    /// reserved, and a post returns an error.
    pub(super) fn deliver_messages(&mut self, now: Instant) {
        let mut left = self.shared.config.turn_input_bytes / MIN_PACKET_COST + 1;
        let mut held = Vec::new();
        while self.may_read()
            && let Some(posted) = self.messages.waiting.pop_front()
        {
            if left == 0 || self.output_left <= 0 {
                self.messages.waiting.push_front(posted);
                break;
            }
            let is_held = self.table.visit(posted.to, |connection| {
                (connection.is_open() && !connection.is_leaving).then(|| connection.is_held())
            });
            match is_held.flatten() {
                Some(true) => held.push(posted),
                Some(false) => {
                    left -= 1;
                    let Posted {
                        to, message, room, ..
                    } = posted;
                    self.call(to, now, |session, ctx| {
                        ctx.message_room = Some(room);
                        session.on_message(ctx, message);
                    });
                }
                None => {
                    if let Some(heir) = self.heir_of(&posted) {
                        let router = &self.shared.router;
                        router.post_on(heir, posted.message, posted.room, posted.account);
                        continue;
                    }
                    self.metrics().undeliverable.add(1);
                    // The destructor is code of the game.
                    let _ = guarded(|| drop(posted));
                }
            }
        }
        // Whatever ended the turn may be over before the next one: the outbox is tried again at the end of a turn.
        self.messages.is_turn_used_up = !self.messages.waiting.is_empty();
        // In the order of the posts, in front of the messages behind them.
        while let Some(posted) = held.pop() {
            self.messages.waiting.push_front(posted);
        }
    }

    /// The session that has taken over the account of a message whose session has ended.
    fn heir_of(&self, posted: &Posted) -> Option<SessionId> {
        let account = posted.account.as_deref()?;
        let heir = self.shared.router.accounts().session_of(account)?;
        (heir != posted.to).then_some(heir)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::config::Config;
    use crate::base::reason::Kick;
    use crate::buffer::{ChunkPool, SendBuffer, SendBufferManager};
    use crate::connection::admission::Admission;
    use crate::protocol::packet::Packet;
    use crate::routing::outbox;
    use crate::routing::router::{Command, NewConnection};
    use crate::session::Context;
    use crate::session::message::Message;
    use crate::shard::Shared;
    use crate::testing::FakeStream;
    use std::sync::{Arc, Mutex};

    /// Sends this number of empty packets to a session.
    struct Flood(u32, SessionId);
    impl Message for Flood {}

    struct Flooder(Arc<Mutex<Vec<(SessionId, u32)>>>, SendBuffer);

    impl Session for Flooder {
        fn on_packet(&mut self, _: &mut Context<'_>, _: Packet<'_>) -> Result<(), Kick> {
            Ok(())
        }

        fn on_message(&mut self, ctx: &mut Context<'_>, message: Box<dyn Any + Send>) {
            let Flood(packets, to) = *message.downcast::<Flood>().unwrap();
            for _ in 0..packets {
                ctx.send_buffer(to, self.1.clone());
            }
            self.0.lock().unwrap().push((ctx.id(), packets));
        }
    }

    /// A packet of a callback waits in the outbox, as while the server is congested, and the end of the turn sends it.
    #[test]
    fn message_of_a_turn_with_an_outbox_wakes_the_worker_for_the_next_turn() {
        let called: Arc<Mutex<Vec<_>>> = Arc::default();
        let factory = Arc::clone(&called);
        let packet = SendBufferManager::new(ChunkPool::new(1024, 1)).write(4, |bytes| {
            bytes[..4].copy_from_slice(&[4, 0, 1, 0]);
            4
        });
        let flooder = move |_| Flooder(Arc::clone(&factory), packet.clone());
        let shared = Shared::for_tests(&Config::default(), 1, flooder);
        let router = Arc::clone(&shared.router);
        let mut shard = Shard::new(0, Arc::new(shared));
        let (now, admission) = (Instant::now(), Arc::new(Admission::new(1, None, None)));
        let arrival = NewConnection {
            stream: FakeStream::sink(),
            permit: admission.admit(([127, 0, 0, 1], 1).into()).unwrap(),
            tag: None,
            is_connecting: false,
        };
        let mut id = None;
        shard.handle_command(Command::Adopt(arrival), now, |_, new| {
            id = Some(new);
            Ok(())
        });
        let id = id.unwrap();
        let before = outbox::replace(Some(VecDeque::new()));
        for turn in 0..10 {
            assert!(router.post_message(id, Flood(0, id)).is_ok());
            router.mailbox(0).take_all(|command| {
                shard.handle_command(command, now, |_, _| Ok(()));
            });
            let mut attempts = 0;
            // Fails at the start of a turn, if that tries it, and succeeds at its end.
            let fails = usize::from(!shard.outbox_is_first);
            outbox::push(Box::new(move |_| {
                attempts += 1;
                attempts > fails
            }));
            shard.run(now);
            assert!(outbox::is_empty());
            assert!(shard.has_work(), "turn {turn}: the message waits");
            shard.run(now);
            assert_eq!(called.lock().unwrap().len(), turn + 1);
        }
        outbox::replace(before);
    }

    /// Each callback sends more than a turn queues: its session is held for several turns. The messages to
    /// it wait, in order, and the deferred effects stay those of one callback.
    #[test]
    fn messages_wait_while_effects_wait_and_keep_their_order() {
        let config = Config {
            turn_output_bytes: 40,
            ..Config::default()
        };
        let called: Arc<Mutex<Vec<_>>> = Arc::default();
        let factory = Arc::clone(&called);
        let packet = SendBufferManager::new(ChunkPool::new(1024, 1)).write(4, |bytes| {
            bytes[..4].copy_from_slice(&[4, 0, 1, 0]);
            4
        });
        let flooder = move |_| Flooder(Arc::clone(&factory), packet.clone());
        let shared = Shared::for_tests(&config, 1, flooder);
        let router = Arc::clone(&shared.router);
        let mut shard = Shard::new(0, Arc::new(shared));
        let (now, admission) = (Instant::now(), Arc::new(Admission::new(1, None, None)));
        let mut ids = Vec::new();
        for port in 0..2 {
            let arrival = NewConnection {
                stream: FakeStream::sink(),
                permit: admission.admit(([127, 0, 0, 1], port).into()).unwrap(),
                tag: None,
                is_connecting: false,
            };
            shard.handle_command(Command::Adopt(arrival), now, |_, id| {
                ids.push(id);
                Ok(())
            });
        }
        let mut posted = Vec::new();
        for packets in 20..40 {
            let to = ids[packets as usize % 2];
            assert!(router.post_message(to, Flood(packets, ids[0])).is_ok());
            posted.push((to, packets));
        }
        let mut turns = 0;
        while called.lock().unwrap().len() < posted.len() {
            router.mailbox(0).take_all(|command| {
                shard.handle_command(command, now, |_, _| Ok(()));
            });
            let before = called.lock().unwrap().len();
            shard.run(now);
            assert!(called.lock().unwrap().len() <= before + 1, "one in a turn");
            assert!(shard.deferred.len() < 40, "those of one callback");
            assert!(shard.has_work() || shard.messages.waiting.is_empty());
            turns += 1;
            assert!(turns < 1_000);
        }
        assert_eq!(*called.lock().unwrap(), posted);
        assert!(turns > posted.len());
    }
}
