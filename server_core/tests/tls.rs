//! TLS over real sockets, with rustls as a client that is not this library's.

use crate::util::recorder::{
    BURST, C_BURST, C_CLOSE, C_ECHO, Event, Running, builder, factory, numbered, start,
};
use rcgen::generate_simple_self_signed;
use rustls::crypto::CryptoProvider;
use rustls::crypto::ring::kx_group;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, HandshakeKind, RootCertStore, StreamOwned};
use rustls::{SupportedProtocolVersion, version};
use server_core::metrics::HandshakeOutcome;
use server_core::testing::{DEADLINE, RawClient, RawPacket, packet};
use server_core::{
    DisconnectReason, Kick, ListenerKind, Server, TlsClientConfig, TlsServerConfig, TransportKind,
};
use std::fs;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Barrier, mpsc};
use std::thread;

/// A folder with certificate, key and tickets, removed at the end.
struct Files(PathBuf);

impl Files {
    fn new() -> Self {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("server-core-tls-{}-{number}", std::process::id());
        let files = Self(std::env::temp_dir().join(name));
        fs::create_dir(&files.0).unwrap();
        files.renew();
        files
    }

    /// Writes a new certificate with its key.
    fn renew(&self) {
        let pair = generate_simple_self_signed(["localhost".into(), "127.0.0.1".into()]).unwrap();
        fs::write(self.cert(), pair.cert.pem()).unwrap();
        fs::write(self.key(), pair.signing_key.serialize_pem()).unwrap();
    }

    fn cert(&self) -> PathBuf {
        self.0.join("cert.pem")
    }

    fn key(&self) -> PathBuf {
        self.0.join("key.pem")
    }

    fn config(&self) -> TlsServerConfig {
        TlsServerConfig::from_files(self.cert(), self.key()).unwrap()
    }

