//! `GameLoop` beside the same game by hand: 1,000 players that send a step every 50 ms, and 20 ticks a second, each
//! of which answers each player and tells all players the state of the race.
//!
//! By hand, a session sends its steps through one bounded channel to a thread with a `Ticker`. That has no
//! fairness: a flood takes the place of the steps of others.
//!
//! The clients are another process. The CPU time is the user and system time of the server. The two ways take turns,
//! and each round prints the ratio. Linux only.

use process::cpu_nanos;
use server_core::tick::Tick;
use server_core::{
    Context, DisconnectReason, Game, GameContext, GameLoop, Kick, Packet, Server, ServerHandle,
    Session, SessionId, Ticker,
};
use std::collections::HashMap;
use std::io::{self, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

#[path = "util/process.rs"]
mod process;

server_core::packets! {
    client 1 => CStep;
    server 3 => SYou { steps: u32 };
    server 4 => SRace { tick: u64, runners: u32, longest: u32 };
}

const PLAYERS: usize = 1_000;
const TICK: Duration = Duration::from_millis(50);
const ROUNDS: usize = 5;
const ROUND: Duration = Duration::from_secs(5);
const PATIENCE: Duration = Duration::from_secs(60);
/// The first argument of the process of clients. The address follows it.
const CLIENTS: &str = "clients-of";

fn main() -> io::Result<()> {
    let mut arguments = std::env::args().skip_while(|argument| argument != CLIENTS);
    if let (Some(_), Some(addr)) = (arguments.next(), arguments.next()) {
        return be_clients(&addr);
    }
    println!("{PLAYERS} players, 20 ticks a second: CPU time of the server for one second");
    let (mut loops, mut hands) = (0.0, 0.0);
    for _ in 0..ROUNDS {
        let by_loop = round(start_loop)?;
        let by_hand = round(start_by_hand)?;
        (loops, hands) = (loops + by_loop, hands + by_hand);
        let (by_loop_ms, by_hand_ms) = (by_loop * 1e3, by_hand * 1e3);
        println!(
            "GameLoop {by_loop_ms:.0} ms | by hand {by_hand_ms:.0} ms | x{:.3}",
            by_loop / by_hand
        );
    }
    println!("all rounds: x{:.3}", loops / hands);
    Ok(())
}

/// A server and its game, on a thread.
type Running = (Server, thread::JoinHandle<()>);

/// The CPU time of one server for one second of the game.
fn round(start: fn() -> io::Result<Running>) -> io::Result<f64> {
    let (server, game) = start()?;
    let mut clients = Command::new(std::env::current_exe()?)
        .args([CLIENTS, &server.local_addr().to_string()])
        .stdin(Stdio::piped())
        .spawn()?;
    let outcome = measure(&server.handle());
    // The end of its standard input ends the process of clients.
    drop(clients.stdin.take());
    clients.wait()?;
    server.handle().shutdown(Duration::ZERO);
    if game.join().is_err() {
        return Err(io::Error::other("the game has panicked"));
    }
    server.join()?;
    outcome
}

fn measure(server: &ServerHandle) -> io::Result<f64> {
    let (began, received) = (Instant::now(), || {
        server.metrics().totals().packets_received
    });
    // All players have connected, and play.
    while server.metrics().totals().sessions < PLAYERS as u64 || received() < PLAYERS as u64 {
        if began.elapsed() > PATIENCE {
            return Err(io::Error::other("not all clients have connected"));
        }
        thread::sleep(TICK);
    }
    thread::sleep(TICK * 10);
    let (began, before, cpu_before) = (Instant::now(), received(), cpu_secs()?);
    thread::sleep(ROUND);
    let (took, cpu) = (began.elapsed().as_secs_f64(), cpu_secs()? - cpu_before);
    // Both ways are compared for the same work only.
    let (steps, expected) = ((received() - before) as f64, PLAYERS as f64 * 20.0 * took);
    if steps < expected * 0.95 {
        return Err(io::Error::other(format!(
            "{steps} of {expected} steps: the machine is busy"
        )));
    }
    Ok(cpu / took)
}

fn be_clients(addr: &str) -> io::Result<()> {
    let all: io::Result<Vec<TcpStream>> = (0..PLAYERS).map(|_| TcpStream::connect(addr)).collect();
    let mut all = all.inspect_err(|error| eprintln!("{PLAYERS} connections: {error}"))?;
    for client in &all {
        client.set_nonblocking(true)?;
        client.set_nodelay(true)?;
    }
    let end = thread::spawn(|| io::stdin().read_to_end(&mut Vec::new()));
    let (mut next_at, mut buffer) = (Instant::now(), vec![0; 64 << 10]);
    while !end.is_finished() {
        for client in &mut all {
            // A step, and whatever has come.
            let sent = client.write(&[4, 0, 1, 0]).map(|_| ());
            let read = client.read(&mut buffer).map(|_| ());
            for outcome in [sent, read] {
                match outcome {
                    Err(error) if error.kind() != ErrorKind::WouldBlock => return Ok(()),
                    _ => {}
                }
            }
        }
        next_at += TICK;
        thread::sleep(next_at.saturating_duration_since(Instant::now()));
    }
    Ok(())
}

/// The whole world.
#[derive(Default)]
struct Race {
    runners: HashMap<SessionId, Runner>,
}

#[derive(Default)]
struct Runner {
    steps: u32,
    has_moved: bool,
}

impl Race {
    fn step(&mut self, id: SessionId) {
        if let Some(runner) = self.runners.get_mut(&id) {
            runner.steps += 1;
            runner.has_moved = true;
        }
    }

    fn tell(&mut self, tick: u64, server: &ServerHandle) {
        for (id, runner) in &mut self.runners {
            if std::mem::take(&mut runner.has_moved) {
                server.send_packet_to(*id, &SYou::new(runner.steps));
            }
        }
        let longest = self.runners.values().map(|runner| runner.steps).max();
        let runners = self.runners.len() as u32;
        server.broadcast_packet(&SRace::new(tick, runners, longest.unwrap_or(0)));
    }
}

impl Game for Race {
    fn on_join(&mut self, _: &mut GameContext<'_>, player: SessionId) {
        self.runners.insert(player, Runner::default());
    }

    fn on_packet(
        &mut self,
        _: &mut GameContext<'_>,
        player: SessionId,
        packet: Packet<'_>,
    ) -> Result<(), Kick> {
        packet.decode::<CStep>()?;
        self.step(player);
        Ok(())
    }

    fn on_leave(&mut self, _: &mut GameContext<'_>, player: SessionId, _: DisconnectReason) {
        self.runners.remove(&player);
    }

    fn on_tick(&mut self, ctx: &mut GameContext<'_>, tick: Tick) {
        self.tell(tick.number, ctx.server());
    }
}

fn start_loop() -> io::Result<Running> {
    let game = GameLoop::new(TICK);
    let server = Server::builder()
        .workers(2)
        .start("127.0.0.1:0", game.players())?;
    let handle = server.handle();
    let thread = thread::spawn(move || game.run(&handle, Race::default()));
    Ok((server, thread))
}

/// What a worker tells the game thread of a session.
enum Input {
    Joined(SessionId),
    Step(SessionId),
    Left(SessionId),
}

/// One client, on its worker.
struct Forwarder {
    inputs: SyncSender<Input>,
}

impl Session for Forwarder {
    fn on_connected(&mut self, ctx: &mut Context<'_>) {
        let _ = self.inputs.try_send(Input::Joined(ctx.id()));
    }

    fn on_packet(&mut self, ctx: &mut Context<'_>, packet: Packet<'_>) -> Result<(), Kick> {
        packet.decode::<CStep>()?;
        let _ = self.inputs.try_send(Input::Step(ctx.id()));
        Ok(())
    }

    fn on_disconnected(&mut self, ctx: &mut Context<'_>, _: DisconnectReason) {
        let _ = self.inputs.try_send(Input::Left(ctx.id()));
    }
}

fn start_by_hand() -> io::Result<Running> {
    let (inputs, of_game): (_, Receiver<Input>) = sync_channel(16 << 10);
    let server = Server::builder()
        .workers(2)
        .start("127.0.0.1:0", move |_| Forwarder {
            inputs: inputs.clone(),
        })?;
    let handle = server.handle();
    let thread = thread::spawn(move || {
        let mut race = Race::default();
        Ticker::new(TICK).for_server(&handle).run(|tick| {
            for input in of_game.try_iter().take(16 << 10) {
                match input {
                    Input::Joined(id) => {
                        race.runners.insert(id, Runner::default());
                    }
                    Input::Step(id) => race.step(id),
                    Input::Left(id) => {
                        race.runners.remove(&id);
                    }
                }
            }
            race.tell(tick.number, &handle);
        });
    });
    Ok((server, thread))
}

fn cpu_secs() -> io::Result<f64> {
    Ok(cpu_nanos(std::process::id(), "")? as f64 / 1e9)
}
