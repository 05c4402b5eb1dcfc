//! Three nodes as processes, and bots that walk through all zones: each checks what it sees.

use crate::{Args, CLogin, CTell, CWalk, SGo, SLogin, SPlayers, SStay, STold, ZONES, say};
use crossbeam_channel::Sender;
use server_core::{
    Context, DisconnectReason, Kick, Packet, Server, ServerHandle, Session, SessionId,
};
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

const NODES: [&str; ZONES as usize] = ["west", "mid", "east"];
/// Hand-overs of each bot: to one end of the world, back to the other end, and on.
const HOPS: u32 = 6;
const PAUSE: Duration = Duration::from_millis(150);
const PATIENCE: Duration = Duration::from_secs(40);

/// Starts the nodes and the bots, and waits for the bots. The line sums up what they saw.
pub fn run(args: &Args) -> Result<String, String> {
    let nodes: Vec<Node> = (0..)
        .zip(NODES)
        .map(|(zone, name)| Node::start(args, zone, name))
        .collect::<Result<_, _>>()?;
    let (teller, told) = crossbeam_channel::unbounded();
    let crowd = Arc::new(Crowd {
        client: OnceLock::new(),
        walkers: Mutex::new(vec![Walker::default(); args.bots.into()]),
        teller,
    });
    let of_bots = Arc::clone(&crowd);
    let client = Server::builder().workers(1).start_client(move |peer| Bot {
        number: peer.tag.unwrap_or_default() as usize,
        crowd: Arc::clone(&of_bots),
        zone: None,
        table: BTreeMap::new(),
    });
    let client = client.map_err(|error| error.to_string())?;
    let _ = crowd.client.set(client.handle());
    for bot in 0..args.bots {
        let zone = u32::from(bot) % ZONES;
        crowd.connect(bot.into(), zone, nodes[zone as usize].addr)?;
    }
    let until = Instant::now() + PATIENCE;
    for passed in 0..args.bots {
        (told.recv_deadline(until))
            .unwrap_or_else(|_| Err(format!("{passed} of {} bots have passed", args.bots)))?;
    }
    client.handle().shutdown(Duration::from_secs(1));
    client.join().map_err(|error| error.to_string())?;
    Ok(format!(
        "{} bots on {} nodes, {} hand-overs, and each older session was ended by the newer login",
        args.bots,
        nodes.len(),
        u32::from(args.bots) * HOPS
    ))
}

/// A node as a process. The drop ends its input, and so the node.
struct Node {
    process: Child,
    addr: SocketAddr,
}

impl Node {
    fn start(args: &Args, zone: u32, name: &str) -> Result<Self, String> {
        let failed = |error: &dyn std::fmt::Display| format!("node {name}: {error}");
        let program = std::env::current_exe().map_err(|error| failed(&error))?;
        let mut process = Command::new(program)
            .args(["--broker", &args.broker, "--node", name])
            .args(["--zone", &zone.to_string(), "--ends-with-input"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| failed(&error))?;
        let mut line = String::new();
        if let Some(stdout) = process.stdout.take() {
            // An end without a line is an address that cannot be read.
            let _ = BufReader::new(stdout).read_line(&mut line);
        }
        let addr = line.trim_start_matches("listening on ").trim().parse();
        let addr = addr.map_err(|_| failed(&format!("did not start: {line}")));
        let mut node = Self {
            process,
            addr: SocketAddr::from(([127, 0, 0, 1], 0)),
        };
        // In the case of an error, the drop ends the process.
        node.addr = addr?;
        Ok(node)
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        drop(self.process.stdin.take());
        let _ = self.process.wait();
    }
}

/// What all bots share.
struct Crowd {
    client: OnceLock<ServerHandle>,
    walkers: Mutex<Vec<Walker>>,
    teller: Sender<Result<(), String>>,
}

/// One bot, over all its connections.
#[derive(Clone, Default)]
struct Walker {
    hops: u32,
    is_eastward: bool,
    /// Where the newest session is.
    zone: u32,
    newest: Option<SessionId>,
    /// Older sessions that have ended.
    ended: u32,
    was_told: bool,
    has_passed: bool,
}

impl Crowd {
    fn walkers(&self) -> MutexGuard<'_, Vec<Walker>> {
        self.walkers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next connection of a bot.
    fn connect(&self, number: usize, zone: u32, addr: SocketAddr) -> Result<(), String> {
        let walker = &mut self.walkers()[number];
        (walker.zone, walker.newest) = (zone, None);
        let client = self.client.get().ok_or("no client")?;
        let begun = client.connect(addr, number as u64);
        begun.map_err(|error| error.to_string())
    }

