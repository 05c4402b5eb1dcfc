//! The attacks on a server of `game_server`: what each does with a connection, and what the server must do.

use dummy_client::attack::{Attack, AttackScript, Ending, Expect, Layer, Protocol, Repeat, Rng};
use game_server::packets::{
    self, C_CHAT, C_ECHO, CEcho, MAX_CHAT_BYTES, SBye, SEcho, SHello, label_of_code,
};
use server_core::wire::{HEADER_BYTES, MAX_PACKET_BYTES, PacketHeader, bytemuck};
use server_core::{DisconnectReason, Kick, Packet};
use std::borrow::Cow;
use std::sync::LazyLock;
use std::time::Duration;

/// The attacks by name. Each is one way in which game servers have been brought down.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum GameAttack {
    /// A size field of 0: an endless loop in careless parsers
    ZeroSize,
    /// A size field of 1 to 3: less than the header itself
    ShortSize,
    /// A claim of 65,535 bytes, of which five come
    HugeSize,
    /// Ids without a meaning
    UnknownId,
    /// Ids that only a server may send
    ServerId,
    /// All 65,536 ids, one after the other
    IdSweep,
    /// Chats that are no UTF-8
    BadUtf8,
    /// A packet that comes byte by byte, and never ends
    Slowloris,
    /// Requests whose answers the attacker does not read
    NoRead,
    /// Echo requests as fast as they go, answers read
    EchoFlood,
    /// Chats as fast as they go: each goes out to all sessions
    ChatFlood,
    /// Connections that are reset at once, in the middle of a packet
    RstStorm,
    /// A write side that is closed while answers are under way
    HalfClose,
    /// As many connections as can be opened, held for a moment
    ConnectFlood,
    /// Random bytes
    Garbage,
    /// Sessions that connect, send the permitted burst of 20 chats, and leave, over and over
    ChatChurn,
    /// Idle sessions that all send the permitted burst of 20 chats at one moment, and leave
    ChatBurst,
    /// Echo requests of 60,000 bytes whose answers the attacker does not read
    AskAndNotRead,
    /// Connections that send nothing and are opened again when the server ends them
    SilentFlood,
    /// Sessions that send a byte of their first packet now and then, and never complete it
    DripLogin,
    /// A PROXY header, which names another address as that of the client
    ProxyLies,
    /// Random bytes where TLS begins
    TlsGarbage,
    /// 200 full handshakes of TLS a second, each with keys of its own: each costs the server a signature
    TlsHandshakeFlood,
    /// A second ClientHello in the same handshake of TLS, over and over: the server takes it for no new handshake
    TlsRenegotiate,
    /// Updates of the keys of TLS, 32 before each byte of a packet, and 20 packets a second
    TlsKeyUpdates,
    /// Echo requests as fast as they go, each byte in a record of TLS of its own
    TlsTinyRecords,
    /// Requests that are not an upgrade to WebSocket
    WsBadUpgrade,
    /// Frames of WebSocket without the mask of a client
    WsUnmasked,
    /// A message of WebSocket in empty fragments, without end
    WsFragments,
    /// Pings of WebSocket as fast as they go
    WsPingFlood,
}

/// The packets of `game_server`, as the attacks read them.
#[derive(Clone, Copy, Debug)]
pub struct GameProtocol;

const BAD_SIZE: u16 = Kick::BadSize.code();
const TOO_LARGE: u16 = Kick::TooLarge.code();
const UNKNOWN_ID: u16 = Kick::UnknownId.code();
const BAD_PAYLOAD: u16 = Kick::BadPayload.code();
const PACKET_TIMEOUT: u16 = Kick::PacketTimeout.code();
const RATE_LIMIT: u16 = Kick::RateLimit.code();
const LOGIN_TIMEOUT: u16 = 12;
const CHAT_FLOOD: u16 = packets::CHAT_FLOOD.code();

/// The names on the command line, in the order of the attacks.
static NAMES: LazyLock<Vec<String>> = LazyLock::new(|| {
    let values = <GameAttack as clap::ValueEnum>::value_variants().iter();
    let values = values.filter_map(clap::ValueEnum::to_possible_value);
    values.map(|value| value.get_name().into()).collect()
});
/// The burst that the server's default chat budget permits: 20 chats of the largest size.
static CHAT_BURST: LazyLock<Vec<u8>> =
    LazyLock::new(|| packet(C_CHAT, &[b'x'; MAX_CHAT_BYTES]).repeat(20));
