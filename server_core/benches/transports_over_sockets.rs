//! The cost of a broadcast over WebSocket and over TLS beside that over plain TCP, over real sockets: processor time
//! for a delivered packet of 64 bytes, one and ten packets a turn, at 100, 1,000 and 10,000 sessions. Then the
//! cost of a full handshake, and the memory of an idle session.
//!
//! One worker broadcasts in a callback, when the sockets have accepted all packets before. The clients are another
//! process, which reads and discards. The processor time is user and system, of the server and of what ends TLS in
//! front of it; what that has still to do when the server has sent all does not count. A ratio is of two measurements in
//! direct succession. TLS is 1.3 with AES-128-GCM, and the key of the certificate is ECDSA P-256. Linux only.
//!
//! - **shared frame** is the lower bound of a server that publishes to WebSocket subscribers: a loop that sends
//!   frames, made once, to each socket with one call.
//! - **rustls loop** is the lower bound of TLS by rustls: a loop that has rustls make a record for each socket, and
//!   sends it with one call.
//! - **HAProxy** and **stunnel** end TLS in front of the plain listener, up to 1,000 sessions; only if they are
//!   installed.
//!
//! ```sh
//! cargo bench -p server_core --bench transports_over_sockets -- [SESSIONS..]
//! ```

use process::{Process, cpu_nanos, discard_all, median};
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection};
use server_core::metrics::{HandshakeOutcome, Metrics};
use server_core::{
    Context, Kick, ListenerKind, Packet, Server, ServerBuilder, ServerHandle, Session,
    TlsServerConfig, TransportKind, WebSocketServerConfig,
};
use socket2::SockRef;
use std::fs;
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

#[path = "util/process.rs"]
mod process;

server_core::packets! {
    /// 64 bytes with its header.
    server 1 => SHello { tick: u64 } + bytes;
}

const ROUNDS: usize = 5;
/// The packets that one measurement delivers at least.
const PACKETS: u64 = 200_000;
const TAIL: [u8; 52] = [7; 52];
const PATIENCE: Duration = Duration::from_secs(120);
/// The time between two turns, at least.
const PAUSE: Duration = Duration::from_micros(100);
/// What ends TLS in front needs two descriptors a session.
const SESSIONS_BEHIND_A_PROXY: u64 = 1_000;
const HANDSHAKES: u64 = 1_000;
/// The first argument of the process of clients. Address, kind, number and certificate follow.
const CLIENTS: &str = "clients-of";
/// The first argument of a process that measures the memory of idle sessions. The way and their number follow.
const MEMORY: &str = "memory-of";
const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n";

/// How the packets reach the clients.
#[derive(Clone, Copy, PartialEq)]
enum Way {
    Tcp,
    WebSocket,
    SharedFrame,
    Tls,
    RustlsLoop,
    Haproxy,
    Stunnel,
}

impl Way {
    /// After plain TCP, in the order of the columns.
    const OTHERS: [Self; 6] = [
        Self::WebSocket,
        Self::SharedFrame,
        Self::Tls,
        Self::RustlsLoop,
        Self::Haproxy,
        Self::Stunnel,
    ];

    fn client(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::WebSocket | Self::SharedFrame => "ws",
            Self::Tls | Self::RustlsLoop | Self::Haproxy | Self::Stunnel => "tls",
        }
    }

    fn transport(self) -> TransportKind {
        match self {
            Self::WebSocket => TransportKind::WebSocket,
            Self::Tls => TransportKind::Tls,
            _ => TransportKind::Tcp,
        }
    }

    /// The program that ends TLS in front of the server.
    fn program(self) -> Option<&'static str> {
        match self {
            Self::Haproxy => Some("haproxy"),
            Self::Stunnel => Some("stunnel"),
            _ => None,
        }
    }
}

/// The state of one measurement.
#[derive(Default)]
struct Run {
    handle: OnceLock<ServerHandle>,
    sessions: u64,
    packets_a_turn: u64,
    /// Packets to broadcast, and those that were.
    asked: AtomicU64,
    sent: AtomicU64,
    /// The sessions so far. The first broadcasts.
    arrived: AtomicU64,
}

struct Player {
    run: Arc<Run>,
    is_first: bool,
}

impl Session for Player {
    fn on_connected(&mut self, ctx: &mut Context<'_>) {
        self.is_first = self.run.arrived.fetch_add(1, Ordering::Relaxed) == 0;
        if self.is_first {
            ctx.set_timer(ctx.now() + Duration::from_millis(1));
        }
    }

