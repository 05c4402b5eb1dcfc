//! Banned networks: a file of them, and the list that a listener asks.

use crate::base::cidr::{Cidr, InvalidCidr};
use std::fmt;
use std::io::{BufRead, Read};
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::sync::{Arc, PoisonError, RwLock};

/// Banned networks, each with the time at which its ban ends.
///
/// The list keeps sorted ranges of addresses that do not overlap: a question takes a binary search, and a
/// network takes at most 32 bytes (IPv4) or 96 bytes (IPv6) of memory.
///
/// ```
/// use server_core::BanList;
/// let file = "\
///     192.0.2.0/24                        # for ever\n\
///     2001:db8::/48 2031-12-24T18:00:00Z  # until then\n";
/// let bans = BanList::read(file.as_bytes())?;
/// assert!(bans.contains([192, 0, 2, 7].into(), 1_900_000_000));
/// # Ok::<(), server_core::BanListError>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BanList {
    networks: usize,
    ipv4: Vec<Range<u32>>,
    ipv6: Vec<Range<u128>>,
}

/// Addresses with the same end of their ban.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Range<B> {
    first: B,
    last: B,
    /// Seconds since 1970, [`FOR_EVER`] for a ban without an end.
    until: u64,
}

/// The bans of a running server. Clones share one list.
///
/// [`replace`](Self::replace) applies to new connections. Sessions of a newly banned address go on; end them
/// with [`ServerHandle::close`](crate::ServerHandle::close) where a ban has to.
#[derive(Clone, Debug, Default)]
pub struct Bans {
    list: Arc<RwLock<BanList>>,
}

/// A line of a ban file that is not a ban.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BanListError {
    line: usize,
    why: String,
}

const FOR_EVER: u64 = u64::MAX;
/// Bytes of the longest line.
const MAX_LINE_BYTES: u64 = 4096;

impl BanList {
    /// The maximum number of networks in one list.
    pub const MAX_NETWORKS: usize = 1_000_000;

    /// Reads one network a line: `CIDR [UNTIL] [# reason]`. UNTIL is a time of RFC 3339, for example
    /// `2031-12-24T18:00:00Z`; a ban without it has no end. Empty lines and lines with a reason alone count
    /// as nothing. A network whose bans end at different times is banned until the last of them.
    ///
    /// Memory is bounded: lines of up to 4,096 bytes, [`MAX_NETWORKS`](Self::MAX_NETWORKS) networks.
    ///
    /// # Errors
    /// The first line that is not a ban, with its number; or the error of the reader.
    pub fn read(mut reader: impl BufRead) -> Result<Self, BanListError> {
        let mut networks = Vec::new();
        let mut text = Vec::new();
        for line in 1.. {
            let error = |why: String| BanListError { line, why };
            text.clear();
            let count = (reader.by_ref().take(MAX_LINE_BYTES + 1))
                .read_until(b'\n', &mut text)
                .map_err(|read| error(read.to_string()))?;
            if count == 0 {
                break;
            }
            if count as u64 > MAX_LINE_BYTES {
                return Err(error(format!("is longer than {MAX_LINE_BYTES} bytes")));
            }
            if line == 1 && text.starts_with(BYTE_ORDER_MARK) {
                text.drain(..BYTE_ORDER_MARK.len());
            }
            let ban = text.split(|byte| *byte == b'#').next().unwrap_or_default();
            let mut fields = (ban.split(u8::is_ascii_whitespace)).filter(|field| !field.is_empty());
            let Some(network) = fields.next() else {
                continue;
            };
            let network = String::from_utf8_lossy(network);
            let network: Cidr =
                (network.parse()).map_err(|why: InvalidCidr| error(why.to_string()))?;
            let until = match fields.next() {
                None => FOR_EVER,
                Some(until) => seconds_of(until).ok_or_else(|| {
                    let until = String::from_utf8_lossy(until);
                    error(format!(
                        "\"{until}\" is not a time: expected RFC 3339, for example 2031-12-24T18:00:00Z"
                    ))
                })?,
            };
            if let Some(more) = fields.next() {
                let more = String::from_utf8_lossy(more);
                return Err(error(format!(
                    "\"{more}\" behind the ban: a reason begins with #"
                )));
            }
            if networks.len() == Self::MAX_NETWORKS {
                return Err(error(format!("more than {} networks", Self::MAX_NETWORKS)));
            }
            networks.push((network, until));
        }
        Ok(Self::new(&networks))
    }

