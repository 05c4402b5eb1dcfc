//! A crowd: 1,000 players walk in one world, and each of them hears of its neighbours alone. Prints what that costs
//! beside a broadcast of all positions.
//!
//! ```sh
//! cargo run --release -p server_core --example interest                     # 100 players, about 10 seconds
//! cargo run --release -p server_core --example interest -- --players 1000
//! ```
//!
//! The world is one [`GameLoop`]. An [`InterestGrid`] finds the players that come into sight and go out of it, and a
//! [`PlayerView`] for each player chooses the records of its snapshot within 1,200 bytes a tick. The run alternates
//! between ten ticks of snapshots and ten ticks of the naive broadcast: one packet with all positions, which is built
//! once and goes to all. Each cell is the median of the blocks of one run; `CPU` is of all threads of the
//! server. The bots are a process of their own, and check each record of each snapshot.
//!
//! 1,000 players, median of 5 blocks of 10 ticks; two cores that other programs share, `opt-level` 3:
//!
//! | a tick | packets | kB sent | CPU of the server, ms | CPU of the clients, ms |
//! |---|---|---|---|---|
//! | naive broadcast | 1000 | 16012.0 | 15.05 | 8.13 |
//! | interest | 999 | 175.4 | 15.33 | 8.35 |
//! | naive / interest | | 91.3 | 1.0 | 1.0 |
//!
//! Interest management saves bytes. On the loopback interface a small packet costs as much CPU as one of 16 kB: both
//! are a system call, and 1,000 snapshots are chosen and encoded each for itself.

mod bots {
    pub mod interest;
}

use clap::Parser;
use server_core::tick::Tick;
use server_core::{
    DisconnectReason, EntityId, Game, GameContext, GameLoop, InterestEvent, InterestGrid, Kick,
    Packet, PlayerView, Server, ServerHandle, SessionId, Sight, ViewChange, wire::bytemuck,
};
use std::collections::HashMap;
use std::fmt::Display;
use std::fs;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::process::{Command, ExitCode};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

server_core::packets! {
    /// The direction in which the player walks from now on. Only its angle counts; zero stops.
    client 1 => CWalk { direction: Place };
    /// All snapshots up to this number are handled.
    client 2 => CAck { number: u64 };
    /// Naive: all players of the world, 16 bytes each.
    server 3 => SWorld { tick: u64 } + bytes;
    /// The changes in the player's sight: records.
    server 4 => SSnapshot {
        number: u64,
        /// Where the player itself is.
        at: Place,
        /// Players in its sight. Those that the budget has left out come later.
        in_sight: u32,
    } + bytes;
    /// In metres.
    part Place { x: f32, y: f32 };
    /// A player of the world.
    part Walker { entity: u64, at: Place };
    /// A change: kind 1 has come into sight, 2 has moved, 3 has gone.
    part Record { kind: u8, walker: Walker };
}

/// The side of the world, in metres.
const SIZE: f32 = 1000.0;
/// A player sees this far, and loses sight of another one beyond 55 metres.
const SIGHT: f32 = 50.0;
const SIGHT_END: f32 = 55.0;
/// Metres in a tick.
const STEP: f32 = 0.5;
/// Bytes of the records of one snapshot.
const BUDGET_BYTES: usize = 1200;
/// A block of ticks is measured as one.
const BLOCK_TICKS: u64 = 10;
const PATIENCE: Duration = Duration::from_secs(30);
const DRAIN: Duration = Duration::from_secs(1);

/// Measures interest management beside a broadcast, with players over real sockets
#[derive(Debug, Parser)]
struct Args {
    /// Players in the world
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u16).range(1..=1000))]
    players: u16,

    /// Blocks of ten ticks of each kind
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..))]
    rounds: u16,

    /// Period of the ticks, in milliseconds
    #[arg(long, value_name = "MS", default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..=1000))]
    tick_ms: u64,

    /// The bots of a server, in a process of their own
    #[arg(long, value_name = "IP:PORT", hide = true)]
    bots_of: Option<SocketAddr>,
}