    /// The configuration of a client of its own: it keeps its own tickets.
    fn client(&self, versions: &[&'static SupportedProtocolVersion]) -> Arc<ClientConfig> {
        self.client_of(rustls::crypto::ring::default_provider(), versions)
    }

    fn client_of(
        &self,
        provider: CryptoProvider,
        versions: &[&'static SupportedProtocolVersion],
    ) -> Arc<ClientConfig> {
        let mut roots = RootCertStore::empty();
        roots
            .add(CertificateDer::from_pem_file(self.cert()).unwrap())
            .unwrap();
        let builder = ClientConfig::builder_with_provider(Arc::new(provider));
        let builder = builder.with_protocol_versions(versions).unwrap();
        Arc::new(builder.with_root_certificates(roots).with_no_client_auth())
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

struct Client(StreamOwned<ClientConnection, TcpStream>);

impl Client {
    fn connect(addr: SocketAddr, config: &Arc<ClientConfig>) -> io::Result<Self> {
        let name = ServerName::try_from("localhost").unwrap();
        let mut connection = ClientConnection::new(Arc::clone(config), name).unwrap();
        let mut stream = TcpStream::connect(addr)?;
        stream.set_read_timeout(Some(DEADLINE))?;
        stream.set_nodelay(true)?;
        while connection.is_handshaking() {
            connection.complete_io(&mut stream)?;
        }
        Ok(Self(StreamOwned::new(connection, stream)))
    }

    fn next_packet(&mut self) -> RawPacket {
        let mut header = [0; 4];
        self.0.read_exact(&mut header).unwrap();
        let [a, b, c, d] = header;
        let mut payload = vec![0; usize::from(u16::from_le_bytes([a, b])) - 4];
        self.0.read_exact(&mut payload).unwrap();
        RawPacket::new(u16::from_le_bytes([c, d]), payload)
    }

    fn echo(&mut self, payload: &[u8]) {
        self.0.write_all(&packet(C_ECHO, payload)).unwrap();
        assert_eq!(self.next_packet(), RawPacket::new(3, payload));
    }

    fn is_resumed(&self) -> bool {
        self.0.conn.handshake_kind() == Some(HandshakeKind::Resumed)
    }
}

const BOTH: &[&SupportedProtocolVersion] = &[&version::TLS13, &version::TLS12];
const EACH: [&[&SupportedProtocolVersion]; 2] = [&[&version::TLS13], &[&version::TLS12]];

fn start_tls(config: TlsServerConfig) -> (Running, SocketAddr) {
    let running = start(builder().listen(ListenerKind::Tls(config), "127.0.0.1:0"));
    let (transport, addr) = running.server.local_addrs()[1];
    assert_eq!(transport, TransportKind::Tls);
    (running, addr)
}

fn handshakes(server: &Server, outcome: HandshakeOutcome) -> u64 {
    server
        .handle()
        .metrics()
        .handshakes(TransportKind::Tls, outcome)
}

#[test]
fn sessions_with_and_without_tls_are_in_one_server() {
    let files = Files::new();
    let (running, addr) = start_tls(files.config());
    let (mut plain, _) = running.connect();
    for versions in EACH {
        let mut client = Client::connect(addr, &files.client(versions)).unwrap();
        client.echo(b"over TLS");
        client.echo(b"");
        running.server.broadcast(&numbered(1, 2), b"to all");
        assert_eq!(client.next_packet().payload[16..], *b"to all");
        assert_eq!(plain.next_packet().payload[16..], *b"to all");
        let metrics = running.server.handle();
        let sessions = |transport| metrics.metrics().sessions_of(transport);
        assert_eq!(
            (sessions(TransportKind::Tls), sessions(TransportKind::Tcp)),
            (1, 1)
        );
        drop(client);
        running.wait_for("the session has left", |_| {
            sessions(TransportKind::Tls) == 0
        });
    }
    assert_eq!(handshakes(&running.server, HandshakeOutcome::Full), 2);
}

#[test]
fn client_of_this_library_and_its_server_exchange_packets_over_tls() {
    let files = Files::new();
    let (running, addr) = start_tls(files.config());
    let trusted = TlsClientConfig::with_ca_file(files.cert()).unwrap();
    let by_name = trusted.clone().server_name("localhost").unwrap();
    for tls in [trusted, by_name, TlsClientConfig::insecure().unwrap()] {
        let (factory, events, _) = factory();
        let client = builder().client_tls(tls).start_client(factory).unwrap();
        client.handle().connect(addr, 7).unwrap();
        let connected = events.recv_timeout(DEADLINE).unwrap();
        let Event::Connected(id, Some(7), _) = connected else {
            panic!("{connected:?}");
        };
        client.handle().send_to(id, &numbered(1, 2), [5; 60_000]);
        // The server knows no packet 1 of clients.
        let (_, reason) = running.next_departure();
        assert_eq!(reason, Kick::UnknownId.into());
        assert!(
            matches!(events.recv_timeout(DEADLINE).unwrap(), Event::Packet(..)),
            "S_BYE"
        );
    }
}

#[test]
fn client_refuses_a_server_that_it_does_not_trust() {
    let (files, others) = (Files::new(), Files::new());
    let (running, addr) = start_tls(files.config());
    let wrong_name = TlsClientConfig::with_ca_file(files.cert()).unwrap();
    let wrong_name = wrong_name.server_name("other.example").unwrap();
    let wrong_ca = TlsClientConfig::with_ca_file(others.cert()).unwrap();
    for tls in [wrong_name, wrong_ca] {
        let (factory, events, _) = factory();
        let client = builder().client_tls(tls).start_client(factory).unwrap();
        client.handle().connect(addr, 7).unwrap();
        let left = events.recv_timeout(DEADLINE).unwrap();
        assert!(
            matches!(
                left,
                Event::Disconnected(_, Some(7), DisconnectReason::Handshake, _)
            ),
            "{left:?}"
        );
        assert_eq!(running.next_departure().1, DisconnectReason::Handshake);
    }
    assert_eq!(handshakes(&running.server, HandshakeOutcome::Failed), 2);
}

const CLIENTS: usize = 20;

/// The number of clients that continue their sessions with a second server.
fn resumed(first: TlsServerConfig, second: TlsServerConfig, files: &Files) -> usize {
    let mut resumed = 0;
    for versions in EACH {
        let clients: Vec<_> = (0..CLIENTS).map(|_| files.client(versions)).collect();
        for (server, is_first) in [(&first, true), (&second, false)] {
            let (running, addr) = start_tls(server.clone());
            for config in &clients {
                let mut client = Client::connect(addr, config).unwrap();
                // The ticket of TLS 1.3 comes before the first packet.
                client.echo(b"ticket");
                assert!(!is_first || !client.is_resumed());
                resumed += usize::from(client.is_resumed());
            }
            let full = handshakes(&running.server, HandshakeOutcome::Full);
            let continued = handshakes(&running.server, HandshakeOutcome::Resumed);
            assert_eq!(full + continued, CLIENTS as u64);
        }
    }
    resumed
}

#[test]
fn reconnects_after_a_restart_are_resumed_if_the_ticket_keys_are_kept() {
    let files = Files::new();
    let keys = files.0.join("tickets");
    let server = || files.config().with_ticket_keys(&keys).unwrap();
    let (first, second) = (server(), server());
    assert_eq!(resumed(first, second, &files), 2 * CLIENTS);
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let mode = fs::metadata(&keys).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
    assert_eq!(
        resumed(files.config(), files.config(), &files),
        0,
        "without a file"
    );
    fs::write(&keys, [1; 31]).unwrap();
    let error = files.config().with_ticket_keys(&keys).unwrap_err();
    assert!(error.to_string().contains("31 bytes"), "{error}");
}

/// Servers that start at one moment have one secret, and leave nothing beside the file.
#[test]
fn file_of_ticket_keys_that_many_create_at_once_has_one_secret() {
    let files = Files::new();
    for _ in 0..50 {
        let keys = files.0.join("tickets");
        let barrier = Barrier::new(8);
        thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    barrier.wait();
                    files.config().with_ticket_keys(&keys).unwrap();
                });
            }
        });
        assert_eq!(fs::read(&keys).unwrap().len(), 32);
        let names = fs::read_dir(&files.0).unwrap();
        assert_eq!(names.count(), 3, "certificate, key and tickets");
        fs::remove_file(keys).unwrap();
    }
}

