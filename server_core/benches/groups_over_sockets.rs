//! The comparison of `groups` over real sockets and two workers, with the time that the system takes for each
//! write. 10,000 sessions are in 100 groups of 100.
//!
//! The clients are another process, which only connects: so few bytes wait in the sockets. The CPU time is
//! the user and system time of the server for the packets that one call causes. Linux only.

use process::cpu_nanos;
use server_core::{Context, GroupId, Kick, Packet, Server, ServerHandle, Session, SessionId};
use std::io::{self, Read};
use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

#[path = "util/process.rs"]
mod process;

server_core::packets! {
    server 1 => SHello { tick: u64 } + text;
}

const SESSIONS: usize = 10_000;
const GROUPS: usize = 100;
const MEMBERS: usize = SESSIONS / GROUPS;
const ROUNDS: usize = 5;
/// The number of broadcasts to all in one round. A round of groups has one call for each group.
const TO_ALL: usize = 10;
const PATIENCE: Duration = Duration::from_secs(60);
/// The first argument of the process of clients. The address follows it.
const CLIENTS: &str = "clients-of";

struct Silent {
    arrivals: Sender<SessionId>,
}

impl Session for Silent {
    fn on_connected(&mut self, ctx: &mut Context<'_>) {
        let _ = self.arrivals.send(ctx.id());
    }

    fn on_packet(&mut self, _: &mut Context<'_>, _: Packet<'_>) -> Result<(), Kick> {
        Ok(())
    }
}

fn main() -> io::Result<()> {
    let mut arguments = std::env::args().skip_while(|argument| argument != CLIENTS);
    if let (Some(_), Some(addr)) = (arguments.next(), arguments.next()) {
        return be_clients(&addr);
    }
    let (sender, arrivals) = channel();
    let sender = Mutex::new(sender);
    let server = Server::builder()
        .workers(2)
        .start("127.0.0.1:0", move |_| Silent {
            // The lock may be poisoned: a panic elsewhere cannot leave a sender half changed.
            arrivals: sender
                .lock()
                .unwrap_or_else(|error| error.into_inner())
                .clone(),
        })?;
    let mut clients = Command::new(std::env::current_exe()?)
        .args([CLIENTS, &server.local_addr().to_string()])
        .stdin(Stdio::piped())
        .spawn()?;
    let outcome = arrive(&arrivals).and_then(|ids| compare(&server.handle(), &ids));
    // The end of its standard input ends the process of clients.
    drop(clients.stdin.take());
    clients.wait()?;
    outcome
}

fn be_clients(addr: &str) -> io::Result<()> {
    let all: io::Result<Vec<TcpStream>> = (0..SESSIONS).map(|_| TcpStream::connect(addr)).collect();
    let all = all.inspect_err(|error| eprintln!("{SESSIONS} connections: {error}"))?;
    io::stdin().read_to_end(&mut Vec::new())?;
    drop(all);
    Ok(())
}

fn arrive(arrivals: &Receiver<SessionId>) -> io::Result<Vec<SessionId>> {
    let ids: Result<_, RecvTimeoutError> = (0..SESSIONS)
        .map(|_| arrivals.recv_timeout(PATIENCE))
        .collect();
    ids.map_err(|_| {
        io::Error::other("not all clients have connected: `ulimit -n` has to allow 10,100 files")
    })
}

/// The cost of one way to send.
struct Cost {
    wall: Duration,
    cpu_secs: f64,
}

fn compare(handle: &ServerHandle, ids: &[SessionId]) -> io::Result<()> {
    let group = |number: usize| GroupId::new(1, number as u32);
    for (n, id) in ids.iter().enumerate() {
        handle.join(*id, group(n % GROUPS));
    }
    let hello = SHello { tick: 1.into() };
    println!("CPU and wall time of one call; ratios to the group's CPU time");
    for _ in 0..ROUNDS {
        let to_group = measure(handle, GROUPS, MEMBERS, |n| {
            handle.broadcast_to(group(n), &hello, "Hello World");
        })?;
        let to_each = measure(handle, GROUPS, MEMBERS, |n| {
            for id in ids.iter().skip(n).step_by(GROUPS) {
                handle.send_to(*id, &hello, "Hello World");
            }
        })?;
        let to_all = measure(handle, TO_ALL, SESSIONS, |_| {
            handle.broadcast(&hello, "Hello World");
        })?;
        let show = |cost: &Cost| {
            let (cpu_ms, ratio) = (cost.cpu_secs * 1e3, cost.cpu_secs / to_group.cpu_secs);
            format!("{cpu_ms:.2} ms, {:.2?} (x{ratio:.1})", cost.wall)
        };
        let [group, each, all] = [&to_group, &to_each, &to_all].map(show);
        println!("to a group {group} | to each member {each} | to all {all}");
    }
    Ok(())
}

/// Makes the calls of one round. The next call follows when the sockets have accepted all packets of a call.
fn measure(
    handle: &ServerHandle,
    calls: usize,
    packets: usize,
    call: impl Fn(usize),
) -> io::Result<Cost> {
    let sent = || handle.metrics().totals().packets_sent;
    let (began, cpu_began) = (Instant::now(), cpu_secs()?);
    for n in 0..calls {
        let expected = sent() + packets as u64;
        call(n);
        while sent() < expected {
            if began.elapsed() > PATIENCE {
                return Err(io::Error::other("packets are missing"));
            }
            thread::sleep(Duration::from_micros(20));
        }
    }
    Ok(Cost {
        wall: began.elapsed() / calls as u32,
        cpu_secs: (cpu_secs()? - cpu_began) / calls as f64,
    })
}

fn cpu_secs() -> io::Result<f64> {
    Ok(cpu_nanos(std::process::id(), "")? as f64 / 1e9)
}