fn main() -> io::Result<ExitCode> {
    let args = Args::parse();
    if let Some(server) = args.bots_of {
        return bots::interest::play(server, args.players);
    }
    let game = GameLoop::new(Duration::from_millis(args.tick_ms));
    let server = Server::builder().start("127.0.0.1:0", game.players())?;
    let mut bots = Command::new(std::env::current_exe()?)
        .args(["--bots-of", &server.local_addr().to_string()])
        .args(["--players", &args.players.to_string()])
        .spawn()?;
    let (handle, bots_pid) = (server.handle(), bots.id());
    let bots = thread::spawn(move || {
        let status = bots.wait();
        handle.shutdown(Duration::ZERO); // The bots are gone, for whatever reason.
        status
    });
    let is_complete = Arc::new(AtomicBool::new(false));
    let world = World::new(&args, bots_pid, Arc::clone(&is_complete));
    game.run(&server.handle(), world);
    server.join()?;
    let bots = bots
        .join()
        .map_err(|_| io::Error::other("a thread has panicked"))??;
    let has_passed = bots.success() && is_complete.load(Ordering::Relaxed);
    Ok(if has_passed {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Naive,
    Interest,
}

/// The whole world. It lives on the game thread, so it is plain data.
struct World {
    expected: usize,
    grid: InterestGrid,
    players: HashMap<SessionId, Player>,
    /// By the index of its entity: the session of a player, and the tick of its last move.
    walkers: Vec<(SessionId, u64)>,
    records: Vec<u8>,
    measure: Measure,
    started_at: Instant,
    is_complete: Arc<AtomicBool>,
}

struct Player {
    entity: EntityId,
    at: [f32; 2],
    step: [f32; 2],
    view: PlayerView<EntityId>,
}

impl World {
    fn new(args: &Args, bots_pid: u32, is_complete: Arc<AtomicBool>) -> Self {
        let sight = Sight::Radius {
            enter: SIGHT,
            leave: SIGHT_END,
        };
        Self {
            expected: args.players.into(),
            grid: InterestGrid::new([SIZE; 2], sight),
            players: HashMap::new(),
            walkers: Vec::new(),
            records: Vec::new(),
            measure: Measure::new(args.rounds, bots_pid),
            started_at: Instant::now(),
            is_complete,
        }
    }

    fn walk(&mut self, tick: u64) {
        for player in self.players.values_mut() {
            for (at, step) in player.at.iter_mut().zip(&mut player.step) {
                *at += *step;
                if !(0.0..=SIZE).contains(at) {
                    *at = at.clamp(0.0, SIZE);
                    *step = -*step; // Back from the border.
                }
            }
            if player.step != [0.0; 2] {
                self.walkers[player.entity.index()].1 = tick;
            }
        }
    }

    /// One packet with all positions, built once, to all players.
    fn broadcast(&mut self, ctx: &mut GameContext<'_>, tick: u64) {
        ctx.broadcast_built(&SWorld { tick: tick.into() }, |all| {
            for player in self.players.values() {
                all.extend(bytemuck::bytes_of(&walker(player.entity, player.at)));
            }
        });
        self.measure.sent += self.players.len() as u64;
    }

    /// A packet for each player, with what has changed in its sight.
    fn send_snapshots(&mut self, ctx: &mut GameContext<'_>) {
        for player in self.players.values() {
            self.grid.move_to(player.entity, player.at);
        }
        let (players, walkers) = (&mut self.players, &self.walkers);
        self.grid.update(|observer, event| {
            let (session, _) = walkers[observer.index()];
            let Some(player) = players.get_mut(&session) else {
                return;
            };
            match event {
                InterestEvent::Enter(entity) => player.view.enter(entity),
                InterestEvent::Leave(entity) => player.view.leave(entity),
            }
        });
        let (grid, records, sent) = (&self.grid, &mut self.records, &mut self.measure.sent);
        for (session, player) in players {
            records.clear();
            let number = player.view.build(
                BUDGET_BYTES,
                records,
                |entity| (walkers[entity.index()].1, 1),
                |change, records| {
                    let (kind, entity) = match change {
                        ViewChange::Enter(entity) => (1, entity),
                        ViewChange::Update(entity) => (2, entity),
                        ViewChange::Leave(entity) => (3, entity),
                    };
                    let at = grid.position(entity).unwrap_or_default();
                    let walker = walker(entity, at);
                    records.extend(bytemuck::bytes_of(&Record { kind, walker }));
                },
            );
            if let Some(number) = number {
                let head = SSnapshot {
                    number: number.into(),
                    at: place(player.at),
                    in_sight: (grid.visible(player.entity).count() as u32).into(),
                };
                ctx.send(*session, &head, &records);
                *sent += 1;
            }
        }
    }
}

fn place([x, y]: [f32; 2]) -> Place {
    Place {
        x: x.into(),
        y: y.into(),
    }
}

fn walker(entity: EntityId, at: [f32; 2]) -> Walker {
    Walker {
        entity: entity.to_u64().into(),
        at: place(at),
    }
}

impl Game for World {
    fn on_join(&mut self, _: &mut GameContext<'_>, session: SessionId) {
        let mut random = fastrand::Rng::with_seed(session.to_u64());
        let at = [SIZE * random.f32(), SIZE * random.f32()];
        let entity = self.grid.insert_observer(at);
        let walkers = self.walkers.len().max(entity.index() + 1);
        self.walkers.resize(walkers, (session, 0));
        self.walkers[entity.index()] = (session, 0);
        let player = Player {
            entity,
            at,
            step: [0.0; 2],
            view: PlayerView::default(),
        };
        self.players.insert(session, player);
    }

    fn on_packet(
        &mut self,
        _: &mut GameContext<'_>,
        session: SessionId,
        packet: Packet<'_>,
    ) -> Result<(), Kick> {
        let Some(player) = self.players.get_mut(&session) else {
            return Ok(());
        };
        match packet.id() {
            CWalk::ID => {
                let Place { x, y } = packet.decode::<CWalk>()?.direction;
                let length = x.get().hypot(y.get());
                if !length.is_finite() {
                    return Err(Kick::BadPayload);
                }
                let metres = if length > 0.0 { STEP / length } else { 0.0 };
                player.step = [x.get() * metres, y.get() * metres];
                Ok(())
            }
            CAck::ID => player
                .view
                .acknowledge(packet.decode::<CAck>()?.number.get()),
            _ => Err(Kick::UnknownId),
        }
    }

    fn on_leave(&mut self, _: &mut GameContext<'_>, session: SessionId, _: DisconnectReason) {
        if let Some(player) = self.players.remove(&session) {
            self.grid.remove(player.entity);
        }
    }

    fn on_tick(&mut self, ctx: &mut GameContext<'_>, tick: Tick) {
        if self.measure.blocks.is_empty() && self.players.len() < self.expected {
            if self.started_at.elapsed() > PATIENCE {
                say(format_args!(
                    "FAILED: {} players after {PATIENCE:?}",
                    self.players.len()
                ));
                ctx.server().shutdown(DRAIN);
            }
            return;
        }
        self.walk(tick.number);
        match self.measure.next(ctx.server()) {
            Step::Tick(Kind::Naive) => self.broadcast(ctx, tick.number),
            Step::Tick(Kind::Interest) => self.send_snapshots(ctx),
            Step::Wait => {}
            Step::Done => {
                if !self.is_complete.swap(true, Ordering::Relaxed) {
                    say(self.measure.table(self.players.len()));
                    ctx.server().shutdown(DRAIN);
                }
            }
        }
    }
}

enum Step {
    Tick(Kind),
    /// For the end of the packets of a block.
    Wait,
    Done,
}

/// The costs of blocks of ticks.
struct Measure {
    rounds: usize,
    bots_pid: u32,
    /// Of the present block: ticks, packets to players, and the numbers at its start.
    ticks: u64,
    sent: u64,
    began: Cost,
    blocks: Vec<(Kind, Cost)>,
}

#[derive(Clone, Copy, Default)]
struct Cost {
    bytes: u64,
    packets: u64,
    cpu: Duration,
    bots_cpu: Duration,
}

impl Cost {
    fn now(server: &ServerHandle, bots_pid: u32) -> Self {
        let totals = server.metrics().totals();
        Self {
            bytes: totals.bytes_sent,
            packets: totals.packets_sent,
            cpu: cpu_time(std::process::id()),
            bots_cpu: cpu_time(bots_pid),
        }
    }

    fn since(self, began: Self) -> Self {
        Self {
            bytes: (self.bytes - began.bytes) / BLOCK_TICKS,
            packets: (self.packets - began.packets) / BLOCK_TICKS,
            cpu: self.cpu.saturating_sub(began.cpu) / BLOCK_TICKS as u32,
            bots_cpu: self.bots_cpu.saturating_sub(began.bots_cpu) / BLOCK_TICKS as u32,
        }
    }
}

impl Measure {
    fn new(rounds: u16, bots_pid: u32) -> Self {
        Self {
            rounds: rounds.into(),
            bots_pid,
            ticks: 0,
            sent: 0,
            began: Cost::default(),
            blocks: Vec::new(),
        }
    }

    fn next(&mut self, server: &ServerHandle) -> Step {
        if self.ticks == BLOCK_TICKS {
            if server.metrics().totals().packets_sent < self.began.packets + self.sent {
                return Step::Wait;
            }
            let cost = Cost::now(server, self.bots_pid).since(self.began);
            self.blocks.push((self.kind(), cost));
            self.ticks = 0;
        }
        // The first block of each kind is a warm-up.
        if self.blocks.len() == 2 * (self.rounds + 1) {
            return Step::Done;
        }
        if self.ticks == 0 {
            self.began = Cost::now(server, self.bots_pid);
            self.sent = 0;
        }
        self.ticks += 1;
        Step::Tick(self.kind())
    }

    fn kind(&self) -> Kind {
        if self.blocks.len().is_multiple_of(2) {
            Kind::Naive
        } else {
            Kind::Interest
        }
    }

    fn median(&self, kind: Kind) -> [f64; 4] {
        let of_kind = self.blocks[2..].iter().filter(|block| block.0 == kind);
        let costs: Vec<Cost> = of_kind.map(|block| block.1).collect();
        let median = |of: fn(&Cost) -> f64| {
            let mut values: Vec<f64> = costs.iter().map(of).collect();
            values.sort_by(f64::total_cmp);
            values[values.len() / 2]
        };
        [
            median(|cost| cost.packets as f64),
            median(|cost| cost.bytes as f64 / 1e3),
            median(|cost| cost.cpu.as_secs_f64() * 1e3),
            median(|cost| cost.bots_cpu.as_secs_f64() * 1e3),
        ]
    }

    fn table(&self, players: usize) -> String {
        let rounds = self.rounds;
        let mut table = format!(
            "{players} players, median of {rounds} blocks of {BLOCK_TICKS} ticks\n\n\
             | a tick | packets | kB sent | CPU of the server, ms | CPU of the clients, ms |\n\
             |---|---|---|---|---|\n"
        );
        let (naive, interest) = (self.median(Kind::Naive), self.median(Kind::Interest));
        for (name, [packets, kilobytes, cpu, bots_cpu]) in
            [("naive broadcast", naive), ("interest", interest)]
        {
            table +=
                &format!("| {name} | {packets} | {kilobytes:.1} | {cpu:.2} | {bots_cpu:.2} |\n");
        }
        let [bytes, cpu, bots_cpu] = [1, 2, 3].map(|column| naive[column] / interest[column]);
        table + &format!("| naive / interest | | {bytes:.1} | {cpu:.1} | {bots_cpu:.1} |")
    }
}

/// CPU time of the threads of a process, as far as the system tells: zero where it is not Linux.
fn cpu_time(pid: u32) -> Duration {
    let nanos = |task: fs::DirEntry| -> Option<u64> {
        let text = fs::read_to_string(task.path().join("schedstat")).ok()?;
        text.split(' ').next()?.parse().ok()
    };
    let tasks = fs::read_dir(format!("/proc/{pid}/task"))
        .into_iter()
        .flatten()
        .flatten();
    Duration::from_nanos(tasks.filter_map(nanos).sum())
}

/// Prints a line on standard output. A closed pipe is not an error here; `println!` would panic.
fn say(line: impl Display) {
    let _ = writeln!(io::stdout(), "{line}");
}