#[test]
fn reload_changes_the_certificate_of_new_connections_and_keeps_the_old_one_if_the_pair_is_wrong() {
    let files = Files::new();
    let config = files.config();
    let (_running, addr) = start_tls(config.clone());
    let before = files.client(BOTH);
    let mut early = Client::connect(addr, &before).unwrap();
    let (first, key) = (
        fs::read(files.cert()).unwrap(),
        fs::read(files.key()).unwrap(),
    );
    files.renew();
    let renewed = fs::read(files.key()).unwrap();

    fs::write(files.key(), &key).unwrap();
    let error = config.reload().unwrap_err();
    assert!(error.to_string().contains("key.pem"), "{error}");
    fs::write(files.key(), b"nothing").unwrap();
    assert!(config.reload().is_err());
    Client::connect(addr, &before).expect("the pair before stays");

    fs::write(files.key(), &renewed).unwrap();
    config.reload().unwrap();
    let mut late = Client::connect(addr, &files.client(BOTH)).unwrap();
    late.echo(b"new certificate");
    early.echo(b"old session");
    // Without its ticket, a client that trusts the first certificate alone is refused now.
    fs::write(files.cert(), &first).unwrap();
    Client::connect(addr, &files.client(BOTH))
        .err()
        .expect("another certificate");
}

/// The open of a pipe waits for its writer: a reload would never come back.
#[test]
fn reload_refuses_what_is_not_a_regular_file() {
    let files = Files::new();
    let config = files.config();
    fs::remove_file(files.key()).unwrap();
    let made = Command::new("mkfifo").arg(files.key()).status().unwrap();
    assert!(made.success());
    let (sender, reloaded) = mpsc::channel();
    thread::spawn(move || sender.send(config.reload()));
    let outcome = reloaded.recv_timeout(DEADLINE).expect("an answer");
    let error = outcome.unwrap_err().to_string();
    assert!(error.ends_with("key.pem: not a regular file"), "{error}");
}

/// The exchange of keys with P-384 costs a server six times the processor time of another one.
#[test]
fn client_that_offers_p384_alone_is_refused_and_the_other_groups_are_served() {
    let files = Files::new();
    let (running, addr) = start_tls(files.config());
    for (group, is_served) in [
        (kx_group::X25519, true),
        (kx_group::SECP256R1, true),
        (kx_group::SECP384R1, false),
    ] {
        let mut provider = rustls::crypto::ring::default_provider();
        provider.kx_groups = vec![group];
        for versions in EACH {
            let config = files.client_of(provider.clone(), versions);
            let connected = Client::connect(addr, &config);
            assert_eq!(connected.is_ok(), is_served, "{group:?} {versions:?}");
        }
    }
    assert_eq!(handshakes(&running.server, HandshakeOutcome::Failed), 2);
}

