//! The upgrade of an HTTP connection to WebSocket (RFC 6455, section 4), both ends. No socket and no clock.

use data_encoding::BASE64;
use httparse::{EMPTY_HEADER, Header, Request, Response, Status};
use sha1_smol::Sha1;
use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::str::FromStr;
use std::sync::Arc;

/// The longest head of a request or an answer, in bytes.
pub const MAX_HEAD_BYTES: usize = 8 << 10;
/// The most header fields of a head.
const MAX_FIELDS: usize = 64;
const VERSION: &str = "13";
/// Every key is hashed together with this (section 1.3).
const GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
const KEY_BYTES: usize = 16;
/// A key in Base64.
const TEXT_KEY_BYTES: usize = 24;
/// A SHA-1 in Base64.
const ACCEPT_BYTES: usize = 28;

/// A web origin: scheme, host and port. Compared as a whole.
///
/// ```
/// let origin: server_core::Origin = "https://game.example".parse().unwrap();
/// assert_eq!(origin, "HTTPS://Game.Example:443".parse().unwrap());
/// assert_ne!(origin, "https://www.game.example".parse().unwrap());
/// assert!("https://game.example/play".parse::<server_core::Origin>().is_err());
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Origin {
    scheme: String,
    host: String,
    port: Option<u16>,
}

/// The rules of a WebSocket listener: the pages that may connect, and a page of the game's own.
///
/// ```
/// use server_core::{ListenerKind, WebSocketServerConfig};
/// let config = WebSocketServerConfig::from(["https://game.example".parse().unwrap()])
///     .with_page("<!doctype html><title>A game</title>");
/// let kind = ListenerKind::WebSocket(config);
/// ```
#[derive(Clone, Debug, Default)]
pub struct WebSocketServerConfig {
    origins: Arc<[Origin]>,
    page: Option<Arc<[u8]>>,
}

/// The text is not an origin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InvalidOrigin;

/// The answer of a server to the bytes of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// More bytes have to come.
    Incomplete,
    /// The connection is WebSocket behind the first `head_bytes` of the request.
    Accept {
        /// Bytes of the request.
        head_bytes: usize,
        /// The bytes to send.
        response: Vec<u8>,
    },
    /// The connection ends.
    Refuse {
        /// The HTTP status.
        status: u16,
        /// The bytes to send before the end.
        response: Vec<u8>,
    },
}

/// The WebSocket of a server to which a client connects: its host, and the path of the request.
///
/// ```
/// use server_core::WebSocketTarget;
/// let target = WebSocketTarget::new("game.example:7780", "/play")?;
/// assert!(WebSocketTarget::new("game.example\r\nCookie: a=b", "/").is_err());
/// # Ok::<(), server_core::InvalidWebSocketTarget>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WebSocketTarget {
    host: String,
    path: String,
}

/// The text is not a host or not a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InvalidWebSocketTarget;

/// The upgrade that a client asks for.
#[derive(Clone, Debug)]
pub struct ClientUpgrade {
    accept: [u8; ACCEPT_BYTES],
}

/// The answer of a server is not that of an upgrade.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused;

/// Answers a request of which `bytes` have come, and possibly more behind its head. Only pages of these
/// `origins` are accepted, all pages if there are none. A request without an origin is not of a page.
#[must_use]
pub fn answer(bytes: &[u8], origins: &[Origin]) -> Answer {
    let mut fields = [EMPTY_HEADER; MAX_FIELDS];
    let mut request = Request::new(&mut fields);
    let head_bytes = match request.parse(bytes) {
        Ok(Status::Complete(head_bytes)) if head_bytes <= MAX_HEAD_BYTES => head_bytes,
        Ok(Status::Partial) if bytes.len() <= MAX_HEAD_BYTES => return Answer::Incomplete,
        Ok(_) | Err(httparse::Error::TooManyHeaders) => {
            return refuse(431, "Request Header Fields Too Large", "");
        }
        Err(httparse::Error::Version) => return refuse(505, "HTTP Version Not Supported", ""),
        Err(_) => return refuse(400, "Bad Request", ""),
    };
    if request.method != Some("GET") {
        return refuse(405, "Method Not Allowed", "Allow: GET\r\n");
    }
    if request.version != Some(1) {
        return refuse(505, "HTTP Version Not Supported", "");
    }
    let fields = Fields(request.headers);
    if fields.only("Host").is_none() {
        return refuse(400, "Bad Request", "");
    }
    if !fields.has_token("Upgrade", "websocket") || !fields.has_token("Connection", "upgrade") {
        return refuse(426, "Upgrade Required", UPGRADE_FIELDS);
    }
    if fields.only("Sec-WebSocket-Version") != Some(VERSION.as_bytes()) {
        return refuse(426, "Upgrade Required", UPGRADE_FIELDS);
    }
    let Some(key) = fields.only("Sec-WebSocket-Key").filter(|key| is_key(key)) else {
        return refuse(400, "Bad Request", "");
    };
    let is_allowed = |origin| {
        let origin = std::str::from_utf8(origin).map(str::parse);
        matches!(origin, Ok(Ok(origin)) if origins.contains(&origin))
    };
    if !origins.is_empty() && !fields.all("Origin").all(is_allowed) {
        return refuse(403, "Forbidden", "");
    }
    let accept = accept(key);
    let head = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                Sec-WebSocket-Accept: ";
    Answer::Accept {
        head_bytes,
        response: [head.as_bytes(), &accept, b"\r\n\r\n"].concat(),
    }
}