    fn on_packet(&mut self, _: &mut Context<'_>, _: Packet<'_>) -> Result<(), Kick> {
        Ok(())
    }

    fn on_timer(&mut self, ctx: &mut Context<'_>) {
        let run = &self.run;
        let (asked, sent) = (&run.asked, &run.sent);
        let delivered = run
            .handle
            .get()
            .map(|handle| handle.metrics().totals().packets_sent);
        let is_idle = delivered == Some(sent.load(Ordering::Relaxed) * run.sessions);
        if is_idle && sent.load(Ordering::Relaxed) < asked.load(Ordering::Acquire) {
            for tick in 0..run.packets_a_turn {
                ctx.broadcast(&SHello { tick: tick.into() }, TAIL);
            }
            sent.fetch_add(run.packets_a_turn, Ordering::Release);
        }
        ctx.set_timer(ctx.now() + PAUSE);
    }
}

fn main() -> io::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let role = arguments.next();
    if role.as_deref() == Some(MEMORY) {
        let transport = arguments.next();
        let sessions = arguments.next().and_then(|text| text.parse().ok());
        let way = if transport.as_deref() == Some(Way::Tls.client()) {
            Way::Tls
        } else {
            Way::Tcp
        };
        println!("{}", bytes_of_idle_sessions(way, sessions.unwrap_or(1))?);
        return Ok(());
    }
    if role.as_deref() == Some(CLIENTS) {
        let mut argument = || {
            arguments
                .next()
                .ok_or_else(|| io::Error::other("too few arguments"))
        };
        let (addr, kind, count, cert) = (argument()?, argument()?, argument()?, argument()?);
        return be_clients(
            &addr,
            &kind,
            count.parse().map_err(io::Error::other)?,
            &cert,
        );
    }
    let mut counts: Vec<u64> = std::env::args()
        .filter_map(|text| text.parse().ok())
        .collect();
    if counts.is_empty() {
        counts = vec![100, 1_000, 10_000];
    }
    let files = Files::new()?;
    println!(
        "processor time for a delivered packet of 64 bytes, and ratios to TCP: median of {ROUNDS} rounds"
    );
    println!(
        "{:>9} {:>9} {:>9} {:>10} {:>13} {:>6} {:>12} {:>8} {:>8}",
        "sessions",
        "packets",
        "TCP",
        "WebSocket",
        "shared frame",
        "TLS",
        "rustls loop",
        "HAProxy",
        "stunnel"
    );
    for &sessions in &counts {
        for packets_a_turn in [1, 10] {
            let mut tcp = Vec::new();
            let mut ratios = Way::OTHERS.map(|_| Vec::new());
            for _ in 0..ROUNDS {
                for (way, ratios) in Way::OTHERS.into_iter().zip(&mut ratios) {
                    let plain = measure(&files, Way::Tcp, sessions, packets_a_turn)?;
                    if let (Some(plain), Some(other)) =
                        (plain, measure(&files, way, sessions, packets_a_turn)?)
                    {
                        tcp.push(plain);
                        ratios.push(other / plain);
                    }
                }
            }
            let [websocket, shared, tls, rustls, haproxy, stunnel] =
                ratios.map(median).map(|ratio| match ratio.is_nan() {
                    true => "-".into(),
                    false => format!("{ratio:.3}"),
                });
            println!(
                "{sessions:>9} {:>9} {:>6.0} ns {websocket:>10} {shared:>13} {tls:>6} {rustls:>12} {haproxy:>8} \
                 {stunnel:>8}",
                format!("64 B x {packets_a_turn}"),
                median(tcp),
            );
        }
    }
    print_handshakes(&files)?;
    for &sessions in &counts {
        print_memory(sessions)?;
    }
    Ok(())
}

// ---- servers and their clients ------------------------------------------------------------------

/// A server with a listener of each kind.
fn start(files: &Files, run: &Arc<Run>) -> io::Result<Server> {
    let players = Arc::clone(run);
    let server = builder(files)?.start("127.0.0.1:0", move |_| Player {
        run: Arc::clone(&players),
        is_first: false,
    })?;
    let _ = run.handle.set(server.handle());
    Ok(server)
}

fn builder(files: &Files) -> io::Result<ServerBuilder> {
    let tls = TlsServerConfig::from_files(files.cert(), files.key())?;
    let websocket = ListenerKind::WebSocket(WebSocketServerConfig::default());
    Ok(Server::builder()
        .workers(1)
        .listen(ListenerKind::Tls(tls), "127.0.0.1:0")
        .listen(websocket, "127.0.0.1:0"))
}