#[test]
fn bytes_that_are_not_tls_end_their_connection_alone() {
    let files = Files::new();
    let (running, addr) = start_tls(files.config());
    let mut client = Client::connect(addr, &files.client(BOTH)).unwrap();
    let hello_of_66_kb = [&[22, 3, 1, 64, 0][..], &[1, 0, 255, 255], &[7; 16_380]].concat();
    let inputs: [&[u8]; 6] = [
        &packet(C_ECHO, b"plain TCP"),
        b"GET / HTTP/1.1\r\n\r\n",
        &[0; 70_000],
        &[22, 3, 1, 255, 255],
        &[21, 3, 1, 0, 2, 2, 40],
        &hello_of_66_kb.repeat(5),
    ];
    for (number, input) in inputs.into_iter().enumerate() {
        let mut stream = TcpStream::connect(addr).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        // The server may have closed the connection before the last byte.
        let _ = stream.write_all(input);
        assert_eq!(
            running.next_departure().1,
            DisconnectReason::Handshake,
            "input {number}"
        );
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        assert!(
            answer.is_empty() || answer[0] == 21,
            "an alert, and no packet: {answer:?}"
        );
        client.echo(b"undisturbed");
    }
    let failed = handshakes(&running.server, HandshakeOutcome::Failed);
    assert_eq!(failed, inputs.len() as u64);
}

#[test]
fn records_of_one_byte_are_packets() {
    let files = Files::new();
    let (_running, addr) = start_tls(files.config());
    for versions in EACH {
        let mut client = Client::connect(addr, &files.client(versions)).unwrap();
        for byte in packet(C_ECHO, b"byte by byte") {
            client.0.conn.writer().write_all(&[byte]).unwrap();
        }
        client.0.flush().unwrap();
        assert_eq!(client.next_packet(), RawPacket::new(3, b"byte by byte"));
    }
}

/// The keys of both sides change: those of the client with each update, those of the server with its answers.
#[test]
fn updates_of_the_keys_are_answered_and_packets_go_on_between_them() {
    let files = Files::new();
    let (running, addr) = start_tls(files.config());
    let mut client = Client::connect(addr, &files.client(&[&version::TLS13])).unwrap();
    for number in 0..20_u8 {
        for _ in 0..number % 4 {
            client.0.conn.refresh_traffic_keys().unwrap();
        }
        client.echo(&[number; 1000]);
        running
            .server
            .broadcast(&numbered(1, number.into()), [number; 20_000]);
        assert_eq!(client.next_packet().payload[16..], [number; 20_000]);
    }
    // TLS 1.2 has no updates.
    let mut client = Client::connect(addr, &files.client(&[&version::TLS12])).unwrap();
    assert!(client.0.conn.refresh_traffic_keys().is_err());
}

#[test]
fn updates_of_the_keys_without_end_are_over_the_budget_of_empty_records() {
    let files = Files::new();
    let (running, addr) = start_tls(files.config());
    let mut client = Client::connect(addr, &files.client(&[&version::TLS13])).unwrap();
    let bytes = packet(C_ECHO, [0; 100]);
    // rustls counts the updates in a row: a byte of a packet begins the next row.
    for byte in &bytes {
        for _ in 0..32 {
            client.0.conn.refresh_traffic_keys().unwrap();
        }
        client.0.conn.writer().write_all(&[*byte]).unwrap();
        // The server may have ended the session.
        let _ = client.0.flush();
    }
    assert_eq!(running.next_departure().1, Kick::RateLimit.into());
}

#[test]
fn broken_record_after_the_handshake_ends_the_session_behind_its_whole_packets() {
    let files = Files::new();
    let (running, addr) = start_tls(files.config());
    for versions in EACH {
        let mut client = Client::connect(addr, &files.client(versions)).unwrap();
        client
            .0
            .conn
            .writer()
            .write_all(&packet(C_ECHO, b"whole"))
            .unwrap();
        let mut records = Vec::new();
        client.0.conn.write_tls(&mut records).unwrap();
        records.extend([23, 3, 3, 0, 40]);
        records.extend([0; 40]);
        client.0.sock.write_all(&records).unwrap();
        assert!(matches!(running.next(), Event::Connected(..)));
        assert!(matches!(running.next(), Event::Packet(..)));
        assert_eq!(running.next_departure().1, DisconnectReason::Handshake);
        let error = io::copy(&mut client.0, &mut io::sink()).unwrap_err();
        assert!(error.to_string().contains("BadRecordMac"), "{error}");
    }
}