/// 1,000 attackers send the same bytes: the program keeps them once.
static LARGE_ECHOES: LazyLock<Vec<u8>> =
    LazyLock::new(|| packet(C_ECHO, &[b'z'; 60_000]).repeat(2));
/// From one burst of all attackers to the next.
const STEP: Duration = Duration::from_secs(1);
/// Ids that clients may send, in ascending order. A sweep leaves them out.
const ALLOWED: [u16; 2] = [C_ECHO, C_CHAT];

/// The default of the server's packet timeout is 10 s.
const PACKET_TIMEOUT_PASSED: Duration = Duration::from_secs(15);
/// The server finds a reader that stops by its queued bytes, or by their age after 5 s.
const SLOW_CONSUMER_FOUND: Duration = Duration::from_secs(15);
/// Two of it claim a packet of 514 bytes.
const DRIP_BYTE: [u8; 1] = [2];
/// A drip costs the attacker nothing, and comes before an idle timeout.
const DRIP: Duration = Duration::from_secs(1);
/// Headers of both versions: a client of each family, and a health check.
const PROXY_HEADERS: [&[u8]; 5] = [
    b"PROXY TCP4 192.0.2.7 10.0.0.1 50000 7777\r\n",
    b"PROXY TCP6 2001:db8::7 2001:db8::1 50000 7777\r\n",
    b"PROXY UNKNOWN\r\n",
    b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\xc0\0\x02\x07\x0a\0\0\x01\xc3\x50\x1e\x61",
    b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0",
];
/// The default of the server's handshake timeout is 5 s.
const HANDSHAKE_TIMEOUT_PASSED: Duration = Duration::from_secs(10);
/// A valid request of an upgrade.
const UPGRADE: &[u8] =
    b"GET / HTTP/1.1\r\nHost: attacker\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
    Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
/// Another method, no key, another version, no HTTP, and a head without an end.
const BAD_UPGRADES: [&[u8]; 5] = [
    b"POST / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 8\r\n\r\n",
    b"\x0c\0\x02\0packets\n",
    &[b'A'; 9 << 10],
];
/// A masked continuation without a byte, which does not end its message.
const EMPTY_FRAGMENT: [u8; 6] = [0x00, 0x80, 0, 0, 0, 0];
/// A masked ping of four bytes.
const PING: [u8; 10] = [0x89, 0x84, 0, 0, 0, 0, b'p', b'i', b'n', b'g'];
/// The handshakes of a flood, for each second.
const HANDSHAKES_PER_SEC: u32 = 200;
const NEWCOMER_TEXT: &[u8] = b"may I come in";

impl Attack for GameAttack {
    fn name(&self) -> &str {
        // The variants have no values of their own: they count from 0.
        NAMES.get(*self as usize).map_or("", String::as_str)
    }

    /// A flood of places, and a sum over senders, need many.
    fn default_attackers(&self) -> usize {
        match self {
            Self::ChatBurst => 150,
            Self::DripLogin => 200,
            Self::AskAndNotRead | Self::SilentFlood => 1000,
            _ => 20,
        }
    }

    fn connections_per_attacker(&self) -> usize {
        match self {
            Self::ConnectFlood => 10,
            _ => 1,
        }
    }

    fn takes_places(&self) -> bool {
        *self == Self::SilentFlood
    }

    fn targets_accept(&self) -> bool {
        matches!(
            self,
            Self::RstStorm | Self::ConnectFlood | Self::SilentFlood | Self::TlsHandshakeFlood
        )
    }

    fn connects_per_sec(&self) -> Option<u32> {
        (*self == Self::TlsHandshakeFlood).then_some(HANDSHAKES_PER_SEC)
    }

    fn layer(&self) -> Layer {
        match self {
            Self::TlsGarbage | Self::TlsRenegotiate => Layer::Tcp,
            Self::TlsHandshakeFlood => Layer::FullHandshakes,
            Self::TlsKeyUpdates => Layer::KeyUpdates,
            Self::TlsTinyRecords => Layer::TinyRecords,
            Self::WsBadUpgrade | Self::WsUnmasked | Self::WsFragments | Self::WsPingFlood => {
                Layer::Http
            }
            _ => Layer::Packets,
        }
    }

