//! What each attack does with one connection, and what a sound server does about it.

use game_server::packets::{self, C_CHAT, C_ECHO, label_of_code};
use server_core::Kick;
use server_core::wire::MAX_PACKET_BYTES;
use std::borrow::Cow;
use std::sync::LazyLock;
use std::time::Duration;

/// The attacks by name. Each is one way in which game servers have been brought down.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Attack {
    /// A size field of 0: an endless loop in careless parsers
    ZeroSize,
    /// A size field of 1 to 3: less than the header itself
    ShortSize,
    /// A claim of 65,535 bytes, of which five come
    HugeSize,
    /// Ids that nobody has defined
    UnknownId,
    /// Ids that only a server may send
    ServerId,
    /// All 65,536 ids, one after the other
    IdSweep,
    /// Chats that are no UTF-8
    BadUtf8,
    /// A packet that comes byte by byte, and never ends
    Slowloris,
    /// Requests whose answers nobody reads
    NoRead,
    /// Echo requests as fast as they go, answers read
    EchoFlood,
    /// Chats as fast as they go: each goes out to everybody
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
}

/// One connection of an attacker.
#[derive(Debug)]
pub struct Plan {
    /// What is sent first.
    pub opening: Cow<'static, [u8]>,
    /// The opening waits for the next multiple of this time since the attack began, so that all
    /// connections send it at one moment. `None`: the opening is sent at once.
    pub in_step: Option<Duration>,
    /// What is sent again and again behind it.
    pub refrain: Option<Refrain>,
    pub reads: bool,
    /// The size of its receive buffer; `None` leaves it to the system.
    pub recv_buffer_bytes: Option<usize>,
    pub ending: Ending,
    /// What a sound server does.
    pub due: Due,
    /// From the opening to the end that is due.
    pub patience: Duration,
    /// From the end of this connection to the next.
    pub pause: Duration,
}

/// Bytes that are sent again and again.
#[derive(Debug)]
pub struct Refrain {
    pub bytes: Cow<'static, [u8]>,
    /// Zero: as fast as the socket takes them.
    pub every: Duration,
}

/// What the attacker itself does at the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// Nothing: it waits for the server.
    Wait,
    /// It closes its write side.
    ShutWrite,
    /// It closes its write side when the opening is sent, and the next connection begins at once.
    /// This one is closed when a number of others has left after it.
    Leave,
    /// It resets the connection after this time.
    Reset(Duration),
}

/// What a sound server does with such a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Due {
    /// It ends it with one of these codes.
    Bye(&'static [u16]),
    /// It ends it, with or without a word.
    End,
    /// It may go on serving it, or end it.
    Anything,
}

const BAD_SIZE: u16 = Kick::BadSize.code();
const TOO_LARGE: u16 = Kick::TooLarge.code();
const UNKNOWN_ID: u16 = Kick::UnknownId.code();
const BAD_PAYLOAD: u16 = Kick::BadPayload.code();
const PACKET_TIMEOUT: u16 = Kick::PacketTimeout.code();
const RATE_LIMIT: u16 = Kick::RateLimit.code();
const CHAT_FLOOD: u16 = packets::CHAT_FLOOD.code();
/// The burst that the server's default chat budget permits: 20 chats of the largest size.
static CHAT_BURST: LazyLock<Vec<u8>> = LazyLock::new(|| packet(C_CHAT, &[b'x'; 512]).repeat(20));
/// 1,000 attackers send the same bytes: the program keeps them once.
static LARGE_ECHOES: LazyLock<Vec<u8>> =
    LazyLock::new(|| packet(C_ECHO, &[b'z'; 60_000]).repeat(2));
/// From one burst of all attackers to the next.
const STEP: Duration = Duration::from_secs(1);
/// Ids that clients may send, in their order; a sweep leaves them out.
const ALLOWED: [u16; 2] = [C_ECHO, C_CHAT];

/// An offence is found with the packet; on a busy machine that may take a moment.
const AT_ONCE: Duration = Duration::from_secs(3);
/// The default of the server's packet timeout is 10 s.
const PACKET_TIME: Duration = Duration::from_secs(15);
/// A reader that stops is found by bytes, or by age after 5 s.
const READ_TIME: Duration = Duration::from_secs(15);

impl Attack {
    /// Attackers where `--attackers` is not given: a flood of places and a sum over senders need many.
    pub fn default_attackers(self) -> usize {
        match self {
            Self::ChatBurst => 150,
            Self::AskAndNotRead | Self::SilentFlood => 1000,
            _ => 20,
        }
    }

    /// Connections that one attacker has at a time.
    pub fn connections(self) -> usize {
        match self {
            Self::ConnectFlood => 10,
            _ => 1,
        }
    }