#[test]
fn end_without_close_notify_is_an_end_behind_the_whole_packets() {
    let files = Files::new();
    let (running, addr) = start_tls(files.config());
    let mut client = Client::connect(addr, &files.client(BOTH)).unwrap();
    client.0.write_all(&packet(C_ECHO, b"last")).unwrap();
    client.0.sock.shutdown(Shutdown::Write).unwrap();
    assert_eq!(running.next_departure().1, DisconnectReason::PeerClosed);
    assert_eq!(client.next_packet(), RawPacket::new(3, b"last"));
    assert_eq!(client.0.read(&mut [0; 9]).unwrap(), 0, "close_notify");
}

#[test]
fn session_that_the_server_ends_gets_its_last_packet_and_close_notify() {
    let files = Files::new();
    let (_running, addr) = start_tls(files.config());
    // A close has no S_BYE; a kick has one with its code, 3 for an unknown id.
    let ends = [
        (C_CLOSE, RawPacket::new(3, b"closing")),
        (999, RawPacket::new(6, [3, 0])),
    ];
    for (versions, (id, last)) in EACH
        .iter()
        .flat_map(|one| ends.iter().map(move |end| (one, end)))
    {
        let mut client = Client::connect(addr, &files.client(versions)).unwrap();
        client.0.write_all(&packet(*id, b"")).unwrap();
        assert_eq!(client.next_packet(), *last);
        // Without close_notify the read is an error.
        let mut rest = Vec::new();
        client.0.read_to_end(&mut rest).unwrap();
        assert_eq!(rest, b"", "{last:?} is the last packet");
    }
}

#[test]
fn connection_to_a_full_server_is_closed_before_its_handshake() {
    let files = Files::new();
    let config = ListenerKind::Tls(files.config());
    let running = start(
        builder()
            .max_sessions(Some(1))
            .listen(config, "127.0.0.1:0"),
    );
    let addr = running.server.local_addrs()[1].1;
    let mut first = Client::connect(addr, &files.client(BOTH)).unwrap();
    first.echo(b"the only one");
    let refused = Client::connect(addr, &files.client(BOTH)).err().unwrap();
    let kinds = [
        ErrorKind::UnexpectedEof,
        ErrorKind::ConnectionReset,
        ErrorKind::BrokenPipe,
    ];
    assert!(kinds.contains(&refused.kind()), "{refused:?}");
    running.wait_for("the connection counts as rejected", |handle| {
        handle.metrics().totals().rejected == 1
    });
    first.echo(b"still here");
    assert_eq!(handshakes(&running.server, HandshakeOutcome::Failed), 0);
}

/// The socket takes records in part: the rest is kept, and packets wait in the queue.
#[test]
fn slow_reader_gets_each_byte_in_order() {
    let files = Files::new();
    let (running, addr) = start_tls(files.config());
    let mut client = Client::connect(addr, &files.client(BOTH)).unwrap();
    client.echo(b"ready");
    for number in 0..40 {
        let fill = (number % 251) as u8;
        running
            .server
            .broadcast(&numbered(1, number), vec![fill; 20_000 + number as usize]);
    }
    for number in 0..40_u64 {
        let payload = client.next_packet().payload;
        assert_eq!(payload[8..16], number.to_le_bytes());
        assert!(
            payload[16..]
                .iter()
                .all(|byte| *byte == (number % 251) as u8)
        );
        assert_eq!(payload.len(), 16 + 20_000 + number as usize);
    }
    client.0.write_all(&packet(C_BURST, b"")).unwrap();
    for number in 0..BURST {
        assert_eq!(client.next_packet().payload[8..16], number.to_le_bytes());
    }
}

#[test]
fn wrong_files_are_named() {
    let files = Files::new();
    let missing = files.0.join("missing.pem");
    let error = TlsServerConfig::from_files(&missing, files.key()).unwrap_err();
    assert!(error.to_string().contains("missing.pem"), "{error}");
    let error = TlsServerConfig::from_files(files.key(), files.key()).unwrap_err();
    assert!(error.to_string().contains("no certificate"), "{error}");
    let error = TlsClientConfig::with_ca_file(&missing).unwrap_err();
    assert!(error.to_string().contains("missing.pem"), "{error}");
    let insecure = TlsClientConfig::insecure().unwrap();
    assert!(insecure.server_name("not a name").is_err());
}

#[test]
fn plain_session_is_not_touched_by_a_listener_for_tls() {
    let files = Files::new();
    let (running, _) = start_tls(files.config());
    let mut client = RawClient::connect(running.server.local_addr());
    client.send_packet(C_ECHO, b"plain");
    assert_eq!(client.next_packet(), RawPacket::new(3, b"plain"));
}
