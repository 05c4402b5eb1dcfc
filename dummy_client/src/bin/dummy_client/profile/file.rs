//! The TOML file of a profile.

use super::template::{self, Template};
use dummy_client::Error;
use serde::Deserialize;
use serde_json::Value;
use server_core::wire::MAX_PAYLOAD_BYTES;
use server_core::{ByteOrder, Framing, IdField, LengthCounts, LengthField};
use std::fs;
use std::path::Path;
use std::time::Duration;

/// A server in any language, as a load test needs to know it.
#[derive(Clone, Debug)]
pub struct Profile {
    /// The header of its frames.
    pub framing: Framing,
    /// The packets that it pushes to each user, if it pushes any.
    pub hello: Option<Hello>,
    /// Ids of packets that are counted and not checked.
    pub ignored_ids: Vec<u16>,
    /// The same, by the first bytes of the payload.
    pub ignored_prefixes: Vec<Vec<u8>>,
    /// The first packet of a user.
    pub login: Option<Login>,
    /// The requests of a user.
    pub request: Option<Request>,
    /// The whole file, for the report: two runs with different profiles cannot be compared.
    pub settings: Value,
}

/// The packets of one kind: by id and by the first bytes of the payload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kind {
    /// 0 for frames without an id.
    pub id: u16,
    /// Empty: any payload.
    pub prefix: Vec<u8>,
}

/// The packet that a server pushes.
#[derive(Clone, Debug)]
pub struct Hello {
    /// Its kind.
    pub kind: Kind,
    /// The place of its tick number, if it has one.
    pub tick: Option<TickField>,
}

/// The place of a tick number in a payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TickField {
    /// Bytes before it.
    pub offset: usize,
    /// Its layout.
    pub tick_type: TickType,
}

/// The layout of a tick number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TickType {
    /// Four bytes, little-endian.
    U32Le,
    /// Four bytes, big-endian.
    U32Be,
    /// Eight bytes, little-endian.
    U64Le,
    /// Eight bytes, big-endian.
    U64Be,
}

/// The login packet.
#[derive(Clone, Debug)]
pub struct Login {
    /// Its id.
    pub id: u16,
    /// Its payload.
    pub payload: Template,
    /// The answer that completes the login. Without one, the login is complete when it is sent.
    pub answer: Option<Kind>,
}

/// A request and its answer.
#[derive(Clone, Debug)]
pub struct Request {
    /// Its id.
    pub id: u16,
    /// The first bytes of its payload, to which an answer is not compared.
    pub prefix: Vec<u8>,
    /// The rest of its payload.
    pub payload: Template,
    /// The kind of its answer.
    pub answer: Kind,
    /// Whether the answer's payload behind its prefix is the request's payload behind its prefix.
    pub is_same: bool,
    /// The time between two requests of a user.
    pub period: Duration,
}

const MAX_RATE_HZ: f64 = 10_000.0;
/// A longer period would put the first request behind every run.
const MIN_RATE_HZ: f64 = 0.001;
/// A profile of a page or two: a larger file is another file.
const MAX_FILE_BYTES: u64 = 1 << 20;

impl Profile {
    /// Reads a file.
    ///
    /// # Errors
    /// Bad usage: the file cannot be read, or a key of it is wrong. The message has file, line and key.
    pub fn read(path: &Path) -> Result<Self, Error> {
        let name = path.display();
        let cannot = |error: &dyn std::fmt::Display| {
            Error::usage(format!("cannot read the profile {name}: {error}"))
        };
        let size = fs::metadata(path).map_err(|error| cannot(&error))?.len();
        if size > MAX_FILE_BYTES {
            return Err(cannot(&"it has more than 1 MiB"));
        }
        let text = fs::read_to_string(path).map_err(|error| cannot(&error))?;
        Self::parse(&text).map_err(|wrong| {
            let Wrong { line, key, message } = wrong;
            let key = if key.is_empty() {
                key
            } else {
                format!("{key}: ")
            };
            Error::usage(format!("{name}:{line}: {key}{message}"))
        })
    }