    fn new(networks: &[(Cidr, u64)]) -> Self {
        let of_kind = |is_ipv4: bool| {
            let networks = networks
                .iter()
                .filter(move |(network, _)| network.is_ipv4() == is_ipv4);
            disjoint(
                networks
                    .map(|(network, until)| (network.bits(), *until))
                    .collect(),
            )
        };
        let ipv4 = of_kind(true).into_iter().map(|range| Range {
            first: range.first as u32,
            last: range.last as u32,
            until: range.until,
        });
        Self {
            networks: networks.len(),
            ipv4: ipv4.collect(),
            ipv6: of_kind(false),
        }
    }

    /// Whether a ban of this address ends after `now`, in seconds since 1970.
    #[must_use]
    pub fn contains(&self, ip: IpAddr, now: u64) -> bool {
        let until = match ip.to_canonical() {
            IpAddr::V4(ip) => until_of(&self.ipv4, ip.to_bits()),
            IpAddr::V6(ip) => until_of(&self.ipv6, ip.to_bits()),
        };
        until.is_some_and(|until| until == FOR_EVER || now < until)
    }

    /// The number of networks, those whose ban has ended included.
    #[must_use]
    pub fn len(&self) -> usize {
        self.networks
    }

    /// Whether no network is banned.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.networks == 0
    }
}

impl Bans {
    /// Bans the networks of this list, and no other network.
    pub fn replace(&self, list: BanList) {
        let mut current = self.list.write().unwrap_or_else(PoisonError::into_inner);
        let old = std::mem::replace(&mut *current, list);
        drop(current);
        // The listener does not wait while this memory is freed.
        drop(old);
    }

    /// Whether a ban of this address ends after `now`, in seconds since 1970.
    #[must_use]
    pub fn contains(&self, ip: IpAddr, now: impl FnOnce() -> u64) -> bool {
        // A list is replaced in one step: a panic elsewhere cannot have torn it.
        let list = self.list.read().unwrap_or_else(PoisonError::into_inner);
        !list.is_empty() && list.contains(ip, now())
    }
}

impl From<BanList> for Bans {
    fn from(list: BanList) -> Self {
        Self {
            list: Arc::new(RwLock::new(list)),
        }
    }
}

impl BanListError {
    /// The number of the line, from 1.
    #[must_use]
    pub fn line(&self) -> usize {
        self.line
    }
}

impl fmt::Display for BanListError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: {}", self.line, self.why)
    }
}

impl std::error::Error for BanListError {}

fn until_of<B: Copy + Ord>(ranges: &[Range<B>], address: B) -> Option<u64> {
    let behind = ranges.partition_point(|range| range.first <= address);
    let range = ranges.get(behind.checked_sub(1)?)?;
    (address <= range.last).then_some(range.until)
}

