//! One world on three nodes: each node serves one zone, and players walk from zone to zone.
//!
//! ```text
//!  zone 0, node west      zone 1, node mid       zone 2, node east
//!  127.0.0.1:4001         127.0.0.1:4002         127.0.0.1:4003
//!        │ CWalk to zone 1 │                            │
//!        │ ◄─── ada ──     │                            │
//!        │ SGo 127.0.0.1:4002                           │        ada connects to mid and logs in: mid has the newest
//!        │             ada ──► CLogin                   │        session of the account, and west ends the older one
//!        └────────────── Redis: heartbeats, logins, SPlayers of each zone, tells ────┘
//! ```
//!
//! ```sh
//! redis-server --port 6379 &
//! cargo run -p server_core --features cluster --example world -- --bots 6     # three nodes, and bots that walk
//! cargo run -p server_core --features cluster --example world -- --node west --zone 0 --addr 127.0.0.1:4001
//! ```
//!
//! The name of a node in the cluster is its zone, its address and its own name. So each node finds the node of a zone
//! in [`Cluster::nodes`], without a list of addresses, and a node that has ended is out of it after 5 s.

mod bots;

use clap::Parser;
use server_core::cluster::{Cluster, LoginAnswer};
use server_core::{
    Context, DisconnectReason, Handlers, Kick, List, Packet, Server, Session, SessionId, Ticker,
};
use std::collections::BTreeMap;
use std::fmt::Display;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread;
use std::time::Duration;

server_core::packets! {
    /// The account of this player. The newest session of an account stays.
    client 1 => CLogin + text(1..=32);
    /// To the zone next to this one.
    client 2 => CWalk { zone: u32 };
    /// A line for the player of an account, on any node.
    client 3 => CTell<'a> { to: &'a str where 1..=32, text: &'a str where 1..=200 };
    /// The login is done.
    server 4 => SLogin {
        zone: u32,
        /// 1: an older session of the account ends now.
        has_replaced: u32,
    };
    /// The zone is on the node at this address: connect there and log in.
    server 5 => SGo<'a> { zone: u32, addr: &'a str };
    /// No node serves the zone now.
    server 6 => SStay { zone: u32 };
    /// A line of another player.
    server 7 => STold<'a> { from: &'a str, text: &'a str };
    /// The players of one zone, several times a second, to the players of all zones.
    server 8 => SPlayers<'a> { zone: u32, node: &'a str, accounts: List<'a, &'a str> };
}

/// The zones are in a row.
const ZONES: u32 = 3;
const TICK: Duration = Duration::from_millis(200);
const NOT_LOGGED_IN: Kick = Kick::Custom(1000, "not_logged_in");
const TOO_FAR: Kick = Kick::Custom(1001, "too_far");
const SECOND_LOGIN: Kick = Kick::Custom(1002, "second_login");
const NOT_IN_THE_CLUSTER: Kick = Kick::Custom(1003, "not_in_the_cluster");

/// One node of a world, or all three with bots
#[derive(Clone, Debug, Parser)]
struct Args {
    /// Broker of the world
    #[arg(long, value_name = "URL", default_value = "redis://127.0.0.1:6379/")]
    broker: String,

    /// Serve as the node of this name, until Ctrl-C
    #[arg(long, requires = "zone", value_name = "NAME")]
    node: Option<String>,

    /// Zone of the node
    #[arg(long, requires = "node", value_parser = clap::value_parser!(u32).range(..i64::from(ZONES)))]
    zone: Option<u32>,

    /// Where the node listens
    #[arg(long, value_name = "IP:PORT", default_value = "127.0.0.1:0")]
    addr: SocketAddr,

    /// Without --node: start three nodes, and bots that walk through all zones
    #[arg(long, value_name = "N", default_value_t = 6, value_parser = clap::value_parser!(u16).range(2..=200))]
    bots: u16,

    /// End when standard input ends
    #[arg(long, hide = true)]
    ends_with_input: bool,
}

fn main() -> ExitCode {
    let args = Args::parse();
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("warn")).init();
    let outcome = match (&args.node, args.zone) {
        (Some(node), Some(zone)) => serve(&args, node, zone).map_err(|error| error.to_string()),
        _ => bots::run(&args).map(|line| say(format_args!("passed: {line}"))),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            say(format_args!("FAILED: {why}"));
            ExitCode::FAILURE
        }
    }
}