    fn check(&self, holds: bool, claim: &str, number: usize) -> Result<(), Kick> {
        if holds {
            return Ok(());
        }
        let _ = self
            .teller
            .send(Err(format!("bot-{number}: not so: {claim}")));
        Err(Kick::BadPayload)
    }
}

/// One connection of a bot.
struct Bot {
    number: usize,
    crowd: Arc<Crowd>,
    /// From the login on.
    zone: Option<u32>,
    /// The accounts of each zone, as this node tells.
    table: BTreeMap<u32, Vec<String>>,
}

impl Bot {
    fn on_login(&mut self, ctx: &mut Context<'_>, login: &SLogin) -> Result<(), Kick> {
        let zone = login.zone.get();
        self.zone = Some(zone);
        let expected = {
            let walker = &mut self.crowd.walkers()[self.number];
            walker.newest = Some(ctx.id());
            walker.zone
        };
        let claim = "the address is of the zone";
        self.crowd.check(expected == zone, claim, self.number)?;
        ctx.set_timer(ctx.now() + PAUSE);
        Ok(())
    }

    fn on_go(&mut self, go: &SGo<'_>) -> Result<(), Kick> {
        self.crowd.walkers()[self.number].hops += 1;
        let addr = go.addr.parse().map_err(|_| Kick::BadPayload)?;
        let begun = self.crowd.connect(self.number, go.zone, addr);
        self.crowd
            .check(begun.is_ok(), "the next node can be reached", self.number)
    }

    fn on_players(&mut self, ctx: &mut Context<'_>, players: &SPlayers<'_>) {
        let mut accounts: Vec<String> = players.accounts.iter().map(str::to_owned).collect();
        accounts.sort_unstable();
        let before = self.table.insert(players.zone, accounts.clone());
        if self.number == 0 && before.as_ref() != Some(&accounts) {
            let (here, zone, node) = (self.zone, players.zone, players.node);
            let here = here.map_or("nowhere".to_owned(), |zone| format!("zone {zone}"));
            say(format_args!(
                "bot-0 in {here} sees in zone {zone} ({node}): {}",
                accounts.join(" ")
            ));
        }
        let mut walkers = self.crowd.walkers();
        let next = (self.number + 1) % walkers.len();
        let mut truth: BTreeMap<u32, Vec<String>> = (0..ZONES).map(|zone| (zone, vec![])).collect();
        for (number, walker) in walkers.iter().enumerate() {
            truth
                .entry(walker.zone)
                .or_default()
                .push(format!("bot-{number}"));
        }
        truth
            .values_mut()
            .for_each(|accounts| accounts.sort_unstable());
        let walker = &walkers[self.number];
        if walker.hops < HOPS || walker.newest != Some(ctx.id()) {
            return;
        }
        // At most once: it is told again until all is over.
        let (to, text) = (format!("bot-{next}"), "hello");
        ctx.send_packet(&CTell { to: &to, text });
        let has_all = self.table == truth && walkers.iter().all(|walker| walker.hops == HOPS);
        let walker = &mut walkers[self.number];
        if has_all && walker.was_told && walker.ended == HOPS && !walker.has_passed {
            walker.has_passed = true;
            let _ = self.crowd.teller.send(Ok(()));
        }
    }

    fn on_told(&mut self, told: &STold<'_>) -> Result<(), Kick> {
        let mut walkers = self.crowd.walkers();
        let before = (self.number + walkers.len() - 1) % walkers.len();
        walkers[self.number].was_told = true;
        drop(walkers);
        let is_right = told.from == format!("bot-{before}") && told.text == "hello";
        self.crowd
            .check(is_right, "a line is told by its sender", self.number)
    }
}

impl Session for Bot {
    fn on_connected(&mut self, ctx: &mut Context<'_>) {
        ctx.send(&CLogin, format!("bot-{}", self.number));
    }

    fn on_packet(&mut self, ctx: &mut Context<'_>, packet: Packet<'_>) -> Result<(), Kick> {
        match packet.id() {
            SLogin::ID => self.on_login(ctx, packet.decode::<SLogin>()?)?,
            SGo::ID => self.on_go(&packet.decode::<SGo<'_>>()?)?,
            // Heartbeats of the node of that zone have not arrived yet.
            SStay::ID => ctx.set_timer(ctx.now() + PAUSE),
            STold::ID => self.on_told(&packet.decode::<STold<'_>>()?)?,
            _ => self.on_players(ctx, &packet.decode::<SPlayers<'_>>()?),
        }
        Ok(())
    }

    fn on_timer(&mut self, ctx: &mut Context<'_>) {
        let Some(zone) = self.zone else { return };
        let walker = &mut self.crowd.walkers()[self.number];
        if walker.hops >= HOPS || walker.newest != Some(ctx.id()) {
            return;
        }
        match zone {
            0 => walker.is_eastward = true,
            zone if zone == ZONES - 1 => walker.is_eastward = false,
            _ => {}
        }
        let next = if walker.is_eastward {
            zone + 1
        } else {
            zone - 1
        };
        ctx.send_packet(&CWalk { zone: next.into() });
    }

    fn on_disconnected(&mut self, ctx: &mut Context<'_>, reason: DisconnectReason) {
        let mut walkers = self.crowd.walkers();
        let walker = &mut walkers[self.number];
        walker.ended += 1;
        let is_older = self.zone.is_some() && walker.newest != Some(ctx.id());
        drop(walkers);
        let is_end = reason == DisconnectReason::Shutdown;
        let claim = format!("the newest session stays: {reason:?}");
        let _ = self.crowd.check(is_older || is_end, &claim, self.number);
    }
}