/// Cuts nested networks into ranges that do not overlap, in ascending order. Two networks are disjoint, or one
/// contains the other: an address that several contain is banned until the last of their ends.
fn disjoint(mut networks: Vec<(RangeInclusive<u128>, u64)>) -> Vec<Range<u128>> {
    // A network comes before those that it contains.
    networks.sort_by_key(|(bits, _)| (*bits.start(), std::cmp::Reverse(*bits.end())));
    let mut ranges: Vec<Range<u128>> = Vec::with_capacity(networks.len());
    // The networks that contain the current address, the smallest last, each with the end of its ban.
    let mut open: Vec<(u128, u64)> = Vec::new();
    // The first address that is in no range yet.
    let mut next = 0;
    let mut push = |first: u128, last: u128, until: u64| match ranges.last_mut() {
        Some(before) if before.until == until && before.last.checked_add(1) == Some(first) => {
            before.last = last;
        }
        _ => ranges.push(Range { first, last, until }),
    };
    for (bits, until) in networks {
        let (first, last) = bits.into_inner();
        while let Some((end, until)) = open.pop_if(|(end, _)| *end < first) {
            if next <= end {
                push(next, end, until);
                next = end + 1;
            }
        }
        let around = open.last().copied();
        if let Some((_, until)) = around
            && next < first
        {
            push(next, first - 1, until);
        }
        next = first;
        open.push((last, around.map_or(until, |(_, around)| around.max(until))));
    }
    while let Some((end, until)) = open.pop() {
        if next <= end {
            push(next, end, until);
            // Behind the last address no network is left.
            next = end.saturating_add(1);
        }
        if end == u128::MAX {
            break;
        }
    }
    ranges.shrink_to_fit();
    ranges
}

const BYTE_ORDER_MARK: &[u8] = "\u{feff}".as_bytes();