/// Whether this is the complete head of a plain request for `/`, with or without a query.
fn asks_for_page(bytes: &[u8]) -> bool {
    let mut fields = [EMPTY_HEADER; MAX_FIELDS];
    let mut request = Request::new(&mut fields);
    let is_complete = matches!(request.parse(bytes), Ok(Status::Complete(_)));
    let path = request.path.and_then(|path| path.split('?').next());
    let fields = Fields(request.headers);
    is_complete
        && (request.method, path) == (Some("GET"), Some("/"))
        && fields.only("Host").is_some()
        && fields.all("Upgrade").next().is_none()
}

impl WebSocketServerConfig {
    /// Serves an HTML page to browsers that ask for `/` without an upgrade: a game and its page share one port.
    /// Such a connection ends with [`DisconnectReason::Closed`](crate::DisconnectReason::Closed) without having
    /// been connected. All connections share the bytes of the page. If there are origins, that of the page has to
    /// be among them.
    #[must_use]
    pub fn with_page(mut self, html: &str) -> Self {
        let response = format!(
            "HTTP/1.1 200 OK\r\nContent-Type: text/html; charset=utf-8\r\nContent-Length: {}\r\n\
             Cache-Control: no-cache\r\nX-Content-Type-Options: nosniff\r\nConnection: close\r\n\r\n{html}",
            html.len()
        );
        self.page = Some(response.into_bytes().into());
        self
    }

    /// The pages that may connect; all if there are none.
    #[must_use]
    pub fn origins(&self) -> &[Origin] {
        &self.origins
    }

    /// The response to these bytes, if they ask for the page.
    #[must_use]
    pub fn page_for(&self, bytes: &[u8]) -> Option<Arc<[u8]>> {
        self.page.clone().filter(|_| asks_for_page(bytes))
    }
}

/// Accepts pages of these origins, or of all origins if there are none.
impl From<Arc<[Origin]>> for WebSocketServerConfig {
    fn from(origins: Arc<[Origin]>) -> Self {
        Self {
            origins,
            page: None,
        }
    }
}

/// Accepts pages of these origins, or of all origins if there are none.
impl<const N: usize> From<[Origin; N]> for WebSocketServerConfig {
    fn from(origins: [Origin; N]) -> Self {
        Arc::<[Origin]>::from(origins).into()
    }
}

const UPGRADE_FIELDS: &str = "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n";

fn refuse(status: u16, reason: &str, fields: &str) -> Answer {
    let response = format!(
        "HTTP/1.1 {status} {reason}\r\n{fields}Connection: close\r\nContent-Length: 0\r\n\r\n"
    );
    Answer::Refuse {
        status,
        response: response.into_bytes(),
    }
}

/// The fields of a head.
struct Fields<'a>(&'a [Header<'a>]);

impl<'a> Fields<'a> {
    fn all(&self, name: &str) -> impl Iterator<Item = &'a [u8]> {
        let fields = self.0.iter();
        fields
            .filter(move |field| field.name.eq_ignore_ascii_case(name))
            .map(|field| field.value.trim_ascii())
    }

    /// The value of a field that is there once.
    fn only(&self, name: &str) -> Option<&'a [u8]> {
        let mut all = self.all(name);
        all.next().filter(|_| all.next().is_none())
    }

    /// Whether a list has this token, whatever its case.
    fn has_token(&self, name: &str, token: &str) -> bool {
        self.all(name).any(|list| {
            let mut tokens = list.split(|byte| *byte == b',').map(<[u8]>::trim_ascii);
            tokens.any(|one| one.eq_ignore_ascii_case(token.as_bytes()))
        })
    }
}

/// Whether this is the Base64 of 16 bytes.
fn is_key(key: &[u8]) -> bool {
    let mut bytes = [0; TEXT_KEY_BYTES / 4 * 3];
    key.len() == TEXT_KEY_BYTES
        && BASE64
            .decode_mut(key, &mut bytes)
            .is_ok_and(|len| len == KEY_BYTES)
}