    fn parse(text: &str) -> Result<Self, Wrong> {
        let wrong = |error: toml::de::Error| {
            let line = error.span().map_or(1, |span| line_of(text, span.start));
            Wrong {
                line,
                key: key_on(text, line),
                message: error.message().replace('\n', ", "),
            }
        };
        let raw: RawProfile = toml::from_str(text).map_err(wrong)?;
        let settings: Value = toml::from_str(text).map_err(wrong)?;
        raw.checked(settings).map_err(|(key, message)| Wrong {
            line: line_of_key(text, &key),
            key,
            message,
        })
    }
}

/// What is wrong with a file.
#[derive(Debug)]
struct Wrong {
    /// From 1.
    line: usize,
    /// As in `request.rate_hz`; empty if no key is there.
    key: String,
    message: String,
}

/// A key and the sentence about it.
type Checked<T> = Result<T, (String, String)>;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawProfile {
    framing: Option<RawFraming>,
    hello: Option<RawHello>,
    #[serde(default)]
    ignored_ids: Vec<u16>,
    #[serde(default)]
    ignored_prefixes: Vec<String>,
    login: Option<RawLogin>,
    request: Option<RawRequest>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawFraming {
    length: RawLength,
    byte_order: RawByteOrder,
    length_counts: RawLengthCounts,
    id: RawId,
    max_frame_bytes: Option<u32>,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "snake_case")]
enum RawLength {
    U16,
    U32,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "snake_case")]
enum RawByteOrder {
    Little,
    Big,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "snake_case")]
enum RawLengthCounts {
    Frame,
    IdAndPayload,
    Payload,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "snake_case")]
enum RawId {
    U8,
    U16,
    None,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawHello {
    id: Option<u16>,
    prefix: Option<String>,
    tick_offset: RawOffset,
    tick_type: Option<TickType>,
}

#[derive(Deserialize)]
#[serde(
    untagged,
    expecting = "expected a number of bytes from the start of the payload, or \"none\""
)]
enum RawOffset {
    Bytes(u16),
    None(RawNone),
}

#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum RawNone {
    None,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawLogin {
    id: Option<u16>,
    payload: String,
    answer_id: Option<u16>,
    answer_prefix: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawRequest {
    id: Option<u16>,
    prefix: Option<String>,
    payload: String,
    answer_id: Option<u16>,
    answer_prefix: Option<String>,
    rate_hz: f64,
    answer: RawAnswer,
}

#[derive(Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum RawAnswer {
    Same,
    Any,
}

impl RawProfile {
    fn checked(self, settings: Value) -> Checked<Profile> {
        let framing = self.framing.as_ref().map_or(Framing::NATIVE, framing);
        let hello = (self.hello.as_ref())
            .map(|hello| hello.checked(&framing))
            .transpose()?;
        let login = (self.login.as_ref())
            .map(|login| login.checked(&framing))
            .transpose()?;
        let request = (self.request.as_ref())
            .map(|request| request.checked(&framing))
            .transpose()?;
        for id in &self.ignored_ids {
            id_of("ignored_ids", Some(*id), &framing)?;
        }
        let ignored_prefixes = self.ignored_prefixes.iter();
        let ignored_prefixes =
            ignored_prefixes.map(|prefix| prefix_of("ignored_prefixes", Some(prefix)));
        let profile = Profile {
            framing,
            hello,
            ignored_ids: self.ignored_ids,
            ignored_prefixes: ignored_prefixes.collect::<Checked<_>>()?,
            login,
            request,
            settings,
        };
        if profile.hello.is_none() && profile.request.is_none() {
            let message = "without [hello] and without [request], nothing is checked";
            return Err((String::new(), message.into()));
        }
        profile.check_kinds()?;
        Ok(profile)
    }
}