    fn script(&self, number: u64, rng: &mut Rng) -> AttackScript {
        let new = |bytes: Vec<u8>, expect| AttackScript::new(bytes, expect);
        match self {
            Self::ZeroSize => new(header(0, C_ECHO), reason(&[BAD_SIZE])),
            Self::ShortSize => {
                let size = 1 + (number % 3) as u16;
                new(header(size, C_ECHO), reason(&[BAD_SIZE]))
            }
            Self::HugeSize => AttackScript {
                timeout: PACKET_TIMEOUT_PASSED,
                ..new(
                    [&header(MAX_PACKET_BYTES as u16, C_ECHO)[..], b"x"].concat(),
                    reason(&[TOO_LARGE, PACKET_TIMEOUT]),
                )
            },
            Self::UnknownId => new(packet(rng.u16(7..), b"?"), reason(&[UNKNOWN_ID])),
            Self::ServerId => {
                let id = [0, 1, 3, 5, 6][(number % 5) as usize];
                new(packet(id, &[0; 16]), reason(&[UNKNOWN_ID]))
            }
            Self::IdSweep => AttackScript {
                pause: Duration::ZERO,
                ..new(packet(nth_forbidden_id(number), b""), reason(&[UNKNOWN_ID]))
            },
            Self::BadUtf8 => new(packet(C_CHAT, b"\xff\xfe\xc3\x28"), reason(&[BAD_PAYLOAD])),
            Self::Slowloris => AttackScript {
                repeat: repeat(vec![0], Duration::from_millis(500)),
                timeout: PACKET_TIMEOUT_PASSED,
                ..new(header(1000, C_ECHO), reason(&[PACKET_TIMEOUT]))
            },
            Self::NoRead => AttackScript {
                repeat: repeat(
                    packet(C_ECHO, &[7; 1000]).repeat(10),
                    Duration::from_millis(10),
                ),
                reads: false,
                // The system's own buffer grows to megabytes, and hides for as long that nothing is read.
                recv_buffer_bytes: Some(4096),
                timeout: SLOW_CONSUMER_FOUND,
                ..new(Vec::new(), Expect::Close)
            },
            Self::EchoFlood => AttackScript {
                repeat: repeat(packet(C_ECHO, b"echo flood").repeat(200), Duration::ZERO),
                ..new(Vec::new(), Expect::Any)
            },
            Self::ChatFlood => AttackScript {
                repeat: repeat(
                    packet(C_CHAT, &[b'!'; MAX_CHAT_BYTES]).repeat(10),
                    Duration::ZERO,
                ),
                ..new(Vec::new(), reason(&[CHAT_FLOOD, RATE_LIMIT]))
            },
            Self::RstStorm => AttackScript {
                ending: Ending::Reset(Duration::from_millis(rng.u64(0..20))),
                pause: Duration::from_millis(5),
                ..new(header(100, C_ECHO), Expect::Any)
            },
            Self::HalfClose => AttackScript {
                ending: Ending::CloseWrite,
                ..new(packet(C_ECHO, b"the last word").repeat(100), Expect::Close)
            },
            Self::ConnectFlood => AttackScript {
                ending: Ending::Reset(Duration::from_millis(300)),
                pause: Duration::ZERO,
                ..new(Vec::new(), Expect::Any)
            },
            Self::Garbage => {
                let mut bytes = vec![0; rng.usize(1..2000)];
                rng.fill(&mut bytes);
                let mut more = vec![0; 500];
                rng.fill(&mut more);
                AttackScript {
                    repeat: repeat(more, Duration::from_millis(100)),
                    timeout: PACKET_TIMEOUT_PASSED,
                    ..new(bytes, Expect::Close)
                }
            }
            Self::ChatChurn => AttackScript {
                reads: false,
                ending: Ending::Leave,
                pause: Duration::ZERO,
                ..AttackScript::new(&CHAT_BURST[..], Expect::Any)
            },
            Self::ChatBurst => AttackScript {
                aligned_to: Some(STEP),
                ending: Ending::CloseWrite,
                // At most two steps pass before the initial bytes.
                timeout: STEP * 2 + AttackScript::TIMEOUT,
                pause: Duration::ZERO,
                ..AttackScript::new(&CHAT_BURST[..], Expect::Close)
            },
            Self::AskAndNotRead => AttackScript {
                repeat: repeat(&LARGE_ECHOES[..], Duration::from_millis(100)),
                reads: false,
                timeout: SLOW_CONSUMER_FOUND,
                ..new(Vec::new(), Expect::Close)
            },
            Self::SilentFlood => new(Vec::new(), Expect::Any),
            Self::DripLogin => AttackScript {
                repeat: repeat(&DRIP_BYTE[..], DRIP),
                timeout: PACKET_TIMEOUT_PASSED,
                ..new(DRIP_BYTE.to_vec(), reason(&[PACKET_TIMEOUT, LOGIN_TIMEOUT]))
            },
            Self::TlsGarbage => {
                let mut bytes = vec![0; rng.usize(1..2000)];
                rng.fill(&mut bytes);
                if number.is_multiple_of(2) {
                    // The header of a record: what follows is the garbage.
                    bytes.splice(0..0, [22, 3, 1, 0x20, 0]);
                }
                AttackScript {
                    timeout: HANDSHAKE_TIMEOUT_PASSED,
                    ..new(bytes, Expect::Close)
                }
            }
            // The packet goes out when the handshake is complete.
            Self::TlsHandshakeFlood => AttackScript {
                reads: false,
                ending: Ending::Leave,
                pause: Duration::ZERO,
                ..new(packet(C_ECHO, b"shaken"), Expect::Any)
            },
            Self::TlsRenegotiate => AttackScript {
                repeat: repeat(client_hello(rng), Duration::from_millis(10)),
                timeout: HANDSHAKE_TIMEOUT_PASSED,
                ..new(client_hello(rng), Expect::Close)
            },
            Self::TlsKeyUpdates => AttackScript {
                repeat: repeat(packet(C_ECHO, b"new keys"), Duration::from_millis(50)),
                // Beside attackers whose records fill each turn, the kick comes later.
                timeout: HANDSHAKE_TIMEOUT_PASSED,
                ..new(Vec::new(), reason(&[RATE_LIMIT]))
            },
            Self::TlsTinyRecords => AttackScript {
                repeat: repeat(packet(C_ECHO, b"echo flood").repeat(20), Duration::ZERO),
                ..new(Vec::new(), Expect::Any)
            },
            Self::WsBadUpgrade => {
                let request = BAD_UPGRADES[(number % BAD_UPGRADES.len() as u64) as usize];
                new(request.to_vec(), Expect::Close)
            }
            Self::WsUnmasked => {
                let echo = packet(C_ECHO, b"unmasked");
                let frame = [&[0x82, echo.len() as u8][..], &echo].concat();
                new([UPGRADE, &frame].concat(), Expect::Close)
            }
            Self::WsFragments => AttackScript {
                // The first fragment of a message, and then fragments without a byte and without an end.
                repeat: repeat(EMPTY_FRAGMENT.repeat(100), Duration::from_millis(10)),
                ..new([UPGRADE, &[0x02, 0x80, 0, 0, 0, 0]].concat(), Expect::Close)
            },
            Self::WsPingFlood => AttackScript {
                repeat: repeat(PING.repeat(200), Duration::ZERO),
                ..new(UPGRADE.to_vec(), Expect::Close)
            },
            Self::ProxyLies => {
                let header = PROXY_HEADERS[(number % PROXY_HEADERS.len() as u64) as usize];
                let bytes = [header, &packet(C_ECHO, b"who am I")].concat();
                new(bytes, reason(&[BAD_SIZE]))
            }
        }
    }
}

