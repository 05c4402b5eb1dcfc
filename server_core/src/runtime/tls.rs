//! TLS by rustls: the engine, certificates, tickets, and the configuration of both sides.

use crate::transport::{Records, TlsBroken, TlsEngine};
use ring::rand::{SecureRandom, SystemRandom};
use ring::{aead, hmac};
use rustls::client::UnbufferedClientConnection;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::ring::{default_provider, kx_group};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::{
    ClientHello, NoServerSessionStorage, ProducesTickets, ResolvesServerCert,
    UnbufferedServerConnection,
};
use rustls::sign::{CertifiedKey, SigningKey};
use rustls::unbuffered::{ConnectionState, EncodeError, EncryptError, WriteTraffic};
use rustls::{
    ClientConfig, ClientConnection, DigitallySignedStruct, HandshakeKind, RootCertStore,
    ServerConfig, SignatureAlgorithm, SignatureScheme, StreamOwned,
};
use std::fmt::{self, Display};
use std::fs::{self, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::net::IpAddr;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{SystemTime, UNIX_EPOCH};

/// What a listener needs for TLS: certificate, key and tickets. A clone shares them.
///
/// TLS 1.3 and 1.2. A server offers the application protocol `gs/1`: a client that offers only others is
/// refused, a client that offers none is not. A client gets one ticket and may continue its session with it,
/// without the signature of a full handshake. Early data is not accepted. Keys are exchanged with X25519 or P-256.
///
/// A session of TLS 1.2 with AES-GCM ends after 2^24 records from the server, with the reason `handshake`: that
/// protocol has no new keys for it. At 60 records a second that is after 3.2 days. TLS 1.3 renews its keys.
#[derive(Clone, Debug)]
pub struct TlsServerConfig {
    cert: PathBuf,
    key: PathBuf,
    certified: Arc<Certified>,
    config: Arc<ServerConfig>,
}

/// How a client trusts its servers, and the sessions that it can continue. A clone shares them.
///
/// The client offers the application protocol `gs/1`. Tickets of up to 256 servers are kept.
#[derive(Clone, Debug)]
pub struct TlsClientConfig {
    config: Arc<ClientConfig>,
    name: Option<ServerName<'static>>,
}

/// The application protocol of packets.
const GAME_PROTOCOL: &[u8] = b"gs/1";
/// The application protocol of WebSocket.
const HTTP_PROTOCOL: &[u8] = b"http/1.1";

impl TlsServerConfig {
    /// Reads a chain of certificates, the server's own first, and the server's private key.
    ///
    /// # Errors
    /// A file cannot be read, or the key is not that of the certificate. The error names the file.
    pub fn from_files(cert: impl Into<PathBuf>, key: impl Into<PathBuf>) -> io::Result<Self> {
        let (cert, key) = (cert.into(), key.into());
        let certified = Arc::new(Certified(RwLock::new(read_certified(&cert, &key)?)));
        let builder = ServerConfig::builder_with_provider(server_provider());
        let mut config = (builder.with_safe_default_protocol_versions())
            .map_err(io::Error::other)?
            .with_no_client_auth()
            .with_cert_resolver(Arc::clone(&certified) as Arc<dyn ResolvesServerCert>);
        config.alpn_protocols = vec![GAME_PROTOCOL.to_vec()];
        // Tickets keep what a session cache would keep, at the client.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 1;
        config.ticketer = Arc::new(Tickets::new(&random()?));
        Ok(Self {
            cert,
            key,
            certified,
            config: Arc::new(config),
        })
    }

    /// Takes the secret of the tickets from a file, so that clients continue their sessions after a restart, and
    /// on other servers with the same file. A missing file is created, with mode 0600 and a random secret of 32
    /// bytes. The keys are derived from the secret and the time, and change every 12 hours; a ticket is valid
    /// for 12 hours at least.
    ///
    /// # Errors
    /// The file cannot be read or created, or has fewer than 32 bytes. The error names the file.
    pub fn with_ticket_keys(mut self, file: impl AsRef<Path>) -> io::Result<Self> {
        let file = file.as_ref();
        let secret = read_secret(file).map_err(|error| of_file("ticket keys", file, &error))?;
        Arc::make_mut(&mut self.config).ticketer = Arc::new(Tickets::new(&secret));
        Ok(self)
    }

    /// The same for WebSocket: the application protocol is `http/1.1`. [`reload`](Self::reload) is for both.
    #[must_use]
    pub fn for_websocket(&self) -> Self {
        let mut other = self.clone();
        Arc::make_mut(&mut other.config).alpn_protocols = vec![HTTP_PROTOCOL.to_vec()];
        other
    }

    /// Reads certificate and key again, for the handshakes that begin from now on.
    ///
    /// # Errors
    /// As of [`from_files`](Self::from_files), or one of them is not a regular file: opening a pipe would wait for
    /// its writer. Certificate and key stay as they were then.
    pub fn reload(&self) -> io::Result<()> {
        for (what, file) in [("certificate", &self.cert), ("private key", &self.key)] {
            let metadata = fs::metadata(file).map_err(|error| of_file(what, file, &error))?;
            if !metadata.is_file() {
                return Err(of_file(what, file, &"not a regular file"));
            }
        }
        let certified = read_certified(&self.cert, &self.key)?;
        *(self.certified.0.write()).unwrap_or_else(PoisonError::into_inner) = certified;
        Ok(())
    }

    /// The server's side of a new connection.
    ///
    /// # Errors
    /// If the system has no randomness.
    pub(crate) fn engine(&self) -> io::Result<RustlsEngine> {
        let connection = UnbufferedServerConnection::new(Arc::clone(&self.config));
        let connection = connection.map_err(io::Error::other)?;
        let signing_cost = signing_cost(&*self.certified.now().key);
        Ok(RustlsEngine::new(Side::Server(connection), signing_cost))
    }
}

impl TlsClientConfig {
    /// Trusts servers whose certificate is signed by one of the certificates in this PEM file, and those
    /// certificates themselves if they are not marked as an authority's.
    ///
    /// # Errors
    /// The file cannot be read, or has no certificate. The error names the file.
    pub fn with_ca_file(file: impl AsRef<Path>) -> io::Result<Self> {
        let file = file.as_ref();
        let mut roots = RootCertStore::empty();
        for cert in read_certs(file)? {
            (roots.add(cert)).map_err(|error| of_file("certificate", file, &error))?;
        }
        let builder = ClientConfig::builder_with_provider(provider());
        let builder = builder.with_safe_default_protocol_versions();
        let builder = builder.map_err(io::Error::other)?;
        Ok(Self::of(
            builder.with_root_certificates(roots).with_no_client_auth(),
        ))
    }

    /// Trusts any server: anyone between client and server can read and change everything. For tests.
    ///
    /// # Errors
    /// None today.
    pub fn insecure() -> io::Result<Self> {
        let builder = ClientConfig::builder_with_provider(provider());
        let builder = builder.with_safe_default_protocol_versions();
        let builder = builder.map_err(io::Error::other)?.dangerous();
        let verifier = Arc::new(AnyServer(provider()));
        let builder = builder.with_custom_certificate_verifier(verifier);
        Ok(Self::of(builder.with_no_client_auth()))
    }

    fn of(mut config: ClientConfig) -> Self {
        config.alpn_protocols = vec![GAME_PROTOCOL.to_vec()];
        Self {
            config: Arc::new(config),
            name: None,
        }
    }

    /// The name or address in the certificate of the server. Default: the address of the connection.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidInput`]: it is neither.
    pub fn server_name(mut self, name: &str) -> io::Result<Self> {
        let parsed = ServerName::try_from(name.to_owned());
        let parsed = parsed.map_err(|error| {
            io::Error::new(
                ErrorKind::InvalidInput,
                format!("server name {name:?}: {error}"),
            )
        })?;
        self.name = Some(parsed);
        Ok(self)
    }

    /// Keeps no ticket: each handshake is a full one.
    #[must_use]
    pub fn without_tickets(mut self) -> Self {
        Arc::make_mut(&mut self.config).resumption = rustls::client::Resumption::disabled();
        self
    }

    /// The same for WebSocket: the application protocol is `http/1.1`.
    #[must_use]
    pub fn for_websocket(mut self) -> Self {
        Arc::make_mut(&mut self.config).alpn_protocols = vec![HTTP_PROTOCOL.to_vec()];
        self
    }

    /// The client's side of a connection to a broker, which speaks no protocol of ours. `host`: the name or address in
    /// its certificate, if no [`server_name`](Self::server_name) is set.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidInput`] for a host that is neither; an error if the system has no randomness.
    #[cfg(feature = "cluster")]
    pub(crate) fn broker_connection(&self, host: &str) -> io::Result<ClientConnection> {
        let named = match self.name {
            Some(_) => self.clone(),
            None => self.clone().server_name(host)?,
        };
        let name = named.name.ok_or(ErrorKind::InvalidInput)?;
        let mut config = named.config;
        Arc::make_mut(&mut config).alpn_protocols.clear();
        let mut connection = ClientConnection::new(config, name).map_err(io::Error::other)?;
        // The link bounds what it sends.
        connection.set_buffer_limit(None);
        Ok(connection)
    }

    /// The client's side of a new connection.
    ///
    /// # Errors
    /// If the system has no randomness.
    pub(crate) fn engine(&self, server: IpAddr) -> io::Result<RustlsEngine> {
        let name = (self.name.clone()).unwrap_or_else(|| ServerName::IpAddress(server.into()));
        let connection = UnbufferedClientConnection::new(Arc::clone(&self.config), name);
        let connection = connection.map_err(io::Error::other)?;
        Ok(RustlsEngine::new(Side::Client(connection), 0))
    }
}

// ---- a client without a session -----------------------------------------------------------------

/// TLS of a client over a stream of the caller, without a session and an event loop: for probes and tests.
///
/// Reads and writes block as those of the stream do. A read writes what an earlier write has left.
#[derive(Debug)]
pub struct TlsClientStream<S: Read + Write> {
    stream: StreamOwned<ClientConnection, S>,
    record_bytes: usize,
    key_updates: usize,
}

impl TlsClientConfig {
    /// A connection over this stream, before its handshake. `server`: its address, which its certificate has if no
    /// [`server_name`](Self::server_name) is set.
    ///
    /// # Errors
    /// If the system has no randomness.
    pub fn over<S: Read + Write>(
        &self,
        stream: S,
        server: IpAddr,
    ) -> io::Result<TlsClientStream<S>> {
        let name = (self.name.clone()).unwrap_or_else(|| ServerName::IpAddress(server.into()));
        let connection = ClientConnection::new(Arc::clone(&self.config), name);
        let connection = connection.map_err(io::Error::other)?;
        Ok(TlsClientStream {
            stream: StreamOwned::new(connection, stream),
            record_bytes: usize::MAX,
            key_updates: 0,
        })
    }
}

impl<S: Read + Write> TlsClientStream<S> {
    /// Goes on with the handshake, to its end if the stream blocks.
    ///
    /// # Errors
    /// [`ErrorKind::WouldBlock`] of the stream: the server has to answer. Otherwise, the text says why the handshake
    /// failed.
    pub fn handshake(&mut self) -> io::Result<()> {
        while self.stream.conn.is_handshaking() {
            self.stream.conn.complete_io(&mut self.stream.sock)?;
        }
        Ok(())
    }

    /// Writes records of at most this number of bytes of plaintext, and before each of them `key_updates` updates of the
    /// keys, each of which asks for an answer. A server pays for them. Keys are updated in TLS 1.3 alone.
    #[must_use]
    pub fn with_costly_records(mut self, record_bytes: usize, key_updates: usize) -> Self {
        (self.record_bytes, self.key_updates) = (record_bytes.max(1), key_updates);
        self
    }

    /// The stream.
    pub fn get_ref(&self) -> &S {
        &self.stream.sock
    }

    /// The stream.
    pub fn get_mut(&mut self) -> &mut S {
        &mut self.stream.sock
    }
}

impl<S: Read + Write> Read for TlsClientStream<S> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let StreamOwned { conn, sock } = &mut self.stream;
        loop {
            match conn.reader().read(buffer) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                read => return read,
            }
            // A stream that takes nothing may still have something to read.
            while conn.wants_write() && conn.write_tls(sock).is_ok_and(|count| count > 0) {}
            conn.read_tls(sock)?;
            (conn.process_new_packets())
                .map_err(|error| io::Error::new(ErrorKind::InvalidData, error))?;
        }
    }
}