impl RawHello {
    fn checked(&self, framing: &Framing) -> Checked<Hello> {
        let tick = match (&self.tick_offset, self.tick_type) {
            (RawOffset::None(RawNone::None), None) => None,
            (RawOffset::None(RawNone::None), Some(_)) => {
                let message = "a packet without a tick number has no type of it";
                return Err(("hello.tick_type".into(), message.into()));
            }
            (RawOffset::Bytes(offset), tick_type) => Some(TickField {
                offset: usize::from(*offset),
                tick_type: tick_type.unwrap_or(TickType::U64Le),
            }),
        };
        Ok(Hello {
            kind: Kind {
                id: id_of("hello.id", self.id, framing)?,
                prefix: prefix_of("hello.prefix", self.prefix.as_deref())?,
            },
            tick,
        })
    }
}

impl RawLogin {
    fn checked(&self, framing: &Framing) -> Checked<Login> {
        let payload = payload_of("login.payload", &self.payload, 0)?;
        if payload.has_sequence() {
            let message = "{seq} is the number of a request: a login has none";
            return Err(("login.payload".into(), message.into()));
        }
        let has_answer = self.answer_id.is_some() || self.answer_prefix.is_some();
        let answer = if has_answer {
            Some(Kind {
                id: id_of("login.answer_id", self.answer_id, framing)?,
                prefix: prefix_of("login.answer_prefix", self.answer_prefix.as_deref())?,
            })
        } else {
            None
        };
        Ok(Login {
            id: id_of("login.id", self.id, framing)?,
            payload,
            answer,
        })
    }
}

impl RawRequest {
    fn checked(&self, framing: &Framing) -> Checked<Request> {
        if !(MIN_RATE_HZ..=MAX_RATE_HZ).contains(&self.rate_hz) {
            let message = format!("expected {MIN_RATE_HZ} to {MAX_RATE_HZ} requests a second");
            return Err(("request.rate_hz".into(), message));
        }
        let prefix = prefix_of("request.prefix", self.prefix.as_deref())?;
        Ok(Request {
            id: id_of("request.id", self.id, framing)?,
            payload: payload_of("request.payload", &self.payload, prefix.len())?,
            prefix,
            answer: Kind {
                id: id_of("request.answer_id", self.answer_id, framing)?,
                prefix: prefix_of("request.answer_prefix", self.answer_prefix.as_deref())?,
            },
            is_same: self.answer == RawAnswer::Same,
            period: Duration::from_secs_f64(1.0 / self.rate_hz),
        })
    }
}

impl Profile {
    /// Two kinds that one packet may be of would be mistaken for each other.
    fn check_kinds(&self) -> Checked<()> {
        let hello = self.hello.iter().map(|hello| ("hello", &hello.kind));
        let login = self.login.iter().flat_map(|login| &login.answer);
        let login = login.map(|kind| ("login.answer", kind));
        let request = self.request.iter();
        let request = request.map(|request| ("request.answer", &request.answer));
        let kinds: Vec<_> = hello.chain(login).chain(request).collect();
        for (at, (name, kind)) in kinds.iter().enumerate() {
            let earlier = kinds[..at].iter().find(|(_, other)| kind.overlaps(other));
            if let Some((other, _)) = earlier {
                let key = if *name == "hello" {
                    "hello.id".into()
                } else {
                    format!("{name}_id")
                };
                let message = format!(
                    "a packet of this id and prefix may be one of {other} too: another id or another prefix is needed"
                );
                return Err((key, message));
            }
        }
        Ok(())
    }
}

impl Kind {
    /// Whether a packet is of this kind.
    pub fn is(&self, id: u16, payload: &[u8]) -> bool {
        self.id == id && payload.starts_with(&self.prefix)
    }

    fn overlaps(&self, other: &Self) -> bool {
        self.id == other.id
            && (self.prefix.starts_with(&other.prefix) || other.prefix.starts_with(&self.prefix))
    }
}