impl Protocol for GameProtocol {
    fn close_reason(&self, packet: Packet<'_>) -> Option<u16> {
        let bye = (packet.id() == SBye::ID).then(|| packet.parse::<SBye>());
        bye?.ok().map(|(bye, _)| bye.reason.get())
    }

    fn reason_label(&self, code: u16) -> Cow<'static, str> {
        label_of_code(code).unwrap_or("unknown code").into()
    }

    fn is_full(&self, code: u16) -> bool {
        DisconnectReason::ServerFull.code() == Some(code)
    }

    fn is_shutdown(&self, code: u16) -> bool {
        DisconnectReason::Shutdown.code() == Some(code)
    }

    fn tick(&self, packet: Packet<'_>) -> Option<u64> {
        let hello = (packet.id() == SHello::ID).then(|| packet.parse::<SHello>());
        hello?.ok().map(|(hello, _)| hello.tick.get())
    }

    fn is_malformed(&self, packet: Packet<'_>) -> bool {
        match packet.id() {
            SHello::ID => packet.parse::<SHello>().is_err(),
            SBye::ID => packet.parse::<SBye>().is_err(),
            _ => false,
        }
    }

    fn newcomer_request(&self) -> Vec<u8> {
        packet(CEcho::ID, NEWCOMER_TEXT)
    }

    fn is_newcomer_answer(&self, packet: Packet<'_>) -> bool {
        packet.id() == SEcho::ID
            && (packet.parse::<SEcho>()).is_ok_and(|(_, echo)| echo == NEWCOMER_TEXT)
    }
}