impl<S: Read + Write> Write for TlsClientStream<S> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.record_bytes == usize::MAX && self.key_updates == 0 {
            return self.stream.write(bytes);
        }
        // What the stream has refused goes out first.
        self.stream.flush()?;
        let mut written = 0;
        for record in bytes.chunks(self.record_bytes).take(MAX_COSTLY_RECORDS) {
            for _ in 0..self.key_updates {
                let updated = self.stream.conn.refresh_traffic_keys();
                updated.map_err(io::Error::other)?;
            }
            let count = self.stream.conn.writer().write(record)?;
            written += count;
            if count < record.len() {
                break;
            }
        }
        match self.stream.flush() {
            Err(error) if error.kind() != ErrorKind::WouldBlock => Err(error),
            _ => Ok(written),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stream.flush()
    }
}

/// Records of one write, before the stream is offered them.
const MAX_COSTLY_RECORDS: usize = 100;

// ---- the engine ---------------------------------------------------------------------------------

/// One connection of rustls, by its interface without buffers.
pub struct RustlsEngine {
    side: Side,
    is_peer_closed: bool,
    /// rustls has returned an error. Another call could meet bytes that it has seen already.
    is_broken: bool,
    records: Records,
    /// That of the signature which the handshake has not made yet.
    signing_cost: usize,
    /// Whether reads have led to output since the last count.
    has_answered: bool,
    /// A HelloRetryRequest has been counted.
    has_retried: bool,
}

