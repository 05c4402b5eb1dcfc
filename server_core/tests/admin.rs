//! The admin port of a game that is not `game_server`: one line, and the game's own metrics.

use server_core::admin::prometheus_client::collector::Collector;
use server_core::admin::prometheus_client::encoding::DescriptorEncoder;
use server_core::admin::prometheus_client::metrics::counter::Counter;
use server_core::admin::prometheus_client::registry::Registry;
use server_core::admin::{Admin, AdminBuilder};
use server_core::{Config, Context, Kick, Packet, Server, Session, Ticker};
use std::fmt;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// No request takes this long, on a slow machine either.
const PATIENCE: Duration = Duration::from_secs(30);
const ANY_PORT: &str = "127.0.0.1:0";

/// Counts the monsters that it is told of.
struct Hunter {
    monsters: Counter,
}

server_core::packets! {
    const PACKETS;
    client 1 => CHit;
    server 2 => SHit;
}

impl Session for Hunter {
    fn on_packet(&mut self, ctx: &mut Context<'_>, packet: Packet<'_>) -> Result<(), Kick> {
        packet.decode::<CHit>()?;
        self.monsters.inc();
        ctx.send(&SHit, []);
        Ok(())
    }
}

fn hunt(monsters: &Counter, config: Config) -> Server {
    let monsters = monsters.clone();
    let builder = Server::builder().config(config).workers(1);
    let session = move |_peer| Hunter {
        monsters: monsters.clone(),
    };
    builder.start(ANY_PORT, session).unwrap()
}

fn any_server() -> Server {
    hunt(&Counter::default(), Config::default())
}

/// Sends a hit and waits for the answer to it.
fn join_and_hit(server: &Server) -> TcpStream {
    let mut player = TcpStream::connect(server.local_addr()).unwrap();
    player.set_read_timeout(Some(PATIENCE)).unwrap();
    player.write_all(&[4, 0, 1, 0]).unwrap();
    let mut answer = [0; 4];
    player.read_exact(&mut answer).unwrap();
    assert_eq!(answer, [4, 0, 2, 0]);
    player
}

/// Status, and the text behind the head.
fn get_for_host(addr: SocketAddr, path: &str, host: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(addr).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n").unwrap();
    let mut response = String::new();
    stream.read_to_string(&mut response).unwrap();
    let (head, body) = response.split_once("\r\n\r\n").unwrap();
    let status = head.strip_prefix("HTTP/1.1 ").unwrap()[..3].parse();
    (status.unwrap(), body.to_owned())
}

fn get(addr: SocketAddr, path: &str) -> (u16, String) {
    get_for_host(addr, path, "localhost")
}

fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let since = Instant::now();
    while !is_so() {
        assert!(since.elapsed() < PATIENCE, "{what} takes too long");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn one_line_serves_the_four_paths_of_any_game() {
    let server = any_server();
    let admin = Admin::start(ANY_PORT, &server.handle()).unwrap();
    let addr = admin.local_addr();
    let player = join_and_hit(&server);

    let (status, text) = get(addr, "/metrics");
    assert_eq!(status, 200);
    for line in [
        "server_sessions 1",
        "server_packets_received_total 1",
        "server_disconnects_total{reason=\"bad_size\"} 0",
    ] {
        assert!(text.lines().any(|one| one == line), "{line}: {text}");
    }
    // Without a ticker there is no metric of it.
    assert!(!text.contains("server_tick"), "{text}");

    assert_eq!(get(addr, "/healthz"), (200, "ok\n".into()));

    let (status, json) = get(addr, "/sessions");
    let peer = format!(r#""peer":"{}""#, player.local_addr().unwrap());
    assert!(status == 200 && json.starts_with("[{\"id\":") && json.contains(&peer));
    assert_eq!(
        get(addr, "/sessions?slowest=1").1.matches("peer").count(),
        1
    );

    let (status, page) = get(addr, "/");
    assert!(status == 200 && page.contains("<title>server</title>"));
    assert_eq!(get(addr, "/monsters").0, 404);
}

#[test]
fn packets_have_names_in_metrics_and_in_traces() {
    let server = (Server::builder().workers(1).packets(PACKETS))
        .start(ANY_PORT, |_| Hunter {
            monsters: Counter::default(),
        })
        .unwrap();
    let admin = Admin::start(ANY_PORT, &server.handle()).unwrap();
    let addr = admin.local_addr();
    let (status, json) = get(addr, "/trace?addr=127.0.0.1");
    assert_eq!(status, 200, "{json}");
    assert!(json.starts_with("{\"is_running\":true,\"age_ms\":") && json.contains("\"events\":[]"));

    drop(join_and_hit(&server));
    let left = r#""event":"disconnected","reason":"peer_closed""#;
    let mut json = String::new();
    wait_until("the end of the player", || {
        json = get(addr, "/trace?addr=127.0.0.1").1;
        json.contains(left)
    });
    for event in [
        r#""event":"connected""#,
        r#""event":"received","id":1,"name":"CHit","bytes":4"#,
        r#""event":"sent","id":2,"name":"SHit","bytes":4"#,
    ] {
        assert_eq!(json.matches(event).count(), 1, "{event}: {json}");
    }

    let (_, text) = get(addr, "/metrics");
    for line in [
        r#"server_packets_by_id_total{direction="received",id="1",name="CHit"} 1"#,
        r#"server_packets_by_id_total{direction="received",id="other",name="other"} 0"#,
        r#"server_packets_by_id_total{direction="sent",id="2",name="SHit"} 1"#,
        r#"server_packet_bytes_by_id_total{direction="sent",id="2",name="SHit"} 4"#,
    ] {
        assert!(text.lines().any(|one| one == line), "{line}: {text}");
    }
    assert_eq!(text.matches("server_packets_by_id_total{").count(), 4);

    // Each address has a trace of its own, and there are eight at a time.
    for other in 2..9 {
        assert_eq!(get(addr, &format!("/trace?addr=127.0.0.{other}")).0, 200);
    }
    assert_eq!(get(addr, "/trace?session=0.0-1").0, 503);
    assert_eq!(get(addr, "/trace?addr=127.0.0.1").0, 200);
    assert_eq!(get(addr, "/trace").0, 400);
    assert_eq!(
        get_for_host(addr, "/trace?addr=127.0.0.1", "evil.example").0,
        421
    );
}

#[test]
fn metrics_of_the_game_and_of_its_ticks_are_beside_those_of_the_server() {
    let monsters = Counter::default();
    let mut registry = Registry::with_prefix("hunt");
    registry.register("monsters", "Monsters that were hit", monsters.clone());
    let server = hunt(&monsters, Config::default());
    let ticker = Ticker::new(Duration::from_millis(1));
    let (ticks, stopper) = (ticker.metrics(), ticker.stopper());
    let admin = (Admin::builder().name("hunt").tick_metrics(ticks))
        .registry(registry)
        .start(ANY_PORT, &server.handle())
        .unwrap();
    let addr = admin.local_addr();
    ticker.run(|tick| {
        if tick.number == 3 {
            stopper.stop();
        }
    });
    let _players = [join_and_hit(&server), join_and_hit(&server)];

    let (status, text) = get(addr, "/metrics");
    assert_eq!(status, 200);
    for line in [
        "# HELP hunt_monsters_total Monsters that were hit.",
        "# TYPE hunt_monsters_total counter",
        "hunt_monsters_total 2",
        "server_ticks_total 3",
        "server_tick_lag_seconds_count 3",
        "server_packets_received_total 2",
    ] {
        assert!(text.lines().any(|one| one == line), "{line}: {text}");
    }
    assert!(get(addr, "/").1.contains("<title>hunt</title>"));
}

#[test]
fn health_is_that_of_the_game_until_the_server_shuts_down() {
    let mut config = Config::default();
    config.linger = Duration::from_secs(100);
    let server = hunt(&Counter::default(), config);
    let is_loaded = Arc::new(AtomicBool::new(false));
    let admin = Admin::builder()
        .readiness({
            let is_loaded = Arc::clone(&is_loaded);
            move || is_loaded.load(Ordering::SeqCst)
        })
        .start(ANY_PORT, &server.handle())
        .unwrap();
    let addr = admin.local_addr();
    assert_eq!(get(addr, "/healthz"), (503, "not ready\n".into()));
    is_loaded.store(true, Ordering::SeqCst);
    assert_eq!(get(addr, "/healthz"), (200, "ok\n".into()));

    // The peer does not close: its session lingers, and the port serves as long as the server does.
    let player = join_and_hit(&server);
    server.handle().shutdown(Duration::from_secs(100));
    assert_eq!(get(addr, "/healthz"), (503, "shutting down\n".into()));
    assert!(!server.handle().has_ended());
    drop(player);
    server.join().unwrap();
    wait_until("the end of the port", || TcpStream::connect(addr).is_err());
    drop(admin);
}

#[test]
fn a_server_goes_on_without_its_admin_port() {
    let server = any_server();
    let admin = Admin::start(ANY_PORT, &server.handle()).unwrap();
    let addr = admin.local_addr();
    assert_eq!(get(addr, "/healthz").0, 200);
    drop(admin);
    assert!(TcpStream::connect(addr).is_err());
    join_and_hit(&server);
    assert!(!server.handle().is_shutting_down());
}

#[test]
fn a_port_that_is_bound_first_serves_when_the_server_is_there() {
    let bound = Admin::builder().bind(ANY_PORT).unwrap();
    let addr = bound.local_addr();
    let mut early = TcpStream::connect(addr).unwrap();
    early.write_all(b"GET /healthz HTTP/1.0\r\n\r\n").unwrap();
    let server = any_server();
    let _admin = bound.serve(&server.handle());
    let mut response = String::new();
    early.set_read_timeout(Some(PATIENCE)).unwrap();
    early.read_to_string(&mut response).unwrap();
    assert!(response.starts_with("HTTP/1.1 200 OK\r\n"), "{response}");

    let unused = Admin::builder().bind(ANY_PORT).unwrap();
    let addr = unused.local_addr();
    drop(unused);
    assert!(TcpStream::connect(addr).is_err());
}

#[test]
fn an_address_in_use_is_an_error_that_names_it() {
    let server = any_server();
    let taken = TcpListener::bind(ANY_PORT).unwrap();
    let addr = taken.local_addr().unwrap();
    let error = Admin::start(addr, &server.handle()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AddrInUse);
    let text = error.to_string();
    assert!(
        text.starts_with(&format!("cannot serve metrics on {addr}: ")),
        "{text}"
    );
    // The first of several that is free is taken.
    let free = SocketAddr::from(([127, 0, 0, 1], 0));
    let admin = Admin::start(&[addr, free][..], &server.handle()).unwrap();
    assert_ne!(admin.local_addr(), addr);
}

#[test]
fn hosts_beside_its_own_are_refused_until_they_are_allowed() {
    let server = any_server();
    let start = |builder: AdminBuilder| builder.start(ANY_PORT, &server.handle()).unwrap();
    let admin = start(Admin::builder().host_hint("hunt --host NAME allows it"));
    let (status, text) = get_for_host(admin.local_addr(), "/metrics", "hunt.example");
    assert_eq!(status, 421);
    assert!(text.ends_with("hunt --host NAME allows it\n"), "{text}");
    let admin = start(Admin::builder().allow_hosts(["hunt.example".parse().unwrap()]));
    let ask = |host| get_for_host(admin.local_addr(), "/metrics", host).0;
    assert_eq!((ask("hunt.example:9100"), ask("other.example")), (200, 421));
}

/// Panics at every scrape.
#[derive(Debug)]
struct Broken;

impl Collector for Broken {
    fn encode(&self, _: DescriptorEncoder<'_>) -> fmt::Result {
        panic!("the collector of this test is broken");
    }
}

#[test]
fn a_panic_in_the_code_of_the_game_is_a_503_and_the_port_serves_on() {
    let server = any_server();
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Broken));
    let admin = (Admin::builder().registry(registry))
        .readiness(|| panic!("the readiness of this test is broken"))
        .start(ANY_PORT, &server.handle())
        .unwrap();
    let addr = admin.local_addr();
    for _ in 0..2 {
        // Half a text would pass for a whole one.
        assert_eq!(get(addr, "/metrics"), (503, String::new()));
        assert_eq!(get(addr, "/healthz"), (503, "not ready\n".into()));
        assert_eq!(get(addr, "/sessions"), (200, "[]\n".into()));
    }
}
