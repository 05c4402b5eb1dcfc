//! A [`RawClient`] that knows the packets of the game.

use server_core::testing::{RawClient, RawPacket, packet};
use std::net::{SocketAddr, TcpStream};
use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

pub const S_HELLO: u16 = 1;
pub const C_ECHO: u16 = 2;
pub const S_ECHO: u16 = 3;
pub const C_CHAT: u16 = 4;
pub const S_CHAT: u16 = 5;
pub const S_BYE: u16 = 6;

/// A client of the game. A packet with an id that the server does not send is an error.
pub struct Client(RawClient);

impl Deref for Client {
    type Target = RawClient;

    fn deref(&self) -> &RawClient {
        &self.0
    }
}

impl DerefMut for Client {
    fn deref_mut(&mut self) -> &mut RawClient {
        &mut self.0
    }
}

impl From<RawClient> for Client {
    fn from(client: RawClient) -> Self {
        Self(client.with_known_ids(&[S_HELLO, S_ECHO, S_CHAT, S_BYE]))
    }
}

impl Client {
    pub fn connect(addr: SocketAddr) -> Self {
        RawClient::connect(addr).into()
    }

    /// See [`RawClient::connect_from`].
    pub fn connect_from(source: [u8; 4], addr: SocketAddr) -> Self {
        RawClient::connect_from(source, addr).into()
    }

    /// See [`RawClient::connect_with_recv_buffer`].
    pub fn connect_with_recv_buffer(addr: SocketAddr, bytes: usize) -> Self {
        RawClient::connect_with_recv_buffer(addr, bytes).into()
    }

    pub fn from_stream(stream: TcpStream) -> Self {
        RawClient::from_stream(stream).into()
    }

    /// See [`RawClient::next_packet`].
    #[track_caller]
    pub fn next(&mut self) -> RawPacket {
        self.0.next_packet()
    }

    /// The next packet that is not an `S_HELLO`.
    #[track_caller]
    pub fn next_but_hello(&mut self) -> RawPacket {
        loop {
            let packet = self.next();
            if packet.id != S_HELLO {
                return packet;
            }
        }
    }

    /// The tick and the text of the next `S_HELLO`. Skips other packets.
    #[track_caller]
    pub fn next_hello(&mut self) -> (u64, Vec<u8>) {
        loop {
            let packet = self.next();
            if packet.id == S_HELLO {
                return split_number(&packet.payload);
            }
        }
    }

    /// The session id and the text of the next `S_CHAT`. Skips `S_HELLO`; fails at other packets.
    #[track_caller]
    pub fn next_chat(&mut self) -> (u64, String) {
        let packet = self.next_but_hello();
        assert_eq!(packet.id, S_CHAT, "{packet:?}");
        let (sender, text) = split_number(&packet.payload);
        (sender, String::from_utf8(text).unwrap())
    }

    #[track_caller]
    pub fn expect_echo(&mut self, payload: &[u8]) {
        let packet = self.next_but_hello();
        assert_eq!(packet.id, S_ECHO, "{packet:?}");
        assert!(
            packet.payload == payload,
            "echo of {} bytes came back as {} others",
            payload.len(),
            packet.payload.len()
        );
    }

    /// Sends an echo and waits for its answer.
    #[track_caller]
    pub fn echo(&mut self, payload: &[u8]) {
        self.send(&packet(C_ECHO, payload));
        self.expect_echo(payload);
    }

    /// Fails unless the next packet but `S_HELLO` is an `S_BYE` with this code, and the stream then
    /// ends in order, with no reset.
    #[track_caller]
    pub fn expect_bye(&mut self, code: u16) {
        let packet = self.next_but_hello();
        assert_bye(&packet, code);
        self.expect_eof();
    }

    /// Reads to the end of the stream, and returns the code and the text of the `S_BYE`. Fails unless
    /// the stream ends in order and its last packet, and no other, is an `S_BYE`.
    #[track_caller]
    pub fn read_to_bye(&mut self) -> (u16, String) {
        let mut last: Option<RawPacket> = None;
        loop {
            match self.try_next() {
                Ok(Some(packet)) => {
                    assert!(
                        last.as_ref().is_none_or(|one| one.id != S_BYE),
                        "{packet:?} behind S_BYE"
                    );
                    last = Some(packet);
                }
                // A reset instead of a FIN would be an error here.
                Ok(None) => break,
                Err(error) => panic!("the stream did not end in order: {error}"),
            }
        }
        split_bye(&last.unwrap())
    }

    /// Closes with unread bytes in the receive buffer, which makes the kernel send a reset.
    pub fn reset(self) {
        let mut byte = [0];
        assert_eq!(
            self.0.stream.peek(&mut byte).unwrap(),
            1,
            "nothing is unread"
        );
    }
}

/// Fails unless the packet is an `S_BYE` with this code and a text.
#[track_caller]
pub fn assert_bye(packet: &RawPacket, code: u16) {
    let (got, text) = split_bye(packet);
    assert_eq!(got, code);
    assert!(!text.is_empty(), "S_BYE says why");
}

/// The code and the text of an `S_BYE`.
#[track_caller]
pub fn split_bye(packet: &RawPacket) -> (u16, String) {
    assert_eq!(packet.id, S_BYE, "{packet:?}");
    let (code, text) = packet.payload.split_at(2);
    let text = String::from_utf8(text.to_vec()).unwrap();
    (u16::from_le_bytes([code[0], code[1]]), text)
}

/// The number at the front of an `S_HELLO` or an `S_CHAT`, and the rest.
#[track_caller]
pub fn split_number(payload: &[u8]) -> (u64, Vec<u8>) {
    let (number, rest) = payload.split_first_chunk().unwrap();
    (u64::from_le_bytes(*number), rest.to_vec())
}

/// Reads the ticks of one session on its own thread, and fails at a missing tick.
pub struct TickReader {
    /// How many ticks end the thread.
    enough: Arc<AtomicU64>,
    thread: JoinHandle<u64>,
}

impl TickReader {
    pub fn start(client: Client) -> Self {
        Self::with_longest_gap(client, Duration::MAX)
    }

    /// As [`TickReader::start`]; fails at a longer time between two ticks as well.
    pub fn with_longest_gap(mut client: Client, longest_gap: Duration) -> Self {
        let enough = Arc::new(AtomicU64::new(u64::MAX));
        let thread = {
            let enough = Arc::clone(&enough);
            thread::spawn(move || {
                let (mut last, text) = client.next_hello();
                assert!(text.starts_with(b"Hello World"));
                let (mut last_at, mut count) = (Instant::now(), 1);
                while count < enough.load(Ordering::Acquire) {
                    let (tick, again) = client.next_hello();
                    let gap = last_at.elapsed();
                    assert!(
                        tick == last + 1 && gap <= longest_gap,
                        "tick {tick} came {gap:?} after tick {last}"
                    );
                    assert_eq!(again, text);
                    (last, last_at, count) = (tick, Instant::now(), count + 1);
                }
                count
            })
        };
        Self { enough, thread }
    }

    /// Ends the thread when it has read `ticks`, and returns how many it has read. Fails if a tick was
    /// missing.
    #[track_caller]
    pub fn stop_after(self, ticks: u64) -> u64 {
        self.enough.store(ticks, Ordering::Release);
        self.thread.join().unwrap()
    }
}