enum Side {
    Server(UnbufferedServerConnection),
    Client(UnbufferedClientConnection),
}

/// Runs the same code for either side: the connections are different types.
macro_rules! either {
    ($side:expr, $connection:ident => $then:expr) => {
        match $side {
            Side::Server($connection) => $then,
            Side::Client($connection) => $then,
        }
    };
}

/// What a record adds to its plaintext, at most: header, nonce, type and tag.
const RECORD_OVERHEAD_BYTES: usize = 5 + 8 + 1 + 16;

/// What a step of rustls has led to.
enum Step {
    /// There may be more to do.
    Again,
    PeerClosed,
    /// The next step needs bytes of the peer, or of the caller.
    Idle,
}

impl RustlsEngine {
    fn new(side: Side, signing_cost: usize) -> Self {
        Self {
            side,
            signing_cost,
            is_peer_closed: false,
            is_broken: false,
            records: Records::default(),
            has_answered: false,
            has_retried: false,
        }
    }

    fn check(&self) -> Result<(), TlsBroken> {
        if self.is_broken {
            return Err(TlsBroken("the connection is broken".into()));
        }
        Ok(())
    }

    /// Calls `then` when the connection takes what is to be written.
    fn with_writer(
        &mut self,
        incomplete: &mut [u8],
        output: &mut Vec<u8>,
        then: impl FnOnce(&mut dyn Writer, &mut Vec<u8>) -> Result<(), TlsBroken>,
    ) -> Result<(), TlsBroken> {
        self.check()?;
        // Nothing comes: each complete record has been read.
        let mut plaintext = Vec::new();
        loop {
            let step = either!(&mut self.side, connection => {
                match connection.process_tls_records(incomplete).state.map_err(broken)? {
                    ConnectionState::WriteTraffic(mut writer) => return then(&mut writer, output),
                    state => advance(state, &mut plaintext, output, &mut 0)?,
                }
            });
            match step {
                Step::Again => {}
                Step::PeerClosed => self.is_peer_closed = true,
                Step::Idle => return Err(TlsBroken("nothing can be written now".into())),
            }
        }
    }
}

