//! The cost of a cluster over a real Redis: three nodes, each a process with one worker.
//!
//! - **idle**: processor time of each node without sessions.
//! - **one link**: the packets a second that a node publishes as fast as the broker confirms them, and the processor
//!   time of each side for a packet.
//! - **world chat**: a packet of 64 bytes from the first node to 1,000 sessions on each node, beside a local broadcast of
//!   the same on all nodes at the same time. The time of the link's threads is shown by itself.
//!
//! The clients are another process, which reads and discards. Processor time is user and system. Linux only; needs the
//! program redis-server.
//!
//! ```sh
//! cargo bench -p server_core --bench cluster_over_redis
//! ```

use process::{Process, cpu_nanos, discard_all, median};
use server_core::cluster::{Cluster, ClusterMetrics, Why};
use server_core::testing::Redis;
use server_core::{Context, Kick, Packet, Server, Session};
use std::io::{self, BufRead, BufReader, Write};
use std::net::TcpStream;
use std::process::{ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};
use std::{iter, thread};

#[path = "util/process.rs"]
mod process;

server_core::packets! {
    /// 64 bytes with its header.
    server 1 => SChat { number: u64 } + bytes;
}

const NODES: usize = 3;
/// Of each node.
const SESSIONS: usize = 1_000;
const ROUNDS: usize = 5;
const CHATS: u64 = 100;
const CHAT_EVERY: Duration = Duration::from_millis(50);
const IDLE: Duration = Duration::from_secs(10);
const FLOOD: Duration = Duration::from_secs(5);
/// Packets that wait for the broker's confirmation at a time.
const UNCONFIRMED: u64 = 2_000;
const TAIL: [u8; 52] = [7; 52];
const PATIENCE: Duration = Duration::from_secs(60);
/// The first argument of a process of clients. The addresses follow.
const CLIENTS: &str = "clients-of";
/// The first argument of a node. The URL of the broker follows.
const NODE: &str = "node-at";

fn main() -> io::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.first().map(String::as_str) {
        Some(CLIENTS) => return be_clients(&arguments[1..]),
        Some(NODE) => return be_node(&arguments[1]),
        _ => {}
    }
    let Some(redis) = Redis::start() else {
        return Ok(());
    };
    let mut nodes = Vec::new();
    for _ in 0..NODES {
        nodes.push(Node::start(redis.url())?);
    }
    wait_for(&mut nodes, "the cluster", |state| {
        state.nodes == NODES as u64
    })?;
    print_idle(&mut nodes)?;
    print_one_link(&mut nodes)?;
    let mut clients = Command::new(std::env::current_exe()?);
    clients.arg(CLIENTS);
    clients.args(nodes.iter().map(|node| &node.addr));
    let _clients = Process(clients.stdin(Stdio::null()).spawn()?);
    wait_for(&mut nodes, "the clients", |state| {
        state.sessions == SESSIONS as u64
    })?;
    print_world_chat(&mut nodes)
}

fn print_idle(nodes: &mut [Node]) -> io::Result<()> {
    let before = states(nodes)?;
    thread::sleep(IDLE);
    let used = since(&before, &states(nodes)?);
    let percent = used.map(|state| format!("{:.2} %", state.cpu / IDLE.as_nanos() as f64 * 100.0));
    println!("idle, processor time of each node: {}", percent.join(", "));
    Ok(())
}

fn print_one_link(nodes: &mut [Node]) -> io::Result<()> {
    let before = states(nodes)?;
    nodes[0].tell(&format!("flood {}", FLOOD.as_millis()))?;
    let published: u64 = parse(&nodes[0].answer()?)?;
    let sent = published - nodes[0].state()?.dropped;
    wait_for(&mut nodes[1..], "the last packet", |state| {
        state.received + state.dropped >= sent
    })?;
    let used = since(&before, &states(nodes)?);
    println!(
        "one link: {:.0} packets a second published, {} of {published} dropped",
        published as f64 / FLOOD.as_secs_f64(),
        used.iter().map(|state| state.dropped).sum::<u64>(),
    );
    for (node, state) in used.iter().enumerate() {
        let each = |nanos: f64| nanos / published as f64 / 1e3;
        println!(
            "  node {node}: {:.2} us a packet, {:.2} of it in the link's threads",
            each(state.cpu),
            each(state.link)
        );
    }
    Ok(())
}