    /// The plan of the `number`-th connection of all.
    pub fn plan(self, number: u64, rng: &mut fastrand::Rng) -> Plan {
        let offence = |opening: Vec<u8>, codes| Plan {
            opening: opening.into(),
            in_step: None,
            refrain: None,
            reads: true,
            recv_buffer_bytes: None,
            ending: Ending::Wait,
            due: Due::Bye(codes),
            patience: AT_ONCE,
            pause: Duration::from_millis(100),
        };
        match self {
            Self::ZeroSize => offence(head(0, C_ECHO), &[BAD_SIZE]),
            Self::ShortSize => offence(head(1 + (number % 3) as u16, C_ECHO), &[BAD_SIZE]),
            Self::HugeSize => Plan {
                patience: PACKET_TIME,
                ..offence(
                    [&head(MAX_PACKET_BYTES as u16, C_ECHO)[..], b"x"].concat(),
                    &[TOO_LARGE, PACKET_TIMEOUT],
                )
            },
            Self::UnknownId => {
                let id = rng.u16(7..);
                offence(packet(id, b"?"), &[UNKNOWN_ID])
            }
            Self::ServerId => {
                let id = [0, 1, 3, 5, 6][(number % 5) as usize];
                offence(packet(id, &[0; 16]), &[UNKNOWN_ID])
            }
            Self::IdSweep => Plan {
                pause: Duration::ZERO,
                ..offence(packet(nth_forbidden_id(number), b""), &[UNKNOWN_ID])
            },
            Self::BadUtf8 => offence(packet(C_CHAT, b"\xff\xfe\xc3\x28"), &[BAD_PAYLOAD]),
            Self::Slowloris => Plan {
                refrain: Some(Refrain {
                    bytes: vec![0].into(),
                    every: Duration::from_millis(500),
                }),
                patience: PACKET_TIME,
                ..offence(head(1000, C_ECHO), &[PACKET_TIMEOUT])
            },
            Self::NoRead => Plan {
                refrain: Some(Refrain {
                    bytes: packet(C_ECHO, &[7; 1000]).repeat(10).into(),
                    every: Duration::from_millis(10),
                }),
                reads: false,
                // Left to itself it would grow to megabytes, and hide for as long that nobody reads.
                recv_buffer_bytes: Some(4096),
                due: Due::End,
                patience: READ_TIME,
                ..offence(Vec::new(), &[])
            },
            Self::EchoFlood => Plan {
                refrain: Some(Refrain {
                    bytes: packet(C_ECHO, b"echo flood").repeat(200).into(),
                    every: Duration::ZERO,
                }),
                due: Due::Anything,
                ..offence(Vec::new(), &[RATE_LIMIT])
            },
            Self::ChatFlood => Plan {
                refrain: Some(Refrain {
                    bytes: packet(C_CHAT, &[b'!'; 512]).repeat(10).into(),
                    every: Duration::ZERO,
                }),
                ..offence(Vec::new(), &[CHAT_FLOOD, RATE_LIMIT])
            },
            Self::RstStorm => Plan {
                ending: Ending::Reset(Duration::from_millis(rng.u64(0..20))),
                due: Due::Anything,
                pause: Duration::from_millis(5),
                ..offence(head(100, C_ECHO), &[])
            },
            Self::HalfClose => Plan {
                ending: Ending::ShutWrite,
                due: Due::End,
                ..offence(packet(C_ECHO, b"the last word").repeat(100), &[])
            },
            Self::ConnectFlood => Plan {
                ending: Ending::Reset(Duration::from_millis(300)),
                due: Due::Anything,
                pause: Duration::ZERO,
                ..offence(Vec::new(), &[])
            },
            Self::Garbage => {
                let mut bytes = vec![0; rng.usize(1..2000)];
                rng.fill(&mut bytes);
                let mut more = vec![0; 500];
                rng.fill(&mut more);
                Plan {
                    refrain: Some(Refrain {
                        bytes: more.into(),
                        every: Duration::from_millis(100),
                    }),
                    due: Due::End,
                    patience: PACKET_TIME,
                    ..offence(bytes, &[])
                }
            }
            Self::ChatChurn => Plan {
                opening: Cow::Borrowed(&CHAT_BURST),
                reads: false,
                ending: Ending::Leave,
                due: Due::Anything,
                pause: Duration::ZERO,
                ..offence(Vec::new(), &[])
            },
            Self::ChatBurst => Plan {
                opening: Cow::Borrowed(&CHAT_BURST),
                in_step: Some(STEP),
                ending: Ending::ShutWrite,
                due: Due::End,
                // At most two steps pass before the opening.
                patience: STEP * 2 + AT_ONCE,
                pause: Duration::ZERO,
                ..offence(Vec::new(), &[])
            },
            Self::AskAndNotRead => Plan {
                refrain: Some(Refrain {
                    bytes: Cow::Borrowed(&LARGE_ECHOES),
                    every: Duration::from_millis(100),
                }),
                reads: false,
                due: Due::End,
                patience: READ_TIME,
                ..offence(Vec::new(), &[])
            },
            Self::SilentFlood => Plan {
                due: Due::Anything,
                ..offence(Vec::new(), &[])
            },
        }
    }