impl TlsEngine for RustlsEngine {
    fn read(
        &mut self,
        input: &mut [u8],
        plaintext: &mut Vec<u8>,
        output: &mut Vec<u8>,
    ) -> Result<usize, TlsBroken> {
        self.check()?;
        let (mut taken, mut filled) = (0, 0);
        let (records, before) = (complete_records(input), output.len());
        loop {
            let input = &mut input[taken..];
            let (discard, outcome) = either!(&mut self.side, connection => {
                let status = connection.process_tls_records(input);
                let outcome = status.state.map_err(broken);
                (status.discard, outcome.and_then(|state| advance(state, plaintext, output, &mut filled)))
            });
            taken += discard;
            match outcome {
                Ok(Step::Again) => {}
                Ok(Step::PeerClosed) => self.is_peer_closed = true,
                Ok(Step::Idle) => {
                    self.has_answered |= output.len() > before;
                    self.records.filled += filled;
                    self.records.empty += records.saturating_sub(filled);
                    return Ok(taken);
                }
                Err(error) => {
                    self.is_broken = true;
                    self.take_alerts(output);
                    self.has_answered |= output.len() > before;
                    return Err(error);
                }
            }
        }
    }

    fn write(
        &mut self,
        incomplete: &mut [u8],
        plaintext: &[u8],
        output: &mut Vec<u8>,
    ) -> Result<(), TlsBroken> {
        self.with_writer(incomplete, output, |writer, output| {
            let room = plaintext.len() + RECORD_OVERHEAD_BYTES;
            append(output, room, |memory| writer.encrypt(plaintext, memory))
        })
    }

    fn close(&mut self, incomplete: &mut [u8], output: &mut Vec<u8>) {
        let closed = self.with_writer(incomplete, output, |writer, output| {
            append(output, RECORD_OVERHEAD_BYTES + 2, |memory| {
                writer.close(memory)
            })
        });
        if let Err(error) = closed {
            log::debug!("no close_notify: {error}");
        }
    }

    fn take_records(&mut self) -> Records {
        let has_answered = std::mem::take(&mut self.has_answered);
        // Known from the peer's first message on.
        match either!(&self.side, connection => connection.handshake_kind()) {
            None => {}
            Some(HandshakeKind::Resumed) => self.signing_cost = 0,
            // The signature is in the answer to the second hello, which may have come with the first one: the cost
            // counts for both answers.
            Some(HandshakeKind::FullWithHelloRetryRequest) if !self.has_retried => {
                self.has_retried = true;
                self.records.signing_cost = self.signing_cost;
            }
            Some(HandshakeKind::FullWithHelloRetryRequest) if !has_answered => {}
            Some(_) => self.records.signing_cost = std::mem::take(&mut self.signing_cost),
        }
        std::mem::take(&mut self.records)
    }

    fn is_handshaking(&self) -> bool {
        either!(&self.side, connection => connection.is_handshaking())
    }

    fn is_peer_closed(&self) -> bool {
        self.is_peer_closed
    }