fn reason(codes: &'static [u16]) -> Expect {
    Expect::Reason(codes.into())
}

fn repeat(bytes: impl Into<Cow<'static, [u8]>>, every: Duration) -> Option<Repeat> {
    let bytes = bytes.into();
    Some(Repeat { bytes, every })
}

/// The first message of a handshake of TLS 1.3, without a name, a ticket and an application protocol.
fn client_hello(rng: &mut Rng) -> Vec<u8> {
    let mut bytes = |count| -> Vec<u8> { (0..count).map(|_| rng.u8(..)).collect() };
    let (random, key) = (bytes(32), bytes(32));
    let extension = |id: u16, body: &[u8]| {
        let length = (body.len() as u16).to_be_bytes();
        [&id.to_be_bytes()[..], &length, body].concat()
    };
    let extensions = [
        // Supported versions: TLS 1.3.
        extension(43, &[2, 3, 4]),
        // Supported groups: x25519.
        extension(10, &[0, 2, 0, 29]),
        // Signatures: ECDSA with P-256 or P-384, Ed25519, RSA-PSS.
        extension(13, &[0, 8, 4, 3, 5, 3, 8, 7, 8, 4]),
        // A key of x25519: 32 bytes of any value.
        extension(51, &[&[0, 36, 0, 29, 0, 32][..], &key].concat()),
    ]
    .concat();
    let body = [
        &[3, 3][..],
        &random,
        // No session id; the cipher suites of TLS 1.3; no compression.
        &[0, 0, 6, 0x13, 1, 0x13, 2, 0x13, 3, 1, 0],
        &(extensions.len() as u16).to_be_bytes(),
        &extensions,
    ]
    .concat();
    let message = [&[1, 0][..], &(body.len() as u16).to_be_bytes(), &body].concat();
    [
        &[22, 3, 1][..],
        &(message.len() as u16).to_be_bytes(),
        &message,
    ]
    .concat()
}

fn nth_forbidden_id(number: u64) -> u16 {
    let count = u64::from(u16::MAX) + 1 - ALLOWED.len() as u64;
    // Below 65,534; each id that is left out moves those behind it by one.
    let id = (number % count) as u16;
    (ALLOWED.iter()).fold(id, |id, allowed| id + u16::from(id >= *allowed))
}

fn header(size: u16, id: u16) -> Vec<u8> {
    let (size, id) = (size.into(), id.into());
    bytemuck::bytes_of(&PacketHeader { size, id }).to_vec()
}