fn addr_of(server: &Server, transport: TransportKind) -> io::Result<String> {
    let mut addrs = server.local_addrs().iter();
    let found = addrs.find(|(kind, _)| *kind == transport);
    let (_, addr) = found.ok_or_else(|| io::Error::other("no listener of this kind"))?;
    Ok(addr.to_string())
}

/// A listener whose `accept` fails after two minutes without a client: the process of the clients may have ended.
fn listen() -> io::Result<TcpListener> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    SockRef::from(&listener).set_read_timeout(Some(PATIENCE))?;
    Ok(listener)
}

fn start_clients(files: &Files, addr: &str, way: Way, count: u64) -> io::Result<Process> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args([CLIENTS, addr, way.client(), &count.to_string()]);
    command.arg(files.cert());
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .map(Process)
}

fn wait(what: &str, holds: impl Fn() -> bool) -> io::Result<()> {
    let began = Instant::now();
    while !holds() {
        if began.elapsed() > PATIENCE {
            return Err(io::Error::other(format!("waited too long for {what}")));
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    Ok(())
}

// ---- broadcast ----------------------------------------------------------------------------------

/// Nanoseconds of processor time for a delivered packet, if this way can be measured here.
fn measure(files: &Files, way: Way, sessions: u64, packets_a_turn: u64) -> io::Result<Option<f64>> {
    if matches!(way, Way::SharedFrame | Way::RustlsLoop) {
        return send_in_a_loop(files, way, sessions, packets_a_turn).map(Some);
    }
    let run = Arc::new(Run {
        sessions,
        packets_a_turn,
        ..Run::default()
    });
    let server = start(files, &run)?;
    let handle = server.handle();
    let mut addr = addr_of(&server, way.transport())?;
    let mut processes = vec![std::process::id()];
    let mut proxy = None;
    if let Some(program) = way.program() {
        if sessions > SESSIONS_BEHIND_A_PROXY || !is_installed(program) {
            return Ok(None);
        }
        let (process, its_addr) = files.start_proxy(program, &addr)?;
        processes.push(process.0.id());
        (proxy, addr) = (Some(process), its_addr);
    }
    let clients = start_clients(files, &addr, way, sessions)?;
    wait("the clients", || {
        handle.metrics().totals().sessions == sessions
    })?;
    deliver(&run, &handle, &processes, PACKETS / 10)?;
    let nanos = deliver(&run, &handle, &processes, PACKETS)?;
    handle.shutdown(Duration::ZERO);
    server.join()?;
    drop((clients, proxy));
    Ok(Some(nanos))
}

/// Broadcasts until this number of packets is delivered.
fn deliver(run: &Run, handle: &ServerHandle, processes: &[u32], packets: u64) -> io::Result<f64> {
    let turns = turns(packets, run.sessions, run.packets_a_turn);
    let metrics: &Metrics = handle.metrics();
    let cpu = || {
        processes
            .iter()
            .map(|&process| cpu_nanos(process, ""))
            .sum::<io::Result<u64>>()
    };
    let before = (cpu()?, metrics.totals().packets_sent);
    let asked = run.asked.load(Ordering::Relaxed) + turns * run.packets_a_turn;
    run.asked.store(asked, Ordering::Release);
    wait("packets", || {
        metrics.totals().packets_sent == asked * run.sessions
    })?;
    let packets = metrics.totals().packets_sent - before.1;
    Ok((cpu()? - before.0) as f64 / packets as f64)
}

fn turns(packets: u64, sessions: u64, packets_a_turn: u64) -> u64 {
    packets.div_ceil(sessions * packets_a_turn).max(10)
}

/// Sends each socket the packets of a turn, without anything else around it: frames that all sockets share, or a record
/// of its own by rustls.
fn send_in_a_loop(files: &Files, way: Way, sessions: u64, packets_a_turn: u64) -> io::Result<f64> {
    let listener = listen()?;
    let addr = listener.local_addr()?.to_string();
    let clients = start_clients(files, &addr, way, sessions)?;
    let tls = files.server().map_err(io::Error::other)?;
    let mut streams = Vec::new();
    for _ in 0..sessions {
        if way == Way::RustlsLoop {
            let (stream, connection) = accept_with_rustls(&listener, &tls)?;
            streams.push((stream, Some(connection)));
            continue;
        }
        let (mut stream, _) = listener.accept()?;
        stream.set_nodelay(true)?;
        let mut request = [0; REQUEST.len()];
        stream.read_exact(&mut request)?;
        // The client looks for the end of the head alone.
        stream.write_all(b"HTTP/1.1 101 Switching Protocols\r\n\r\n")?;
        streams.push((stream, None));
    }
    let payload = [7; 64];
    let frame = [&[0x82, payload.len() as u8], &payload[..]].concat();
    let packets = payload.repeat(packets_a_turn as usize);
    let mut publish = |delivered| -> io::Result<f64> {
        let turns = turns(delivered, sessions, packets_a_turn);
        let before = cpu_nanos(std::process::id(), "")?;
        for _ in 0..turns {
            let frames = frame.repeat(packets_a_turn as usize);
            for (stream, rustls) in &mut streams {
                let Some(connection) = rustls else {
                    stream.write_all(&frames)?;
                    continue;
                };
                connection.writer().write_all(&packets)?;
                while connection.wants_write() {
                    connection.write_tls(stream)?;
                }
            }
            std::thread::sleep(PAUSE);
        }
        let delivered = turns * packets_a_turn * sessions;
        Ok((cpu_nanos(std::process::id(), "")? - before) as f64 / delivered as f64)
    };
    publish(PACKETS / 10)?;
    let nanos = publish(PACKETS)?;
    drop(clients);
    Ok(nanos)
}

// ---- handshakes and memory ----------------------------------------------------------------------

/// A full handshake: all of the server, beside a loop that accepts and has rustls make the handshake, and the
/// server's side of rustls in memory. Over sockets, the client's half runs at the same time: where two processors share
/// a core, each is slower then.
fn print_handshakes(files: &Files) -> io::Result<()> {
    let mut rows = [const { Vec::new() }; 5];
    for _ in 0..ROUNDS {
        let tls = connect_many(files, Way::Tls)?;
        let rustls = handshakes_in_a_loop(files)?;
        let figures = [handshake_in_memory(files)?, rustls, tls, tls / rustls];
        let tcp = connect_many(files, Way::Tcp)?;
        for (row, figure) in rows.iter_mut().zip(figures.into_iter().chain([tcp])) {
            row.push(figure);
        }
    }
    let [memory, rustls, tls, ratio, tcp] = rows.map(median);
    println!(
        "\na full handshake: rustls in memory {:.0} µs, in a loop over sockets {:.0} µs; a TLS session from accept to \
         its end {:.0} µs ({ratio:.3} of the loop), a plain one {:.0} µs",
        memory / 1e3,
        rustls / 1e3,
        tls / 1e3,
        tcp / 1e3
    );
    Ok(())
}

/// Nanoseconds of processor time for a connection that a loop accepts, that rustls makes the handshake of, and that is
/// closed.
fn handshakes_in_a_loop(files: &Files) -> io::Result<f64> {
    let listener = listen()?;
    let tls = files.server().map_err(io::Error::other)?;
    let before = cpu_nanos(std::process::id(), "")?;
    let addr = listener.local_addr()?.to_string();
    let clients = start_clients(files, &addr, Way::RustlsLoop, HANDSHAKES)?;
    let mut streams = Vec::new();
    for _ in 0..HANDSHAKES {
        streams.push(accept_with_rustls(&listener, &tls)?);
    }
    drop((clients, streams));
    Ok((cpu_nanos(std::process::id(), "")? - before) as f64 / HANDSHAKES as f64)
}

/// Accepts a connection, and has rustls make its handshake.
fn accept_with_rustls(
    listener: &TcpListener,
    tls: &Arc<ServerConfig>,
) -> io::Result<(TcpStream, ServerConnection)> {
    let (mut stream, _) = listener.accept()?;
    stream.set_nodelay(true)?;
    let mut connection = ServerConnection::new(Arc::clone(tls)).map_err(io::Error::other)?;
    while connection.is_handshaking() {
        connection.complete_io(&mut stream)?;
    }
    Ok((stream, connection))
}

/// Nanoseconds of the server's processor time for a connection that is made and ended.
fn connect_many(files: &Files, way: Way) -> io::Result<f64> {
    let run = Arc::new(Run::default());
    let server = start(files, &run)?;
    let handle = server.handle();
    let before = cpu_nanos(std::process::id(), "")?;
    let addr = addr_of(&server, way.transport())?;
    let clients = start_clients(files, &addr, way, HANDSHAKES)?;
    wait("the clients", || {
        handle.metrics().totals().sessions == HANDSHAKES
    })?;
    drop(clients);
    wait("their ends", || handle.metrics().totals().sessions == 0)?;
    let nanos = cpu_nanos(std::process::id(), "")? - before;
    let full = handle
        .metrics()
        .handshakes(TransportKind::Tls, HandshakeOutcome::Full);
    if way == Way::Tls && full != HANDSHAKES {
        return Err(io::Error::other(format!("{full} full handshakes")));
    }
    handle.shutdown(Duration::ZERO);
    server.join()?;
    Ok(nanos as f64 / HANDSHAKES as f64)
}

/// The median of the nanoseconds that the server's side of rustls takes for a full handshake with one ticket.
fn handshake_in_memory(files: &Files) -> io::Result<f64> {
    let server_config = files.server().map_err(io::Error::other)?;
    let client_config = files.client()?;
    let mut nanos = Vec::new();
    for _ in 0..HANDSHAKES {
        let mut client = new_client(&client_config)?;
        let mut server =
            ServerConnection::new(Arc::clone(&server_config)).map_err(io::Error::other)?;
        let (mut to_server, mut to_client, mut took) = (Vec::new(), Vec::new(), Duration::ZERO);
        while client.is_handshaking() || server.is_handshaking() {
            while client.wants_write() {
                client.write_tls(&mut to_server)?;
            }
            let began = Instant::now();
            let mut input = &to_server[..];
            while !input.is_empty() {
                server.read_tls(&mut input)?;
                server.process_new_packets().map_err(io::Error::other)?;
            }
            while server.wants_write() {
                server.write_tls(&mut to_client)?;
            }
            took += began.elapsed();
            to_server.clear();
            let mut input = &to_client[..];
            while !input.is_empty() {
                client.read_tls(&mut input)?;
                client.process_new_packets().map_err(io::Error::other)?;
            }
            to_client.clear();
        }
        nanos.push(took.as_nanos() as f64);
    }
    Ok(median(nanos))
}

/// The resident memory of the server for each idle session, measured in processes of their own: an allocator keeps
/// what another measurement has used.
fn print_memory(sessions: u64) -> io::Result<()> {
    let bytes = |way: Way| -> io::Result<String> {
        let mut command = Command::new(std::env::current_exe()?);
        command.args([MEMORY, way.client(), &sessions.to_string()]);
        let output = command.stderr(Stdio::inherit()).output()?;
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let (tcp, tls) = (bytes(Way::Tcp)?, bytes(Way::Tls)?);
    println!("{sessions} idle sessions: {tcp} bytes each, over TLS {tls}");
    Ok(())
}

fn bytes_of_idle_sessions(way: Way, sessions: u64) -> io::Result<u64> {
    let files = Files::new()?;
    let run = Arc::new(Run::default());
    let server = start(&files, &run)?;
    let handle = server.handle();
    let addr = addr_of(&server, way.transport())?;
    let before = resident_bytes()?;
    let clients = start_clients(&files, &addr, way, sessions)?;
    wait("the clients", || {
        handle.metrics().totals().sessions == sessions
    })?;
    let bytes = resident_bytes()?.saturating_sub(before) / sessions;
    handle.shutdown(Duration::ZERO);
    server.join()?;
    drop(clients);
    Ok(bytes)
}

fn resident_bytes() -> io::Result<u64> {
    let status = fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|text| text.trim().trim_end_matches(" kB").parse::<u64>().ok());
    kib.map(|kib| kib * 1024)
        .ok_or_else(|| io::Error::other("no VmRSS"))
}

// ---- certificate, proxies -----------------------------------------------------------------------

/// A folder with a certificate, its key, and the configuration of a proxy. Removed at the end.
struct Files(PathBuf);

impl Files {
    fn new() -> io::Result<Self> {
        let name = format!("server-core-transports-{}", std::process::id());
        let files = Self(std::env::temp_dir().join(name));
        fs::create_dir(&files.0)?;
        let pair =
            rcgen::generate_simple_self_signed(["localhost".into()]).map_err(io::Error::other)?;
        fs::write(files.cert(), pair.cert.pem())?;
        fs::write(files.key(), pair.signing_key.serialize_pem())?;
        let both = pair.cert.pem() + &pair.signing_key.serialize_pem();
        fs::write(files.0.join("both.pem"), both)?;
        Ok(files)
    }

    fn cert(&self) -> PathBuf {
        self.0.join("cert.pem")
    }

    fn key(&self) -> PathBuf {
        self.0.join("key.pem")
    }

    fn der(&self) -> Result<CertificateDer<'static>, rustls::Error> {
        (CertificateDer::from_pem_file(self.cert()))
            .map_err(|error| rustls::Error::General(error.to_string()))
    }

    /// With one ticket for each handshake.
    fn server(&self) -> Result<Arc<ServerConfig>, rustls::Error> {
        let key = PrivateKeyDer::from_pem_file(self.key())
            .map_err(|error| rustls::Error::General(error.to_string()))?;
        let provider = Arc::new(ring::default_provider());
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(vec![self.der()?], key)?;
        config.send_tls13_tickets = 1;
        config.ticketer = ring::Ticketer::new()?;
        Ok(Arc::new(config))
    }

    fn client(&self) -> io::Result<Arc<ClientConfig>> {
        client_config(self.der().map_err(io::Error::other)?)
    }

    /// The program in front of an address: HAProxy with one thread, or stunnel, which has a thread for each connection.
    /// Returns when it listens.
    fn start_proxy(&self, program: &str, server: &str) -> io::Result<(Process, String)> {
        let addr = TcpListener::bind("127.0.0.1:0")?.local_addr()?.to_string();
        let both = self.0.join("both.pem");
        let both = both.display();
        let (text, flags) = match program {
            "haproxy" => (
                format!(
                    "global\n nbthread 1\n maxconn {}\n\
                     defaults\n mode tcp\n timeout connect 10s\n timeout client 1h\n timeout server 1h\n\
                     listen game\n bind {addr} ssl crt {both}\n server game {server}\n",
                    SESSIONS_BEHIND_A_PROXY + 10,
                ),
                &["-db", "-q", "-f"][..],
            ),
            _ => (
                format!(
                    "foreground = yes\npid =\ndebug = 3\n\
                     [game]\naccept = {addr}\nconnect = {server}\ncert = {both}\n\
                     socket = l:TCP_NODELAY=1\nsocket = r:TCP_NODELAY=1\n"
                ),
                &[][..],
            ),
        };
        let config = self.0.join(program);
        fs::write(&config, text)?;
        let mut command = Command::new(program);
        command.args(flags).arg(&config);
        let process = Process(command.stdin(Stdio::null()).stderr(Stdio::null()).spawn()?);
        wait(program, || TcpStream::connect(&addr).is_ok())?;
        Ok((process, addr))
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn is_installed(program: &str) -> bool {
    let mut command = Command::new(program);
    command
        .arg("-version")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    command.status().is_ok()
}

// ---- clients ------------------------------------------------------------------------------------

fn client_config(root: CertificateDer<'static>) -> io::Result<Arc<ClientConfig>> {
    let mut roots = RootCertStore::empty();
    roots.add(root).map_err(io::Error::other)?;
    let provider = CryptoProvider {
        cipher_suites: vec![ring::cipher_suite::TLS13_AES_128_GCM_SHA256],
        ..ring::default_provider()
    };
    let config = ClientConfig::builder_with_provider(Arc::new(provider))
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?;
    let mut config = config.with_root_certificates(roots).with_no_client_auth();
    config.resumption = rustls::client::Resumption::disabled();
    Ok(Arc::new(config))
}

fn new_client(config: &Arc<ClientConfig>) -> io::Result<ClientConnection> {
    let name = ServerName::try_from("localhost").map_err(io::Error::other)?;
    ClientConnection::new(Arc::clone(config), name).map_err(io::Error::other)
}

/// Connects, and reads and discards until the server ends. `cert`: the file with the server's certificate.
fn be_clients(addr: &str, kind: &str, count: usize, cert: &str) -> io::Result<()> {
    let tls = client_config(CertificateDer::from_pem_file(cert).map_err(io::Error::other)?)?;
    let mut streams = Vec::new();
    for _ in 0..count {
        let mut stream = TcpStream::connect(addr)?;
        if kind == Way::WebSocket.client() {
            stream.write_all(REQUEST)?;
            let (mut head, mut byte) = (Vec::new(), [0]);
            while !head.ends_with(b"\r\n\r\n") {
                stream.read_exact(&mut byte)?;
                head.push(byte[0]);
            }
        } else if kind == Way::Tls.client() {
            let mut connection = new_client(&tls)?;
            while connection.is_handshaking() {
                connection.complete_io(&mut stream)?;
            }
        }
        streams.push(stream);
    }
    discard_all(streams)
}