    fn is_resumed(&self) -> bool {
        let kind = either!(&self.side, connection => connection.handshake_kind());
        kind == Some(HandshakeKind::Resumed)
    }
}

impl RustlsEngine {
    /// After an error, rustls has an alert for the peer, most likely. A step that has nothing to write would read on
    /// behind the error.
    fn take_alerts(&mut self, output: &mut Vec<u8>) {
        let mut plaintext = Vec::new();
        while either!(&self.side, connection => connection.wants_write()) {
            let outcome = either!(&mut self.side, connection => {
                let state = connection.process_tls_records(&mut []).state.map_err(broken);
                state.and_then(|state| advance(state, &mut plaintext, output, &mut 0))
            });
            if outcome.is_err() {
                return;
            }
        }
    }
}

impl fmt::Debug for RustlsEngine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RustlsEngine").finish_non_exhaustive()
    }
}

/// The number of complete records at the front of `input`, by their headers.
fn complete_records(mut input: &[u8]) -> usize {
    let mut records = 0;
    while let Some(([.., high, low], rest)) = input.split_first_chunk::<5>()
        && let Some(rest) = rest.get(usize::from(u16::from_be_bytes([*high, *low]))..)
    {
        (input, records) = (rest, records + 1);
    }
    records
}

fn broken(error: rustls::Error) -> TlsBroken {
    TlsBroken(error.to_string())
}

fn advance<Data>(
    state: ConnectionState<'_, '_, Data>,
    plaintext: &mut Vec<u8>,
    output: &mut Vec<u8>,
    filled_records: &mut usize,
) -> Result<Step, TlsBroken> {
    match state {
        ConnectionState::ReadTraffic(mut traffic) => {
            while let Some(record) = traffic.next_record() {
                let payload = record.map_err(broken)?.payload;
                *filled_records += usize::from(!payload.is_empty());
                plaintext.extend_from_slice(payload);
            }
            Ok(Step::Again)
        }
        ConnectionState::EncodeTlsData(mut data) => {
            append(output, 0, |memory| match data.encode(memory) {
                Err(EncodeError::InsufficientSize(size)) => {
                    Err(EncryptError::InsufficientSize(size))
                }
                Err(EncodeError::AlreadyEncoded) => Ok(0),
                Ok(count) => Ok(count),
            })?;
            Ok(Step::Again)
        }
        ConnectionState::TransmitTlsData(data) => {
            data.done();
            Ok(Step::Again)
        }
        ConnectionState::PeerClosed => Ok(Step::PeerClosed),
        _ => Ok(Step::Idle),
    }
}

/// Appends what `write` writes to `output`. `room` is the size that it needs, as far as that is known.
fn append(
    output: &mut Vec<u8>,
    room: usize,
    mut write: impl FnMut(&mut [u8]) -> Result<usize, EncryptError>,
) -> Result<(), TlsBroken> {
    let before = output.len();
    output.resize(before + room, 0);
    let written = loop {
        match write(&mut output[before..]) {
            Err(EncryptError::InsufficientSize(size))
                if size.required_size > output.len() - before =>
            {
                output.resize(before + size.required_size, 0);
            }
            other => break other,
        }
    };
    output.truncate(before + written.as_ref().copied().unwrap_or(0));
    written
        .map(drop)
        .map_err(|error| TlsBroken(error.to_string()))
}

/// The writers of both sides, as one type.
trait Writer {
    fn encrypt(&mut self, plaintext: &[u8], output: &mut [u8]) -> Result<usize, EncryptError>;
    fn close(&mut self, output: &mut [u8]) -> Result<usize, EncryptError>;
}

impl<Data> Writer for WriteTraffic<'_, Data> {
    fn encrypt(&mut self, plaintext: &[u8], output: &mut [u8]) -> Result<usize, EncryptError> {
        WriteTraffic::encrypt(self, plaintext, output)
    }

    fn close(&mut self, output: &mut [u8]) -> Result<usize, EncryptError> {
        self.queue_close_notify(output)
    }
}

// ---- certificates -------------------------------------------------------------------------------

/// The certificate and key of the handshakes that begin now.
#[derive(Debug)]
struct Certified(RwLock<Arc<CertifiedKey>>);

impl Certified {
    fn now(&self) -> Arc<CertifiedKey> {
        Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }
}

impl ResolvesServerCert for Certified {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.now())
    }
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(default_provider())
}

/// A server leaves out P-384: a peer that chooses it for the exchange of keys costs 1.03 ms of processor time, one with
/// another group 0.18 ms.
fn server_provider() -> Arc<CryptoProvider> {
    Arc::new(CryptoProvider {
        kx_groups: vec![kx_group::X25519, kx_group::SECP256R1],
        ..default_provider()
    })
}

