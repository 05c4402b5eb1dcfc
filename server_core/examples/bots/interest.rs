//! Clients of the world: they walk, acknowledge, and check each record.

use crate::{
    CAck, CWalk, PATIENCE, Place, Record, SIGHT_END, SSnapshot, SWorld, Walker, place, say,
};
use server_core::wire::bytemuck;
use server_core::{Context, DisconnectReason, Kick, Packet, Peer, Server, Session};
use std::collections::HashSet;
use std::io;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

/// What all bots have seen.
#[derive(Default)]
struct Tally {
    ended: AtomicU64,
    broadcasts: AtomicU64,
    snapshots: AtomicU64,
    records: AtomicU64,
    /// Snapshots after which a bot knew all players in its sight.
    complete: AtomicU64,
    failure: OnceLock<String>,
}

struct Bot {
    bot: u64,
    number: u64,
    known: HashSet<u64>,
    random: fastrand::Rng,
    tally: Arc<Tally>,
}

/// Snapshots that one acknowledgement is for.
const ACK_SNAPSHOTS: u64 = 8;
const TURN: Duration = Duration::from_secs(1);
const LOOK: Duration = Duration::from_millis(10);

/// Plays until the server ends.
pub fn play(server: SocketAddr, players: u16) -> io::Result<ExitCode> {
    let tally = Arc::new(Tally::default());
    let all = Arc::clone(&tally);
    let client = Server::builder()
        .workers(1)
        .start_client(move |peer: Peer| {
            let bot = peer.tag.unwrap_or_default();
            Bot {
                bot,
                number: 0,
                known: HashSet::new(),
                random: fastrand::Rng::with_seed(bot),
                tally: Arc::clone(&all),
            }
        })?;
    for bot in 0..players {
        client.handle().connect(server, bot.into())?;
    }
    let get = |count: &AtomicU64| count.load(Ordering::Relaxed);
    let mut last = (0, Instant::now());
    let is_running = || get(&tally.ended) < players.into() && tally.failure.get().is_none();
    // A server that says nothing has failed.
    while is_running() && last.1.elapsed() < PATIENCE {
        thread::sleep(LOOK);
        let seen = get(&tally.broadcasts) + get(&tally.snapshots);
        if seen != last.0 {
            last = (seen, Instant::now());
        }
    }
    let (snapshots, complete) = (get(&tally.snapshots), get(&tally.complete));
    say(format_args!(
        "{} broadcasts and {snapshots} snapshots with {} records handled; after {complete} snapshots the bot knew \
         all players in its sight",
        get(&tally.broadcasts),
        get(&tally.records),
    ));
    let failure = match tally.failure.get() {
        Some(failure) => failure,
        None if complete == 0 => "no snapshot was complete",
        None if get(&tally.ended) < players.into() => "the server is silent",
        None => {
            say("passed: each record was as it should be");
            return Ok(ExitCode::SUCCESS);
        }
    };
    say(format_args!("FAILED: {failure}"));
    Ok(ExitCode::FAILURE)
}

impl Bot {
    fn turn(&mut self, ctx: &mut Context<'_>) {
        let [x, y] = [self.random.f32() - 0.5, self.random.f32() - 0.5];
        let direction = place([x, y]);
        ctx.send_packet(&CWalk { direction });
        ctx.set_timer(ctx.now() + TURN.mul_f32(0.5 + self.random.f32()));
    }

    fn check(&self, holds: bool, claim: &str) -> Result<(), Kick> {
        if holds {
            return Ok(());
        }
        let failure = format!(
            "bot {}, snapshot {}: not so: {claim}",
            self.bot, self.number
        );
        let _ = self.tally.failure.set(failure);
        Err(Kick::BadPayload)
    }

    fn on_snapshot(&mut self, head: &SSnapshot, records: &[u8]) -> Result<(), Kick> {
        self.number += 1;
        self.check(head.number.get() == self.number, "each snapshot comes once")?;
        let records: &[Record] = bytemuck::try_cast_slice(records).map_err(|_| Kick::BadPayload)?;
        for record in records {
            let Walker { entity, at } = record.walker;
            let entity = entity.get();
            let (is_due, claim) = match record.kind {
                1 => (self.known.insert(entity), "an unknown entity enters"),
                2 => (self.known.contains(&entity), "a known entity moves"),
                _ => (self.known.remove(&entity), "a known entity leaves"),
            };
            self.check(is_due, claim)?;
            let is_near = distance(head.at, at) <= SIGHT_END + 0.01;
            self.check(record.kind == 3 || is_near, "only neighbours are seen")?;
        }
        (self.tally.records).fetch_add(records.len() as u64, Ordering::Relaxed);
        self.tally.snapshots.fetch_add(1, Ordering::Relaxed);
        let is_complete = self.known.len() == head.in_sight.get() as usize;
        self.tally
            .complete
            .fetch_add(is_complete.into(), Ordering::Relaxed);
        Ok(())
    }
}

fn distance(here: Place, there: Place) -> f32 {
    (here.x.get() - there.x.get()).hypot(here.y.get() - there.y.get())
}

impl Session for Bot {
    fn on_connected(&mut self, ctx: &mut Context<'_>) {
        self.turn(ctx);
    }

    fn on_packet(&mut self, ctx: &mut Context<'_>, packet: Packet<'_>) -> Result<(), Kick> {
        if packet.id() == SWorld::ID {
            let (_, all) = packet.decode::<SWorld>()?;
            let all: Result<&[Walker], _> = bytemuck::try_cast_slice(all);
            self.check(
                all.is_ok_and(|all| !all.is_empty()),
                "all players are in it",
            )?;
            self.tally.broadcasts.fetch_add(1, Ordering::Relaxed);
            return Ok(());
        }
        let (head, records) = packet.decode::<SSnapshot>()?;
        self.on_snapshot(head, records)?;
        if self.number.is_multiple_of(ACK_SNAPSHOTS) {
            let number = self.number.into();
            ctx.send_packet(&CAck { number });
        }
        Ok(())
    }

    fn on_timer(&mut self, ctx: &mut Context<'_>) {
        self.turn(ctx);
    }

    fn on_disconnected(&mut self, _: &mut Context<'_>, _: DisconnectReason) {
        self.tally.ended.fetch_add(1, Ordering::Relaxed);
    }
}