fn print_world_chat(nodes: &mut [Node]) -> io::Result<()> {
    let millis = CHAT_EVERY.as_millis();
    let mut ratios = [(); NODES].map(|()| Vec::new());
    let mut links = [(); NODES].map(|()| Vec::new());
    println!(
        "world chat to {NODES} x {SESSIONS} sessions, without the link's threads, as ratio to a local broadcast"
    );
    for _ in 0..ROUNDS {
        let local = chat(nodes, |_| format!("chat {CHATS} {millis} local"))?;
        let world = chat(nodes, |node| {
            let count = if node == 0 { CHATS } else { 0 };
            format!("chat {count} {millis} world")
        })?;
        for node in 0..NODES {
            let without_link = |state: &State| state.cpu - state.link;
            ratios[node].push(without_link(&world[node]) / without_link(&local[node]));
            links[node].push(world[node].link / CHATS as f64 / 1e3);
        }
    }
    for (node, (ratios, links)) in ratios.into_iter().zip(links).enumerate() {
        println!(
            "  node {node}: x{:.3}, and {:.1} us a chat in the link's threads",
            median(ratios),
            median(links)
        );
    }
    Ok(())
}

/// What the nodes have used until each session had all chats.
fn chat(nodes: &mut [Node], command: impl Fn(usize) -> String) -> io::Result<[State; NODES]> {
    let before = states(nodes)?;
    for (number, node) in nodes.iter_mut().enumerate() {
        node.tell(&command(number))?;
    }
    for node in nodes.iter_mut() {
        node.answer()?;
    }
    let sent = before[0].sent + CHATS * SESSIONS as u64;
    wait_for(nodes, "the last chat", |state| state.sent == sent)?;
    Ok(since(&before, &states(nodes)?))
}

// ---- processes ----------------------------------------------------------------------------------

struct Node {
    _process: Process,
    commands: ChildStdin,
    answers: BufReader<ChildStdout>,
    addr: String,
}

/// The counters of a node: nanoseconds of processor time of all its threads and of those of the link, and packets.
#[derive(Clone, Copy, Default)]
struct State {
    cpu: f64,
    link: f64,
    sessions: u64,
    nodes: u64,
    sent: u64,
    received: u64,
    dropped: u64,
}

impl Node {
    fn start(url: &str) -> io::Result<Self> {
        let mut child = Command::new(std::env::current_exe()?)
            .args([NODE, url])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let pipes = child.stdin.take().zip(child.stdout.take());
        let (commands, answers) = pipes.ok_or_else(|| io::Error::other("a node without pipes"))?;
        let mut node = Self {
            _process: Process(child),
            commands,
            answers: BufReader::new(answers),
            addr: String::new(),
        };
        node.addr = node.answer()?;
        Ok(node)
    }

    fn tell(&mut self, command: &str) -> io::Result<()> {
        writeln!(self.commands, "{command}")
    }

    fn answer(&mut self) -> io::Result<String> {
        let mut line = String::new();
        if self.answers.read_line(&mut line)? == 0 {
            return Err(io::Error::other("a node has ended"));
        }
        Ok(line.trim().into())
    }

    fn state(&mut self) -> io::Result<State> {
        self.tell("state")?;
        let line = self.answer()?;
        let fields: io::Result<Vec<u64>> = line.split(' ').map(parse).collect();
        let [cpu, link, sessions, nodes, sent, received, dropped] = fields?[..] else {
            return Err(io::Error::other(line));
        };
        Ok(State {
            cpu: cpu as f64,
            link: link as f64,
            sessions,
            nodes,
            sent,
            received,
            dropped,
        })
    }
}

fn parse(text: &str) -> io::Result<u64> {
    text.parse().map_err(io::Error::other)
}