fn read_certified(cert: &Path, key: &Path) -> io::Result<Arc<CertifiedKey>> {
    let chain = read_certs(cert)?;
    let private = PrivateKeyDer::from_pem_file(key);
    let private = private.map_err(|error| match error {
        pem::Error::NoItemsFound => of_file(
            "private key",
            key,
            &"no unencrypted private key in the file",
        ),
        error => of_file("private key", key, &error),
    })?;
    let certified = CertifiedKey::from_der(chain, private, &provider());
    let certified = certified.map_err(|error| {
        let files = format!("certificate {} and key {}", cert.display(), key.display());
        io::Error::new(ErrorKind::InvalidData, format!("{files}: {error}"))
    })?;
    if certified.key.algorithm() == SignatureAlgorithm::RSA {
        log::warn!(
            "private key {}: RSA, whose handshakes cost several times the processor time of ECDSA (P-256)",
            key.display()
        );
    }
    Ok(Arc::new(certified))
}

/// What a signature with this key costs beyond one of ECDSA with P-256, in bytes of a turn's input: 16 KiB are the time
/// of a step with P-256.
fn signing_cost(key: &dyn SigningKey) -> usize {
    let key_bytes = (key.public_key()).map_or(MAX_KEY_BYTES, |key| key.len());
    match key.algorithm() {
        SignatureAlgorithm::RSA => {
            let modulus_bytes = key_bytes
                .min(MAX_KEY_BYTES)
                .saturating_sub(RSA_HEADER_BYTES);
            RSA_2048_COST * modulus_bytes.pow(3) / 256_usize.pow(3)
        }
        SignatureAlgorithm::ECDSA if key_bytes > P256_BYTES => P384_COST,
        _ => 0,
    }
}

/// The bytes of a public key in DER: with P-256, what comes before the modulus of RSA, and the most (8,192 bits).
const P256_BYTES: usize = 91;
const RSA_HEADER_BYTES: usize = 38;
const MAX_KEY_BYTES: usize = RSA_HEADER_BYTES + 1024;
/// `openssl speed` measures signatures of 0.03 ms with P-256, 1.2 ms with P-384, 0.9 ms with RSA of 2,048 bits and 5.4 ms
/// with 4,096, where a step with P-256 takes about 0.13 ms. The time of RSA grows with the third power of the bits.
const P384_COST: usize = 9 * (16 << 10);
const RSA_2048_COST: usize = 7 * (16 << 10);

fn read_certs(file: &Path) -> io::Result<Vec<CertificateDer<'static>>> {
    let certs = CertificateDer::pem_file_iter(file).and_then(Iterator::collect);
    let certs: Vec<_> = certs.map_err(|error| of_file("certificate", file, &error))?;
    if certs.is_empty() {
        return Err(of_file("certificate", file, &"no certificate in the file"));
    }
    Ok(certs)
}

fn of_file(what: &str, file: &Path, error: &impl Display) -> io::Error {
    let text = format!("{what} {}: {error}", file.display());
    io::Error::new(ErrorKind::InvalidData, text)
}

/// Accepts each server.
#[derive(Debug)]
struct AnyServer(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyServer {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls12_signature(message, cert, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls13_signature(message, cert, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

// ---- tickets ------------------------------------------------------------------------------------

/// Encrypts what a client needs to continue its session, with a key of the present epoch. Tickets of the
/// present epoch and of the one before are valid.
///
/// A ticket is the epoch, a random nonce, and the state, encrypted and authenticated together with the epoch.
struct Tickets(hmac::Key);

const SECRET_BYTES: usize = 32;
const EPOCH_SECS: u64 = 12 * 3600;
const EPOCH_BYTES: usize = size_of::<u64>();

impl Tickets {
    fn new(secret: &[u8]) -> Self {
        Self(hmac::Key::new(hmac::HMAC_SHA256, secret))
    }

    fn key(&self, epoch: u64) -> Option<aead::LessSafeKey> {
        let derived = hmac::sign(&self.0, &epoch.to_be_bytes());
        let key = aead::UnboundKey::new(&aead::CHACHA20_POLY1305, derived.as_ref());
        Some(aead::LessSafeKey::new(key.ok()?))
    }

    fn encrypt_in(&self, epoch: u64, plain: &[u8]) -> Option<Vec<u8>> {
        let mut nonce = [0; aead::NONCE_LEN];
        SystemRandom::new().fill(&mut nonce).ok()?;
        let aad = epoch.to_be_bytes();
        let mut ticket = [&aad[..], &nonce[..], plain].concat();
        let tag = self.key(epoch)?.seal_in_place_separate_tag(
            aead::Nonce::assume_unique_for_key(nonce),
            aead::Aad::from(aad),
            &mut ticket[EPOCH_BYTES + aead::NONCE_LEN..],
        );
        ticket.extend_from_slice(tag.ok()?.as_ref());
        Some(ticket)
    }

    fn decrypt_in(&self, epoch: u64, ticket: &[u8]) -> Option<Vec<u8>> {
        let (aad, rest) = ticket.split_first_chunk::<EPOCH_BYTES>()?;
        let (nonce, sealed) = rest.split_first_chunk::<{ aead::NONCE_LEN }>()?;
        let issued = u64::from_be_bytes(*aad);
        if issued != epoch && Some(issued) != epoch.checked_sub(1) {
            return None;
        }
        let mut sealed = sealed.to_vec();
        let nonce = aead::Nonce::assume_unique_for_key(*nonce);
        let plain = self
            .key(issued)?
            .open_in_place(nonce, aead::Aad::from(*aad), &mut sealed);
        let length = plain.ok()?.len();
        sealed.truncate(length);
        Some(sealed)
    }
}

impl ProducesTickets for Tickets {
    fn enabled(&self) -> bool {
        true
    }

    fn lifetime(&self) -> u32 {
        EPOCH_SECS as u32
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        self.encrypt_in(epoch_now(), plain)
    }

    fn decrypt(&self, cipher: &[u8]) -> Option<Vec<u8>> {
        self.decrypt_in(epoch_now(), cipher)
    }
}

impl fmt::Debug for Tickets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tickets")
    }
}

fn epoch_now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs() / EPOCH_SECS)
}