    /// Whether coming and going is the attack, let in or not.
    pub fn is_of_connections(self) -> bool {
        matches!(
            self,
            Self::RstStorm | Self::ConnectFlood | Self::SilentFlood
        )
    }

    /// Whether the attack takes the places of sessions that come later.
    pub fn takes_places(self) -> bool {
        self == Self::SilentFlood
    }

    /// How long it has to last before anything can be said of it.
    pub fn patience(self) -> Duration {
        let plan = self.plan(0, &mut fastrand::Rng::with_seed(0));
        match plan.due {
            Due::Anything => Duration::ZERO,
            _ => plan.patience,
        }
    }

    /// As on the command line.
    pub fn name(self) -> String {
        let value = clap::ValueEnum::to_possible_value(&self);
        value.map_or_else(String::new, |value| value.get_name().into())
    }
}

/// The label of a code that a server may end a session with.
pub fn label_of(code: u16) -> &'static str {
    label_of_code(code).unwrap_or("unknown code")
}

fn nth_forbidden_id(number: u64) -> u16 {
    let count = u64::from(u16::MAX) + 1 - ALLOWED.len() as u64;
    // Below 65,534; each id that is left out moves those behind it by one.
    let id = (number % count) as u16;
    (ALLOWED.iter()).fold(id, |id, allowed| id + u16::from(id >= *allowed))
}

fn head(size: u16, id: u16) -> Vec<u8> {
    [size.to_le_bytes(), id.to_le_bytes()].concat()
}

fn packet(id: u16, payload: &[u8]) -> Vec<u8> {
    // The payloads above are 60,000 bytes at the most.
    let mut bytes = head((payload.len() + 4) as u16, id);
    bytes.extend(payload);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::ValueEnum;
    use std::collections::HashSet;

    #[test]
    fn names_are_those_of_the_contract() {
        let names: Vec<String> = Attack::value_variants().iter().map(|a| a.name()).collect();
        let expected = "zero-size short-size huge-size unknown-id server-id id-sweep bad-utf8 \
                        slowloris no-read echo-flood chat-flood rst-storm half-close \
                        connect-flood garbage chat-churn chat-burst ask-and-not-read \
                        silent-flood";
        assert_eq!(names.join(" "), expected);
    }

    #[test]
    fn a_sweep_meets_every_id_but_those_that_are_allowed() {
        let ids: HashSet<u16> = (0..65_534).map(nth_forbidden_id).collect();
        assert_eq!(ids.len(), 65_534);
        assert!(!ids.contains(&C_ECHO) && !ids.contains(&C_CHAT));
        assert_eq!(nth_forbidden_id(65_534), 0);
    }

    /// 20 is twice the server's default of 10 chats a second: not one chat more than its burst.
    #[test]
    fn a_chat_burst_is_what_a_session_may_send() {
        for attack in [Attack::ChatChurn, Attack::ChatBurst] {
            let plan = attack.plan(0, &mut fastrand::Rng::with_seed(1));
            assert_eq!(plan.opening.len(), 20 * (4 + 512), "{attack:?}");
            assert_eq!(&plan.opening[..4], head(516, C_CHAT), "{attack:?}");
            assert!(plan.refrain.is_none(), "{attack:?}");
        }
    }

    #[test]
    fn many_attackers_that_ask_share_their_bytes() {
        let plan = Attack::AskAndNotRead.plan(0, &mut fastrand::Rng::with_seed(1));
        let refrain = plan.refrain.unwrap();
        assert_eq!(refrain.bytes[..4], head(60_004, C_ECHO));
        assert!(matches!(refrain.bytes, Cow::Borrowed(_)));
        assert!(!plan.reads);
    }

    #[test]
    fn labels_belong_to_their_codes() {
        for (code, label) in [
            (1, "bad_size"),
            (8, "chat_flood"),
            (10, "shutdown"),
            (12, "login_timeout"),
        ] {
            assert_eq!(label_of(code), label);
        }
        assert_eq!(label_of(0), "unknown code");
        assert_eq!(label_of(11), "unknown code");
    }
}