fn serve(args: &Args, node: &str, zone: u32) -> io::Result<()> {
    let world = Arc::new(World {
        zone,
        cluster: OnceLock::new(),
        players: Mutex::default(),
    });
    let of_sessions = Arc::clone(&world);
    let server = Server::builder().start(args.addr, move |_peer| Player {
        world: Arc::clone(&of_sessions),
        asked: None,
        account: None,
    })?;
    let (handle, addr) = (server.handle(), server.local_addr());
    let cluster = Cluster::builder(args.broker.as_str())
        .node(format!("{zone} {addr} {node}"))
        .start(&handle)?;
    let _ = world.cluster.set(cluster.clone());
    say(format_args!("listening on {addr}"));
    if args.ends_with_input {
        let handle = handle.clone();
        thread::spawn(move || {
            let _ = io::copy(&mut io::stdin(), &mut io::sink());
            handle.shutdown(Duration::from_secs(1));
        });
    }
    Ticker::new(TICK).for_server(&handle).run(|_| {
        let players = world.players();
        let accounts: Vec<&str> = players.values().map(|account| &**account).collect();
        let accounts = List::of(&accounts);
        // A zone with more accounts than a packet holds is not told.
        if let Ok(packet) = handle.encode_packet(&SPlayers {
            zone,
            node,
            accounts,
        }) {
            cluster.broadcast_everybody(&packet);
        }
    });
    let ended = server.join();
    cluster.leave();
    ended.map_err(io::Error::other)
}

/// What the sessions of this node share.
struct World {
    zone: u32,
    cluster: OnceLock<Cluster>,
    players: Mutex<BTreeMap<SessionId, Box<str>>>,
}

impl World {
    fn players(&self) -> MutexGuard<'_, BTreeMap<SessionId, Box<str>>> {
        self.players.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The address of the node of a zone. A node that was started anew has an older one beside it for 5 s: the node
    /// that was heard last is it.
    fn addr_of(&self, zone: u32) -> Option<String> {
        let nodes = self.cluster.get()?.nodes().nodes;
        let of_zone = nodes.iter().filter_map(|node| {
            let mut words = node.name.split(' ');
            let is_it = words.next()?.parse() == Ok(zone);
            Some((node.age, words.next().filter(|_| is_it)?))
        });
        let (_, addr) = of_zone.min()?;
        Some(addr.to_owned())
    }
}

/// One player on this node.
struct Player {
    world: Arc<World>,
    /// The account of a login without an answer.
    asked: Option<Box<str>>,
    /// From the answer to the login on.
    account: Option<Box<str>>,
}

static HANDLERS: LazyLock<Handlers<Player>> = LazyLock::new(|| {
    Handlers::new()
        .on::<CLogin>(Player::on_login_packet)
        .on::<CWalk>(Player::on_walk)
        .on::<CTell<'_>>(Player::on_tell)
});

impl Player {
    fn on_login_packet(&mut self, ctx: &mut Context<'_>, account: &str) -> Result<(), Kick> {
        // Each login costs the broker two requests.
        if self.asked.is_some() || self.account.is_some() {
            return Err(SECOND_LOGIN);
        }
        let cluster = self.world.cluster.get().ok_or(NOT_IN_THE_CLUSTER)?;
        self.asked = Some(account.into());
        cluster.login(ctx.id(), account);
        Ok(())
    }

    fn on_walk(&mut self, ctx: &mut Context<'_>, walk: &CWalk) -> Result<(), Kick> {
        self.account.as_ref().ok_or(NOT_LOGGED_IN)?;
        let to = walk.zone.get();
        if to >= ZONES || to.abs_diff(self.world.zone) != 1 {
            return Err(TOO_FAR);
        }
        match self.world.addr_of(to) {
            Some(addr) => ctx.send_packet(&SGo {
                zone: to,
                addr: &addr,
            }),
            None => ctx.send_packet(&SStay { zone: to.into() }),
        }
        Ok(())
    }

    fn on_tell(&mut self, ctx: &mut Context<'_>, tell: CTell<'_>) -> Result<(), Kick> {
        let from = self.account.as_deref().ok_or(NOT_LOGGED_IN)?;
        let text = tell.text;
        if let Some(cluster) = self.world.cluster.get()
            && let Ok(packet) = ctx.encode_packet(&STold { from, text })
        {
            cluster.tell(tell.to, &packet);
        }
        Ok(())
    }
}

impl Session for Player {
    fn on_packet(&mut self, ctx: &mut Context<'_>, packet: Packet<'_>) -> Result<(), Kick> {
        HANDLERS.dispatch(self, ctx, packet)
    }

    fn on_login(&mut self, ctx: &mut Context<'_>, answer: LoginAnswer) {
        let has_replaced: u32 = (answer == LoginAnswer::Replaced).into();
        ctx.admit();
        self.account = self.asked.take();
        if let Some(account) = &self.account {
            self.world.players().insert(ctx.id(), account.clone());
        }
        ctx.send_packet(&SLogin {
            zone: self.world.zone.into(),
            has_replaced: has_replaced.into(),
        });
    }

    fn on_disconnected(&mut self, ctx: &mut Context<'_>, _: DisconnectReason) {
        self.world.players().remove(&ctx.id());
    }
}

/// Prints a line on standard output. A closed pipe is not an error here; `println!` would panic.
fn say(line: impl Display) {
    let _ = writeln!(io::stdout(), "{line}");
}