fn random() -> io::Result<[u8; SECRET_BYTES]> {
    let mut bytes = [0; SECRET_BYTES];
    let filled = SystemRandom::new().fill(&mut bytes);
    filled.map_err(|_| io::Error::other("the system has no randomness"))?;
    Ok(bytes)
}

fn read_secret(file: &Path) -> io::Result<Vec<u8>> {
    let secret = match fs::read(file) {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            create_secret(file, |aside, file| fs::hard_link(aside, file))?;
            fs::read(file)?
        }
        other => other?,
    };
    if secret.len() < SECRET_BYTES {
        let text = format!(
            "{} bytes, and a secret has {SECRET_BYTES}: if a start that was cut off has left the file, delete it",
            secret.len()
        );
        return Err(io::Error::new(ErrorKind::InvalidData, text));
    }
    if fs::metadata(file)?.permissions().mode() & 0o077 != 0 {
        log::warn!(
            "ticket keys {}: other users can read the file",
            file.display()
        );
    }
    Ok(secret)
}

/// Creates the file with a random secret. It has its whole secret from its first moment on, and a file that another
/// server has created meanwhile stays as it is: a link never overwrites. On a file system without links, a server that
/// starts in the same moment may read a part of the secret, and its start fails.
fn create_secret(file: &Path, link: impl Fn(&Path, &Path) -> io::Result<()>) -> io::Result<()> {
    let (secret, [a, b, c, d, ..]) = (random()?, random()?);
    let mut aside = file.as_os_str().to_owned();
    aside.push(format!(".{:08x}", u32::from_ne_bytes([a, b, c, d])));
    let aside = Path::new(&aside);
    write_new(aside, &secret)?;
    let linked = link(aside, file);
    fs::remove_file(aside)?;
    let created = match linked {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => write_new(file, &secret),
        linked => linked,
    };
    match created {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(()),
        created => created,
    }
}