/// The seconds since 1970 of a time of RFC 3339, rounded down; zero for an earlier time.
fn seconds_of(time: &[u8]) -> Option<u64> {
    let number = |range: std::ops::Range<usize>| {
        let digits = time.get(range)?;
        (digits.iter()).try_fold(0, |sum: i64, digit| {
            digit
                .is_ascii_digit()
                .then(|| sum * 10 + i64::from(digit - b'0'))
        })
    };
    let is_at =
        |index: usize, bytes: &[u8]| time.get(index).is_some_and(|byte| bytes.contains(byte));
    let separators = [
        (4, &b"-"[..]),
        (7, b"-"),
        (10, b"Tt"),
        (13, b":"),
        (16, b":"),
    ];
    if !separators
        .into_iter()
        .all(|(index, bytes)| is_at(index, bytes))
    {
        return None;
    }
    let (year, month, day) = (number(0..4)?, number(5..7)?, number(8..10)?);
    let (hour, minute, second) = (number(11..13)?, number(14..16)?, number(17..19)?);
    let is_leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let days_of_month = match month {
        2 => 28 + i64::from(is_leap),
        4 | 6 | 9 | 11 => 30,
        1..=12 => 31,
        _ => return None,
    };
    // A minute with a leap second has 61 seconds.
    if !(1..=days_of_month).contains(&day) || hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    let mut zone_at = 19;
    if is_at(zone_at, b".") {
        let digits = time[20..]
            .iter()
            .take_while(|byte| byte.is_ascii_digit())
            .count();
        zone_at += 1 + (digits > 0).then_some(digits)?;
    }
    let (offset, length) = match time.get(zone_at)? {
        b'Z' | b'z' => (0, 1),
        sign @ (b'+' | b'-') if is_at(zone_at + 3, b":") => {
            let (hours, minutes) = (
                number(zone_at + 1..zone_at + 3)?,
                number(zone_at + 4..zone_at + 6)?,
            );
            if hours > 23 || minutes > 59 {
                return None;
            }
            let seconds = hours * 3600 + minutes * 60;
            (if *sign == b'+' { seconds } else { -seconds }, 6)
        }
        _ => return None,
    };
    if time.len() != zone_at + length {
        return None;
    }
    // Days since 0000-03-01, in a calendar whose years begin in March: a leap day is the last of its year.
    let (years, months) = if month > 2 {
        (year, month - 3)
    } else {
        (year - 1, month + 9)
    };
    let days = 365 * years + years.div_euclid(4) - years.div_euclid(100)
        + years.div_euclid(400)
        + (153 * months + 2) / 5
        + day
        - 1;
    const DAYS_TO_1970: i64 = 719_468;
    let seconds = (days - DAYS_TO_1970) * 86_400 + hour * 3600 + minute * 60 + second - offset;
    Some(seconds.max(0).unsigned_abs())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;
    use std::cmp::Ordering;
    use std::io;

    fn read(text: &str) -> BanList {
        BanList::read(text.as_bytes()).unwrap()
    }

    fn error(text: impl AsRef<[u8]>) -> String {
        BanList::read(text.as_ref()).unwrap_err().to_string()
    }

    fn is_banned(bans: &BanList, ip: &str, now: u64) -> bool {
        bans.contains(ip.parse().unwrap(), now)
    }

    #[test]
    fn file_has_networks_ends_reasons_and_empty_lines() {
        let bans = read(
            "\u{feff}# banned by hand\n\n192.0.2.0/24\r\n\t10.0.0.1   1970-01-01T00:01:40Z # 100 s\n\
             2001:db8::/48 1970-01-01T00:01:40+00:00# no space\n::ffff:10.0.0.9 # mapped",
        );
        assert_eq!(bans.len(), 4);
        for (ip, before, after) in [
            ("192.0.2.77", true, true),
            ("192.0.3.1", false, false),
            ("10.0.0.1", true, false),
            ("::ffff:10.0.0.1", true, false),
            ("10.0.0.9", true, true),
            ("2001:db8:0:1::5", true, false),
            ("2001:db9::", false, false),
        ] {
            assert_eq!(is_banned(&bans, ip, 99), before, "{ip}");
            assert_eq!(is_banned(&bans, ip, 100), after, "{ip}");
        }
        assert!(read("").is_empty() && read("# nothing\n").is_empty());
    }

    #[test]
    fn first_line_that_is_not_a_ban_is_named() {
        assert_eq!(
            error("10.0.0.1\nhost.example\n"),
            "line 2: \"host.example\" is not a network: expected an address or CIDR, for example 192.0.2.0/24"
        );
        assert!(error("10.0.0.1 tomorrow").starts_with("line 1: \"tomorrow\" is not a time"));
        assert!(error("10.0.0.1 2031-12-24T18:00:00Z spam").contains("a reason begins with #"));
        assert!(error("10.0.0.0/8 # \n10.0.0.1/8").contains("line 2: "));
        assert!(error(b"\xff\xfe").contains("is not a network"));
        let long = "#".repeat(MAX_LINE_BYTES as usize);
        assert!(BanList::read(format!("{}\n", &long[1..]).as_bytes()).is_ok());
        assert_eq!(error(long + "\n"), "line 1: is longer than 4096 bytes");
    }

    #[test]
    fn endless_input_ends_with_an_error() {
        let zeros = io::BufReader::new(io::repeat(0));
        assert!(
            BanList::read(zeros)
                .unwrap_err()
                .to_string()
                .contains("longer than 4096 bytes")
        );
        let lines = io::BufReader::new(Lines(b"10.0.0.1\n"));
        let error = BanList::read(lines).unwrap_err();
        assert_eq!(error.line(), BanList::MAX_NETWORKS + 1);
    }

    /// A number that counts its comparisons.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    struct Counted(u32);

    thread_local! {
        static COMPARISONS: Cell<u32> = const { Cell::new(0) };
    }

    impl Ord for Counted {
        fn cmp(&self, other: &Self) -> Ordering {
            COMPARISONS.set(COMPARISONS.get() + 1);
            self.0.cmp(&other.0)
        }
    }

    impl PartialOrd for Counted {
        fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
            Some(self.cmp(other))
        }
    }

    /// Each second /24 of a part of the network 0.0.0.0/6, so that no two of them are one range.
    #[test]
    fn question_among_100_000_networks_takes_at_most_20_comparisons() {
        let text: String = (0..100_000_u32)
            .map(|number| format!("{}/24\n", std::net::Ipv4Addr::from(number << 9)))
            .collect();
        let bans = read(&text);
        let ranges = bans.ipv4.iter().map(|range| Range {
            first: Counted(range.first),
            last: Counted(range.last),
            until: range.until,
        });
        let ranges: Vec<_> = ranges.collect();
        assert_eq!(ranges.len(), 100_000);
        let mut most = 0;
        for address in (0..200_000_u32).map(|number| number << 8 | 7) {
            COMPARISONS.set(0);
            let is_banned = until_of(&ranges, Counted(address)).is_some();
            assert_eq!(is_banned, address & 0x100 == 0, "{address}");
            most = most.max(COMPARISONS.get());
        }
        // Each comparison of the search halves the list, and one is with the end of the range.
        assert!((17..=20).contains(&most), "{most}");
    }

    /// The same line without end.
    struct Lines(&'static [u8]);

    impl Read for Lines {
        fn read(&mut self, memory: &mut [u8]) -> io::Result<usize> {
            let count = memory.len() / self.0.len() * self.0.len();
            for line in memory[..count].chunks_mut(self.0.len()) {
                line.copy_from_slice(self.0);
            }
            Ok(count)
        }
    }

    #[test]
    fn times_are_those_of_rfc_3339() {
        for (time, seconds) in [
            ("1970-01-01T00:00:00Z", Some(0)),
            ("1970-01-01t00:00:01z", Some(1)),
            ("2000-02-29T12:34:56.789Z", Some(951_827_696)),
            ("2031-12-24T18:00:00+01:30", Some(1_955_896_200)),
            ("2031-12-24T18:00:00-00:30", Some(1_955_903_400)),
            ("2016-12-31T23:59:60Z", Some(1_483_228_800)),
            ("1969-12-31T23:59:59Z", Some(0)),
            ("9999-12-31T23:59:59Z", Some(253_402_300_799)),
            ("0000-01-01T00:00:00Z", Some(0)),
            ("2001-02-29T00:00:00Z", None),
            ("1900-02-29T00:00:00Z", None),
            ("2031-13-01T00:00:00Z", None),
            ("2031-00-01T00:00:00Z", None),
            ("2031-04-31T00:00:00Z", None),
            ("2031-04-00T00:00:00Z", None),
            ("2031-12-24T24:00:00Z", None),
            ("2031-12-24T18:60:00Z", None),
            ("2031-12-24T18:00:61Z", None),
            ("2031-12-24T18:00:00", None),
            ("2031-12-24T18:00:00.Z", None),
            ("2031-12-24T18:00Z", None),
            ("2031-12-24", None),
            ("2031-12-24T18:00:00+0100", None),
            ("2031-12-24T18:00:00+24:00", None),
            ("2031-12-24T18:00:00Zz", None),
            ("2031-12-24T18:00:00+01:00x", None),
            ("+031-12-24T18:00:00Z", None),
            ("", None),
        ] {
            assert_eq!(seconds_of(time.as_bytes()), seconds, "{time}");
        }
    }

    #[test]
    fn nested_networks_are_banned_until_the_last_of_their_ends() {
        let bans = read(
            "10.0.0.0/8 1970-01-01T00:00:10Z\n10.1.0.0/16 1970-01-01T00:00:30Z\n\
             10.1.2.0/24 1970-01-01T00:00:20Z\n10.1.3.0/24\n10.1.3.0/24 1970-01-01T00:00:05Z\n\
             0.0.0.0/0 1970-01-01T00:00:01Z\n255.255.255.255\n::/0 1970-01-01T00:00:01Z\n\
             ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
        );
        for (ip, until) in [
            ("9.255.255.255", 1),
            ("10.0.0.0", 10),
            ("10.0.255.255", 10),
            ("10.1.0.0", 30),
            ("10.1.2.9", 30),
            ("10.1.3.9", FOR_EVER),
            ("10.1.4.0", 30),
            ("10.2.0.0", 10),
            ("11.0.0.0", 1),
            ("255.255.255.254", 1),
            ("255.255.255.255", FOR_EVER),
            ("::1", 1),
            ("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", FOR_EVER),
        ] {
            assert!(is_banned(&bans, ip, until - 1), "{ip}");
            assert_eq!(is_banned(&bans, ip, until), until == FOR_EVER, "{ip}");
        }
    }

    /// Networks of all sizes, nested at random, against a search of all of them.
    #[test]
    fn any_networks_ban_what_a_search_of_all_of_them_finds() {
        let seed = fastrand::u64(..);
        println!("seed {seed}");
        let mut random = fastrand::Rng::with_seed(seed);
        for _ in 0..50 {
            let networks: Vec<(Cidr, u64)> = (0..random.usize(1..60))
                .map(|_| {
                    // Few bits: most networks contain another one.
                    let bits = random.u32(..) & 0xf000_0f0f;
                    let prefix = random.u32(0..=32);
                    let mask = u32::MAX.checked_shl(32 - prefix).unwrap_or(0);
                    let ip = std::net::Ipv4Addr::from_bits(bits & mask);
                    let network = if random.bool() {
                        format!("{ip}/{prefix}")
                    } else {
                        format!("{}/{}", ip.to_ipv6_compatible(), 96 + prefix)
                    };
                    let until = if random.u8(..) < 50 {
                        FOR_EVER
                    } else {
                        random.u64(1..6)
                    };
                    (network.parse().unwrap(), until)
                })
                .collect();
            let bans = BanList::new(&networks);
            let ranges = bans
                .ipv6
                .windows(2)
                .all(|pair| pair[0].last < pair[1].first);
            assert!(ranges, "{networks:?}");
            for _ in 0..500 {
                let bits = random.u32(..) & 0xf100_0f1f;
                let ip = std::net::Ipv4Addr::from_bits(bits);
                let ips = [IpAddr::from(ip), ip.to_ipv6_compatible().into()];
                let now = random.u64(0..7);
                for ip in ips {
                    let mut covering = networks.iter().filter(|(network, _)| network.contains(ip));
                    let expected = covering.any(|(_, until)| now < *until);
                    assert_eq!(
                        bans.contains(ip, now),
                        expected,
                        "{ip} at {now}: {networks:?}"
                    );
                }
            }
        }
    }

    /// Prints the cost of a large list: `cargo test --release -p server_core --lib large_list -- --nocapture`.
    #[test]
    fn large_list_takes_the_memory_of_its_ranges_and_binary_searches() {
        let text: String = (0..100_000_u32)
            .map(|n| {
                format!(
                    "{}/32 2031-12-24T18:00:00Z # {n}\n",
                    std::net::Ipv4Addr::from_bits(n * 40_000)
                )
            })
            .collect();
        let began = std::time::Instant::now();
        let bans = read(&text);
        let read_in = began.elapsed();
        assert_eq!((bans.len(), bans.ipv4.len()), (100_000, 100_000));
        assert_eq!(bans.ipv4.capacity() * size_of::<Range<u32>>(), 1_600_000);
        let began = std::time::Instant::now();
        let banned = (0..1_000_000_u32)
            .filter(|n| bans.contains(std::net::Ipv4Addr::from_bits(n * 4_000).into(), 5))
            .count();
        let asked_in = began.elapsed();
        assert_eq!(banned, 100_000);
        println!("100,000 networks read in {read_in:?}, a million questions in {asked_in:?}");
    }

    #[test]
    fn ranges_take_no_more_memory_than_the_documentation_says() {
        assert_eq!(
            (size_of::<Range<u32>>(), size_of::<Range<u128>>()),
            (16, 48)
        );
        // The worst case: one network around many that do not touch.
        let inner: String = (0..256)
            .step_by(2)
            .map(|n| format!("10.0.0.{n}\n"))
            .collect();
        let bans = read(&format!("10.0.0.0/24 2031-12-24T18:00:00Z\n{inner}"));
        assert!(bans.ipv4.len() <= 2 * bans.len(), "{}", bans.ipv4.len());
    }

    #[test]
    fn replaced_list_is_that_of_all_clones() {
        let bans = Bans::from(read("10.0.0.1"));
        let clone = bans.clone();
        let is_banned = |last| clone.contains([10, 0, 0, last].into(), || 5);
        assert!(is_banned(1) && !is_banned(2));
        bans.replace(read("10.0.0.2"));
        assert!(!is_banned(1) && is_banned(2));
        bans.replace(BanList::default());
        assert!(!clone.contains([10, 0, 0, 2].into(), || unreachable!(
            "an empty list reads no clock"
        )));
    }
}