/// The proof of a server that it has read this key (section 4.2.2).
fn accept(key: &[u8]) -> [u8; ACCEPT_BYTES] {
    let mut hash = Sha1::new();
    hash.update(key);
    hash.update(GUID);
    let mut accept = [0; ACCEPT_BYTES];
    BASE64.encode_mut(&hash.digest().bytes(), &mut accept);
    accept
}

impl ClientUpgrade {
    /// The upgrade to this WebSocket, and the request for it. Its key is random: so the answer is of a server of
    /// WebSocket that has read it.
    #[must_use]
    pub fn new(target: &WebSocketTarget) -> (Self, Vec<u8>) {
        let WebSocketTarget { host, path } = target;
        let random = RandomState::new();
        let nonce: [u8; KEY_BYTES] =
            (u128::from(random.hash_one(0)) << 64 | u128::from(random.hash_one(1))).to_ne_bytes();
        let mut key = [0; TEXT_KEY_BYTES];
        BASE64.encode_mut(&nonce, &mut key);
        let accept = accept(&key);
        let key = String::from_utf8_lossy(&key);
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: {VERSION}\r\n\r\n"
        );
        (Self { accept }, request.into_bytes())
    }

    /// Checks the bytes of the answer that have come. Returns the bytes of its head when it is complete.
    ///
    /// # Errors
    /// [`Refused`] if the server does not upgrade.
    pub fn check(&self, bytes: &[u8]) -> Result<Option<usize>, Refused> {
        let mut fields = [EMPTY_HEADER; MAX_FIELDS];
        let mut response = Response::new(&mut fields);
        let head_bytes = match response.parse(bytes) {
            Ok(Status::Complete(head_bytes)) => head_bytes,
            Ok(Status::Partial) if bytes.len() <= MAX_HEAD_BYTES => return Ok(None),
            _ => return Err(Refused),
        };
        let fields = Fields(response.headers);
        let is_upgrade = response.code == Some(101)
            && fields.has_token("Upgrade", "websocket")
            && fields.has_token("Connection", "upgrade")
            && fields.only("Sec-WebSocket-Accept") == Some(&self.accept)
            && fields.all("Sec-WebSocket-Extensions").next().is_none()
            && fields.all("Sec-WebSocket-Protocol").next().is_none();
        is_upgrade.then_some(Some(head_bytes)).ok_or(Refused)
    }
}

impl WebSocketTarget {
    /// The WebSocket at `path`, which begins with `/`, of `host`, which has a port if the server listens on
    /// another than the default.
    ///
    /// # Errors
    /// [`InvalidWebSocketTarget`] if a request cannot have this host or path.
    pub fn new(host: &str, path: &str) -> Result<Self, InvalidWebSocketTarget> {
        let is_valid = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_graphic());
        let is_valid = is_valid(host) && is_valid(path) && path.starts_with('/');
        is_valid
            .then(|| Self {
                host: host.into(),
                path: path.into(),
            })
            .ok_or(InvalidWebSocketTarget)
    }
}

impl fmt::Display for InvalidWebSocketTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a WebSocket has a HOST or HOST:PORT, and a path that begins with /")
    }
}

impl std::error::Error for InvalidWebSocketTarget {}

impl FromStr for Origin {
    type Err = InvalidOrigin;

    fn from_str(text: &str) -> Result<Self, InvalidOrigin> {
        let text = text.to_ascii_lowercase();
        let (scheme, authority) = text.split_once("://").ok_or(InvalidOrigin)?;
        // The colons of an IPv6 address are in brackets.
        let (host, port) = match authority.rsplit_once(':') {
            Some((host, port)) if !port.ends_with(']') => {
                (host, Some(port.parse().map_err(|_| InvalidOrigin)?))
            }
            _ => (authority, None),
        };
        let is_scheme = scheme.starts_with(|first: char| first.is_ascii_alphabetic());
        let is_host = |byte: u8| byte.is_ascii_graphic() && !b"/?#@\\,\"".contains(&byte);
        let is_address = host.starts_with('[') && host.ends_with(']');
        let has_colon = host.contains(':') && !is_address;
        if !is_scheme || host.is_empty() || has_colon || !host.bytes().all(is_host) {
            return Err(InvalidOrigin);
        }
        let default_port = match scheme {
            "http" => Some(80),
            "https" => Some(443),
            _ => None,
        };
        Ok(Self {
            scheme: scheme.into(),
            host: host.into(),
            port: port.filter(|port| Some(*port) != default_port),
        })
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", self.scheme, self.host)?;
        self.port.map_or(Ok(()), |port| write!(f, ":{port}"))
    }
}

impl fmt::Display for InvalidOrigin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an origin is SCHEME://HOST or SCHEME://HOST:PORT, without a path")
    }
}

impl std::error::Error for InvalidOrigin {}