fn states(nodes: &mut [Node]) -> io::Result<[State; NODES]> {
    let mut all = [State::default(); NODES];
    for (state, node) in all.iter_mut().zip(nodes) {
        *state = node.state()?;
    }
    Ok(all)
}

fn since(before: &[State; NODES], after: &[State; NODES]) -> [State; NODES] {
    let mut used = *after;
    for (used, before) in used.iter_mut().zip(before) {
        used.cpu -= before.cpu;
        used.link -= before.link;
        used.dropped -= before.dropped;
    }
    used
}

fn wait_for(nodes: &mut [Node], what: &str, holds: impl Fn(&State) -> bool) -> io::Result<()> {
    let began = Instant::now();
    for node in nodes {
        while !holds(&node.state()?) {
            if began.elapsed() > PATIENCE {
                return Err(io::Error::other(format!("waited too long for {what}")));
            }
            thread::sleep(Duration::from_millis(20));
        }
    }
    Ok(())
}

// ---- a node -------------------------------------------------------------------------------------

struct Player;

impl Session for Player {
    fn on_packet(&mut self, _: &mut Context<'_>, _: Packet<'_>) -> Result<(), Kick> {
        Ok(())
    }
}

/// Carries out the commands on standard input.
fn be_node(url: &str) -> io::Result<()> {
    let server = Server::builder()
        .workers(1)
        .start("127.0.0.1:0", |_| Player)?;
    let handle = server.handle();
    let cluster = Cluster::builder(url).start(&handle)?;
    let metrics = cluster.metrics();
    println!("{}", server.local_addr());
    for line in io::stdin().lines() {
        let line = line?;
        let words: Vec<&str> = line.split(' ').collect();
        match words[..] {
            ["state"] => {
                let [cpu, link] = ["", "cluster"].map(|name| cpu_nanos(std::process::id(), name));
                let (cpu, link) = (cpu?, link?);
                let totals = handle.metrics().totals();
                println!(
                    "{cpu} {link} {} {} {} {} {}",
                    totals.sessions,
                    cluster.nodes().nodes.len(),
                    totals.packets_sent,
                    metrics.received.get(),
                    dropped(metrics),
                );
            }
            ["flood", millis] => {
                let end = Instant::now() + Duration::from_millis(parse(millis)?);
                let (before, mut count) = (metrics.published.get() + dropped(metrics), 0);
                let confirmed = || metrics.published.get() + dropped(metrics) - before;
                while Instant::now() < end {
                    if count - confirmed() < UNCONFIRMED {
                        cluster.broadcast_elsewhere(&encode(&handle, count)?);
                        count += 1;
                    } else {
                        thread::sleep(Duration::from_micros(50));
                    }
                }
                println!("{count}");
            }
            ["chat", count, millis, scope] => {
                let mut next_at = Instant::now();
                for number in 0..parse(count)? {
                    let packet = encode(&handle, number)?;
                    if scope == "world" {
                        cluster.broadcast_everybody(&packet);
                    } else {
                        handle.broadcast_buffer(&packet);
                    }
                    next_at += Duration::from_millis(parse(millis)?);
                    thread::sleep(next_at.saturating_duration_since(Instant::now()));
                }
                println!("done");
            }
            _ => return Err(io::Error::other(line)),
        }
    }
    Ok(())
}

fn encode(handle: &server_core::ServerHandle, number: u64) -> io::Result<server_core::SendBuffer> {
    (handle.encode(&SChat::new(number), TAIL)).map_err(io::Error::other)
}

fn dropped(metrics: &ClusterMetrics) -> u64 {
    Why::ALL.iter().map(|why| metrics.dropped(*why)).sum()
}

// ---- clients ------------------------------------------------------------------------------------

/// Connects, and reads and discards until the servers end.
fn be_clients(addrs: &[String]) -> io::Result<()> {
    let sessions = addrs.iter().flat_map(|addr| iter::repeat_n(addr, SESSIONS));
    let streams: io::Result<_> = sessions.map(TcpStream::connect).collect();
    discard_all(streams?)
}