impl TickField {
    /// The tick number in a payload; `None` if the payload is too short.
    pub fn read(self, payload: &[u8]) -> Option<u64> {
        let bytes = payload.get(self.offset..)?;
        let four = || bytes.first_chunk().copied();
        let eight = || bytes.first_chunk().copied();
        match self.tick_type {
            TickType::U32Le => four().map(u32::from_le_bytes).map(u64::from),
            TickType::U32Be => four().map(u32::from_be_bytes).map(u64::from),
            TickType::U64Le => eight().map(u64::from_le_bytes),
            TickType::U64Be => eight().map(u64::from_be_bytes),
        }
    }
}

fn framing(raw: &RawFraming) -> Framing {
    Framing {
        length: match raw.length {
            RawLength::U16 => LengthField::U16,
            RawLength::U32 => LengthField::U32,
        },
        byte_order: match raw.byte_order {
            RawByteOrder::Little => ByteOrder::LittleEndian,
            RawByteOrder::Big => ByteOrder::BigEndian,
        },
        length_counts: match raw.length_counts {
            RawLengthCounts::Frame => LengthCounts::Frame,
            RawLengthCounts::IdAndPayload => LengthCounts::IdAndPayload,
            RawLengthCounts::Payload => LengthCounts::Payload,
        },
        id: match raw.id {
            RawId::U8 => IdField::U8,
            RawId::U16 => IdField::U16,
            RawId::None => IdField::None,
        },
        max_frame_bytes: raw
            .max_frame_bytes
            .unwrap_or(Framing::NATIVE.max_frame_bytes),
    }
}

fn id_of(key: &str, id: Option<u16>, framing: &Framing) -> Checked<u16> {
    let message = match (framing.id, id) {
        (IdField::None, None) => return Ok(0),
        (IdField::None, Some(_)) => "frames without an id (framing.id) have none".into(),
        (_, None) => "the id is missing".into(),
        (IdField::U8, Some(id)) if id > 255 => format!("{id} does not fit an id of one byte"),
        (_, Some(id)) => return Ok(id),
    };
    Err((key.into(), message))
}

fn prefix_of(key: &str, prefix: Option<&str>) -> Checked<Vec<u8>> {
    let bytes = prefix.map(template::bytes).transpose();
    bytes
        .map(Option::unwrap_or_default)
        .map_err(|message| (key.into(), message))
}

fn payload_of(key: &str, payload: &str, prefix_bytes: usize) -> Checked<Template> {
    let template = Template::parse(payload).map_err(|message| (key.to_owned(), message))?;
    if template.max_bytes() + prefix_bytes > MAX_PAYLOAD_BYTES {
        let message = format!("a payload has {MAX_PAYLOAD_BYTES} bytes at most");
        return Err((key.into(), message));
    }
    Ok(template)
}

/// The line of a place in a text, from 1.
fn line_of(text: &str, at: usize) -> usize {
    let before = text.as_bytes().iter().take(at);
    before.filter(|byte| **byte == b'\n').count() + 1
}

/// The keys of a text with their lines, tables included.
fn keys(text: &str) -> impl Iterator<Item = (usize, String)> + '_ {
    let mut table = String::new();
    text.lines().enumerate().filter_map(move |(index, line)| {
        let line = line.trim();
        let key = if let Some(name) = line.strip_prefix('[') {
            table = name.split(']').next()?.trim().to_owned();
            table.clone()
        } else {
            let (key, _) = line.split_once('=')?;
            let key = key.trim();
            if key.starts_with('#') {
                return None;
            }
            match table.as_str() {
                "" => key.to_owned(),
                table => format!("{table}.{key}"),
            }
        };
        Some((index + 1, key))
    })
}

/// The key on a line, or the last one before it.
fn key_on(text: &str, line: usize) -> String {
    let before = keys(text).take_while(|(at, _)| *at <= line);
    before.last().map(|(_, key)| key).unwrap_or_default()
}

/// The line of a key, or that of its table for a key that is not there, or 1.
fn line_of_key(text: &str, key: &str) -> usize {
    let find = |key: &str| keys(text).find(|(_, known)| known == key);
    let table = key.split('.').next().unwrap_or_default();
    let found = find(key).or_else(|| find(table));
    found.map_or(1, |(line, _)| line)
}