/// Creates a file that no other user can read. A file that cannot be written whole is removed.
fn write_new(file: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true).mode(0o600);
    let mut created = options.open(file)?;
    let written = created.write_all(bytes).and_then(|()| created.sync_all());
    written.inspect_err(|_| drop(fs::remove_file(file)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustls::NamedGroup;
    use rustls::crypto::{ActiveKeyExchange, SharedSecret, SupportedKxGroup};
    use rustls::pki_types::SubjectPublicKeyInfoDer;
    use rustls::sign::Signer;

    #[derive(Debug)]
    struct Key(SignatureAlgorithm, usize);

    impl SigningKey for Key {
        fn choose_scheme(&self, _: &[SignatureScheme]) -> Option<Box<dyn Signer>> {
            None
        }

        fn public_key(&self) -> Option<SubjectPublicKeyInfoDer<'_>> {
            Some(vec![0; self.1].into())
        }

        fn algorithm(&self) -> SignatureAlgorithm {
            self.0
        }
    }

    #[test]
    fn a_signature_costs_what_its_key_needs() {
        use SignatureAlgorithm::{ECDSA, ED25519, RSA};
        for (algorithm, key_bytes, cost) in [
            (ED25519, 44, 0),
            (ECDSA, 91, 0),
            (ECDSA, 120, P384_COST),
            (RSA, 294, RSA_2048_COST),
            (RSA, 550, 8 * RSA_2048_COST),
            (RSA, 10_000, 64 * RSA_2048_COST),
        ] {
            assert_eq!(
                signing_cost(&Key(algorithm, key_bytes)),
                cost,
                "{algorithm:?}"
            );
        }
        let provider = provider();
        for (algorithm, cost) in [
            (&rcgen::PKCS_ECDSA_P256_SHA256, 0),
            (&rcgen::PKCS_ECDSA_P384_SHA384, P384_COST),
            (&rcgen::PKCS_ED25519, 0),
        ] {
            let key = rcgen::KeyPair::generate_for(algorithm)
                .unwrap()
                .serialize_der();
            let key = PrivateKeyDer::try_from(key).unwrap();
            let key = provider.key_provider.load_private_key(key).unwrap();
            assert_eq!(signing_cost(&*key), cost, "{algorithm:?}");
        }
    }

    /// As on exFAT.
    #[test]
    fn secret_is_created_on_a_file_system_without_links() {
        let folder = std::env::temp_dir().join(format!("server_core_{}", std::process::id()));
        fs::create_dir(&folder).unwrap();
        let file = folder.join("secret");
        let no_link = |_: &Path, _: &Path| Err(ErrorKind::Unsupported.into());
        let created = create_secret(&file, no_link).map(|()| fs::read(&file).unwrap());
        // The file of another server stays.
        let again = create_secret(&file, no_link).map(|()| fs::read(&file).unwrap());
        let files = fs::read_dir(&folder).unwrap().count();
        let mode = fs::metadata(&file).map(|file| file.permissions().mode() & 0o777);
        fs::remove_dir_all(folder).unwrap();
        let created = created.unwrap();
        assert_eq!((created.len(), files), (SECRET_BYTES, 1));
        assert_eq!(mode.unwrap(), 0o600);
        assert_eq!(again.unwrap(), created);
    }

    /// A group for a key exchange that no server has.
    #[derive(Debug)]
    struct Strange;

    impl SupportedKxGroup for Strange {
        fn start(&self) -> Result<Box<dyn ActiveKeyExchange>, rustls::Error> {
            Ok(Box::new(Self))
        }

        fn name(&self) -> NamedGroup {
            NamedGroup::X448
        }
    }

    impl ActiveKeyExchange for Strange {
        fn complete(self: Box<Self>, _: &[u8]) -> Result<SharedSecret, rustls::Error> {
            Err(rustls::Error::HandshakeNotComplete)
        }

        fn pub_key(&self) -> &[u8] {
            &[7; 56]
        }

        fn group(&self) -> NamedGroup {
            NamedGroup::X448
        }
    }

    /// A server whose signature costs 7, and a client, which begins with a share for [`Strange`] if it is strange.
    fn engines(is_strange: bool) -> (RustlsEngine, RustlsEngine) {
        let pair = rcgen::generate_simple_self_signed(["localhost".into()]).unwrap();
        let key = PrivateKeyDer::try_from(pair.signing_key.serialize_der()).unwrap();
        let server = ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![pair.cert.der().clone()], key)
            .unwrap();
        let mut of_client = (*provider()).clone();
        if is_strange {
            of_client.kx_groups.insert(0, &Strange);
        }
        let client = ClientConfig::builder_with_provider(Arc::new(of_client))
            .with_safe_default_protocol_versions()
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(AnyServer(provider())))
            .with_no_client_auth();
        let server = UnbufferedServerConnection::new(Arc::new(server)).unwrap();
        let name = ServerName::try_from("localhost").unwrap();
        let client = UnbufferedClientConnection::new(Arc::new(client), name).unwrap();
        (
            RustlsEngine::new(Side::Server(server), 7),
            RustlsEngine::new(Side::Client(client), 0),
        )
    }

    /// The cost of the signature in each read of the server in a handshake. The bytes come one by one if `is_slow`.
    fn signing_costs(is_strange: bool, is_slow: bool) -> Vec<usize> {
        let (mut server, mut client) = engines(is_strange);
        let (mut to_client, mut costs) = (Vec::new(), Vec::new());
        while client.is_handshaking() || server.is_handshaking() {
            let mut to_server = Vec::new();
            let taken = client.read(&mut to_client, &mut Vec::new(), &mut to_server);
            to_client.drain(..taken.unwrap());
            let (mut arrived, mut cost) = (Vec::new(), 0);
            for bytes in to_server.chunks(if is_slow { 1 } else { to_server.len().max(1) }) {
                arrived.extend_from_slice(bytes);
                let taken = server.read(&mut arrived, &mut Vec::new(), &mut to_client);
                arrived.drain(..taken.unwrap());
                cost += server.take_records().signing_cost;
            }
            costs.push(cost);
        }
        costs
    }

    /// A retry costs the server no signature: a client could have its signature made later, without a count.
    #[test]
    fn signature_behind_a_retry_counts_in_the_read_that_makes_it() {
        for is_slow in [false, true] {
            assert_eq!(signing_costs(false, is_slow), [7, 0]);
            assert_eq!(signing_costs(true, is_slow), [7, 7, 0]);
        }
    }
}