fn packet(id: u16, payload: &[u8]) -> Vec<u8> {
    // The payloads above are 60,000 bytes at the most.
    let mut bytes = header((HEADER_BYTES + payload.len()) as u16, id);
    bytes.extend(payload);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::ValueEnum;
    use dummy_client::Transport;
    use dummy_client::attack::AttackRunner;
    use server_core::framer::Framer;
    use std::collections::HashSet;
    use std::io::Read;
    use std::net::TcpListener;
    use std::sync::Arc;

    fn script(attack: GameAttack) -> AttackScript {
        attack.script(0, &mut Rng::with_seed(1))
    }

    #[test]
    fn names_are_those_of_the_contract() {
        let attacks = GameAttack::value_variants().iter();
        let names: Vec<&str> = attacks.map(Attack::name).collect();
        let expected = "zero-size short-size huge-size unknown-id server-id id-sweep bad-utf8 \
                        slowloris no-read echo-flood chat-flood rst-storm half-close \
                        connect-flood garbage chat-churn chat-burst ask-and-not-read \
                        silent-flood drip-login proxy-lies tls-garbage tls-handshake-flood \
                        tls-renegotiate tls-key-updates tls-tiny-records ws-bad-upgrade \
                        ws-unmasked ws-fragments ws-ping-flood";
        assert_eq!(names.join(" "), expected);
    }

    #[test]
    fn id_sweep_sends_every_id_that_is_not_allowed() {
        let ids: HashSet<u16> = (0..65_534).map(nth_forbidden_id).collect();
        assert_eq!(ids.len(), 65_534);
        assert!(!ids.contains(&C_ECHO) && !ids.contains(&C_CHAT));
        assert_eq!(nth_forbidden_id(65_534), 0);
    }

    /// 20 is twice the server's default of 10 chats a second: not one chat more than its burst.
    #[test]
    fn chat_burst_is_what_a_session_may_send() {
        for attack in [GameAttack::ChatChurn, GameAttack::ChatBurst] {
            let script = script(attack);
            assert_eq!(script.initial_bytes.len(), 20 * (4 + 512), "{attack:?}");
            assert_eq!(script.initial_bytes[..4], header(516, C_CHAT), "{attack:?}");
            assert!(script.repeat.is_none(), "{attack:?}");
        }
    }

    #[test]
    fn drip_never_completes_a_packet() {
        let script = script(GameAttack::DripLogin);
        let repeat = script.repeat.unwrap();
        let mut framer = Framer::default();
        let drips = script.timeout.as_secs() / repeat.every.as_secs();
        for _ in 0..drips {
            let packet = framer.next_packet(&mut &repeat.bytes[..], MAX_PACKET_BYTES);
            assert_eq!(packet, Ok(None));
        }
    }

    #[test]
    fn many_attackers_share_their_bytes() {
        let script = script(GameAttack::AskAndNotRead);
        let repeat = script.repeat.unwrap();
        assert_eq!(repeat.bytes[..4], header(60_004, C_ECHO));
        assert!(matches!(repeat.bytes, Cow::Borrowed(_)));
        assert!(!script.reads);
    }

    #[test]
    fn labels_belong_to_their_codes() {
        for (code, label) in [
            (1, "bad_size"),
            (8, "chat_flood"),
            (10, "shutdown"),
            (12, "login_timeout"),
            (0, "unknown code"),
            (11, "unknown code"),
        ] {
            assert_eq!(GameProtocol.reason_label(code), label);
        }
        assert!(GameProtocol.is_full(9) && GameProtocol.is_shutdown(10));
        assert!(!GameProtocol.is_full(10) && !GameProtocol.is_shutdown(9));
    }

    #[test]
    fn packets_of_the_game_are_read() {
        let read = |id, payload: &[u8]| {
            let packet = Packet::new(id, payload);
            (
                GameProtocol.tick(packet),
                GameProtocol.close_reason(packet),
                GameProtocol.is_malformed(packet),
                GameProtocol.is_newcomer_answer(packet),
            )
        };
        let hello = b"\x07\0\0\0\0\0\0\0text";
        assert_eq!(read(1, hello), (Some(7), None, false, false));
        assert_eq!(read(1, &hello[..7]), (None, None, true, false));
        assert_eq!(read(6, b"\x09\0full"), (None, Some(9), false, false));
        assert_eq!(read(6, b"\x09"), (None, None, true, false));
        assert_eq!(read(3, NEWCOMER_TEXT), (None, None, false, true));
        assert_eq!(read(3, b"another"), (None, None, false, false));
        assert_eq!(read(2, hello), (None, None, false, false));
        let request = GameProtocol.newcomer_request();
        assert_eq!(&request[..4], [17, 0, 2, 0]);
        assert_eq!(&request[4..], NEWCOMER_TEXT);
    }

    /// Each connection sends the permitted burst, closes its write side, and the next one connects although
    /// the server has not answered.
    #[test]
    fn churn_and_bursts_send_20_chats_and_leave() {
        for (attack, connections) in [(GameAttack::ChatChurn, 30), (GameAttack::ChatBurst, 6)] {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let target = listener.local_addr().unwrap();
            let protocol = Arc::new(GameProtocol);
            let runner = AttackRunner::start(
                Arc::new(attack),
                protocol,
                3,
                (target, Transport::default()),
                1,
            )
            .unwrap();
            for _ in 0..connections {
                let mut received = Vec::new();
                let (mut stream, _) = listener.accept().unwrap();
                stream.read_to_end(&mut received).unwrap();
                let mut input = &received[..];
                let mut framer = Framer::default();
                let mut chats = 0;
                while let Ok(Some(packet)) = framer.next_packet(&mut input, MAX_PACKET_BYTES) {
                    assert_eq!((packet.id(), packet.size()), (4, 4 + 512), "{attack:?}");
                    chats += 1;
                }
                assert_eq!((chats, framer.is_mid_packet()), (20, false), "{attack:?}");
            }
            let stats = runner.end().unwrap();
            assert!(stats.connections >= connections, "{attack:?}: {stats:?}");
            assert_eq!(stats.refused, 0, "{attack:?}: {stats:?}");
        }
    }
}