#[cfg(test)]
mod tests {
    use super::*;

    const WITHOUT_ID: &str = include_str!("../../../../profiles/u32_big_endian_without_id.toml");
    const WITH_ID: &str = include_str!("../../../../profiles/u16_little_endian_with_id.toml");

    fn wrong(text: &str) -> String {
        let Wrong { line, key, message } = Profile::parse(text).unwrap_err();
        format!("{line}: {key}: {message}")
    }

    #[test]
    fn examples_are_profiles() {
        let profile = Profile::parse(WITHOUT_ID).unwrap();
        assert_eq!(profile.framing.header_bytes(), 4);
        assert_eq!(profile.framing.id, IdField::None);
        assert!(profile.login.unwrap().answer.is_some());
        let profile = Profile::parse(WITH_ID).unwrap();
        assert_eq!(profile.framing.id, IdField::U16);
        assert_eq!(profile.request.unwrap().period, Duration::from_millis(200));
    }

    #[test]
    fn error_has_the_line_and_the_key() {
        let text = "[hello]\nid = 1\ntick_offset = 0\n\n[request]\n";
        assert!(wrong(&format!("{text}idd = 3\n")).starts_with("6: request.idd: "));
        let request = format!("{text}id = 2\npayload = \"x\"\nanswer_id = 3\nanswer = \"same\"\n");
        assert_eq!(
            wrong(&format!("{request}rate_hz = 0\n")),
            "10: request.rate_hz: expected 0.001 to 10000 requests a second"
        );
        assert!(Profile::parse(&format!("{request}rate_hz = 1\n")).is_ok());
        assert!(
            wrong("[hello]\nid = 1\ntick_offset = \"no\"\n").starts_with("3: hello.tick_offset: ")
        );
        assert_eq!(
            wrong("[hello]\ntick_offset = 0\n"),
            "1: hello.id: the id is missing"
        );
        assert!(wrong("x = \n").starts_with("1: x: "));
    }

    #[test]
    fn ids_fit_the_framing() {
        let text = |id: &str, of_hello: &str| {
            format!(
                "[framing]\nlength = \"u32\"\nbyte_order = \"big\"\nlength_counts = \"payload\"\n\
                 id = \"{id}\"\n[hello]\n{of_hello}\ntick_offset = \"none\"\n"
            )
        };
        assert!(Profile::parse(&text("none", "")).is_ok());
        assert!(Profile::parse(&text("u8", "id = 255")).is_ok());
        assert!(wrong(&text("none", "id = 1")).starts_with("7: hello.id: frames without an id"));
        assert!(wrong(&text("u8", "id = 256")).starts_with("7: hello.id: 256 does not fit"));
    }

    #[test]
    fn packet_of_two_kinds_is_refused() {
        let text = "[hello]\nid = 1\nprefix = \"ab\"\ntick_offset = \"none\"\n[login]\nid = 2\n\
                    payload = \"x\"\nanswer_id = 1\n";
        assert!(
            wrong(&format!("{text}answer_prefix = \"a\"\n")).starts_with("8: login.answer_id: ")
        );
        assert!(Profile::parse(&format!("{text}answer_prefix = \"b\"\n")).is_ok());
    }

    #[test]
    fn profile_that_checks_nothing_is_refused() {
        assert!(wrong("ignored_ids = [1]\n").contains("nothing is checked"));
    }

    #[test]
    fn tick_number_is_read_in_each_layout() {
        let payload = [9, 0, 0, 0, 0, 0, 0, 1, 2];
        let read = |offset, tick_type| TickField { offset, tick_type }.read(&payload);
        assert_eq!(read(1, TickType::U64Be), Some(258));
        assert_eq!(read(5, TickType::U32Be), Some(258));
        assert_eq!(read(0, TickType::U32Le), Some(9));
        assert_eq!(read(0, TickType::U64Le), Some(9 | 1 << 56));
        assert_eq!(read(2, TickType::U64Le), None);
        assert_eq!(read(usize::from(u16::MAX), TickType::U32Le), None);
    }
}
