//! Every limit of the library. "Everything has a limit, and the limit has a name."

use crate::base::cidr::Cidr;
use crate::base::memory;
use crate::base::wire::{HEADER_BYTES, MAX_PACKET_BYTES};
use std::time::Duration;

/// The limits and sizes of a server. [`Default`] suits the open internet. The
/// [crate's documentation](crate#limits-and-defaults) lists all limits in one table.
///
/// A duration or rate that is `None` is switched off. Later versions may add fields, so start from
/// the defaults:
///
/// ```
/// # use {server_core::{Config, Server}, std::time::Duration};
/// let mut config = Config::default();
/// config.idle_timeout = Some(Duration::from_secs(60));
/// config.linger = Duration::from_millis(100);
/// let builder = Server::builder().config(config);
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Config {
    /// Event loops, each on a thread of its own, at most 256. Default: the number of cores.
    pub workers: usize,
    /// Connections that wait in the kernel for accept. The kernel reduces the number to
    /// `net.core.somaxconn`. Default: 4,096.
    ///
    /// With the customary 128, most of a thousand clients that connect at once while the
    /// listener is busy wait 1 s until their SYN is sent again.
    pub backlog: u32,
    /// Sessions at a time, over all workers. Default: `None`.
    pub max_sessions: Option<usize>,
    /// Sessions at a time from one address. The 2^64 addresses of one IPv6 network count as one address.
    /// Default: `None`.
    pub max_sessions_per_ip: Option<usize>,
    /// Connections a second from one address, with a burst of twice that number. The 2^64 addresses
    /// of one IPv6 network count as one address. Default: `None`.
    ///
    /// The listener closes a connection over the limit at once, without a packet, and counts it as
    /// rejected.
    pub max_connects_per_ip_per_sec: Option<u32>,
    /// Networks of proxies, for example of a load balancer. Default: none.
    ///
    /// A connection from such an address begins with a header of the PROXY protocol, version 1 or 2, of at
    /// most 536 bytes, within 2 s (or [`handshake_timeout`](Self::handshake_timeout), if that is shorter).
    /// The client that the header names is the peer: for limits by address, bans, logs and
    /// [`Peer::addr`](crate::Peer::addr). A connection without such a header ends with
    /// [`DisconnectReason::Handshake`](crate::DisconnectReason::Handshake) and becomes no session. A header for
    /// a health check (`LOCAL`, `UNKNOWN`) leaves the proxy's address. A header from another address ends its
    /// session with [`Kick::BadSize`](crate::Kick::BadSize).
    pub trusted_proxies: Vec<Cidr>,
    /// Time until a session that [requires a login](crate::Session::requires_login) is admitted by
    /// [`Context::admit`](crate::Context::admit). Default: 10 s.
    pub login_timeout: Option<Duration>,
    /// Unadmitted sessions at a time, over all workers. One session more ends the oldest unadmitted
    /// session. Default: `None`, which means half of `max_sessions` where that is set.
    ///
    /// Each worker has its share, at least one session. Independently of this limit, the workers end the
    /// oldest unadmitted sessions while fewer than an eighth of `max_sessions`, at most 64 places, are
    /// free: silent peers that hold places do not make the server refuse the next connection.
    pub max_unadmitted: Option<usize>,
    /// Size of the largest packet that a peer may send, header included. Default: 65,535 bytes.
    pub max_packet_bytes: usize,
    /// Unsent bytes of one session. Default: 1 MiB.
    ///
    /// A session is a slow consumer when its queue is longer than this for
    /// [`max_send_grace`](Self::max_send_grace) without a break and its socket has taken less than 512 KiB a
    /// second, on average over that time and in the last 250 ms, or when its queue is longer than
    /// [eight times](Self::SEND_QUEUE_CAP) of this after a write.
    /// Packets to others are paced at half of it, and at 128 KiB: see [pacing](crate#pacing).
    pub max_send_queue_bytes: usize,
    /// Time for which a queue may be longer than [`max_send_queue_bytes`](Self::max_send_queue_bytes)
    /// without a break. Default: 1 s.
    pub max_send_grace: Duration,
    /// Bytes in the queues of all sessions together, and the memory of incomplete packets.
    /// Default: a quarter of the memory that the machine, the control group and the address space allow
    /// (`None`).
    ///
    /// A packet in the queues of several sessions counts once for each. Over three quarters of the limit,
    /// a session with more than 16 KiB in its queue is not read. Over the limit, the sessions with the
    /// longest queues end as slow consumers.
    pub max_total_queue_bytes: Option<usize>,
    /// Age of the oldest unsent byte above which a session is a slow consumer, unless its socket has taken
    /// [`min_send_rate_bytes`](Self::min_send_rate_bytes) a second over that time. Default: 5 s.
    pub max_send_lag: Option<Duration>,
    /// Average bytes a second that the socket of a session that is behind has to take, or the session is a
    /// slow consumer by age. Default: 16,384; 0 excuses no session.
    pub min_send_rate_bytes: u32,
    /// Time from the first byte of a packet to its last. Default: 10 s.
    pub packet_timeout: Option<Duration>,
    /// Time without input after which a session ends. Default: `None`.
    pub idle_timeout: Option<Duration>,
    /// Time for which the peer's system may leave sent bytes unacknowledged, or keep its window closed,
    /// before the connection is given up. The value is raised to `max_send_lag` if that is longer.
    /// Default: 30 s.
    ///
    /// A machine that loses its network sends nothing. Without this limit the kernel retries for a
    /// quarter of an hour (`TCP_USER_TIMEOUT`). The kernel probes a machine that has nothing to
    /// acknowledge after this time (`SO_KEEPALIVE`). With `max_send_lag` switched off, peers may stop
    /// reading without a limit of time, so the kernel only probes silent machines.
    pub unacknowledged_timeout: Option<Duration>,
    /// Time until an outgoing connection is connected. Default: 10 s.
    pub connect_timeout: Option<Duration>,
    /// Time for the handshake of a transport that has one: TLS, WebSocket. Default: 5 s.
    pub handshake_timeout: Option<Duration>,
    /// Handshakes at a time, over all workers; one more ends the oldest of them. Default: 1,024.
    ///
    /// The limit is half of [`max_sessions`](Self::max_sessions) if that is less: peers that only connect
    /// take at most half of the places. Each worker keeps its share, one handshake at least. As many
    /// connections of [`trusted_proxies`](Self::trusted_proxies) may wait for their header.
    pub max_handshakes: usize,
    /// Packets a second that one session may send, with a burst of twice that number. Default: `None`.
    pub max_packets_per_sec: Option<u32>,
    /// Groups that one session may be in at a time. Default: 64.
    ///
    /// The limit bounds the time of joins and leaves and their memory, whatever a peer makes a handler
    /// do. Over the limit, [`Context::join`](crate::Context::join) returns an error, and
    /// [`ServerHandle::join`](crate::ServerHandle::join) only counts the refusal (`joins_refused`).
    pub max_groups_per_session: usize,
    /// Time for the flush of the queue of a session that ends. Default: 2 s.
    pub flush_timeout: Duration,
    /// Time for which a flushed session waits for the peer's FIN. Default: 500 ms.
    ///
    /// A close with unread input makes the kernel send a reset. The reset may overtake and destroy the
    /// last packets to the peer.
    pub linger: Duration,
    /// Unsent bytes that the kernel takes for one accepted socket before a write would block, where the
    /// system has `TCP_NOTSENT_LOWAT`. Default: 16 KiB.
    ///
    /// Without the limit the kernel takes megabytes for a peer that does not read: at 92 bytes a second
    /// such a peer stays unnoticed for half a day.
    pub unsent_window_bytes: Option<u32>,
    /// Size of a send-buffer chunk, between 1 KiB and 16 MiB. With larger chunks, threads visit the pool
    /// less often. Default: 64 KiB.
    pub chunk_bytes: usize,
    /// Free chunks that the pool keeps. Further chunks go back to the allocator. Default: 64.
    pub pooled_chunks: usize,
    /// Bytes that one mailbox holds before a sending thread waits. Default: 4 MiB.
    pub mailbox_bytes: usize,
    /// Size of a worker's read buffer, which its sessions share. Default: 64 KiB.
    pub recv_buffer_bytes: usize,
    /// Bytes read from one session in one turn. Default: 128 KiB.
    pub read_budget_bytes: usize,
    /// Time for which a session is not read while its queue is longer than 64 KiB, or than a quarter of
    /// `max_send_queue_bytes`. Default: 1 s; zero never pauses.
    ///
    /// If a peer sends requests faster than it takes the answers, its requests wait in its own socket.
    /// After the pause the session is read again, unless its queue is longer than `max_send_queue_bytes`.
    pub read_pause: Duration,
    /// Bytes written to one session in one turn, unless its queue is over its cap
    /// ([`SEND_QUEUE_CAP`](Self::SEND_QUEUE_CAP)). Default: 64 KiB.
    ///
    /// A session that sends in [`on_drained`](crate::Session::on_drained) gets a second write in the same
    /// turn.
    pub write_budget_bytes: usize,
    /// Bytes that one turn of a worker reads from all its sessions, each packet counted as 64 bytes at
    /// least. Default: 256 KiB.
    ///
    /// The input of a hundred flooders must not delay a tick: the rest is read in the next turn, behind
    /// the mail that has come in between.
    pub turn_input_bytes: usize,
    /// Bytes that one turn of a worker queues, each packet counted once for every receiver, and as 64
    /// bytes at least. Default: 8 MiB.
    ///
    /// The limit bounds the duration of a turn and the memory that a turn fills, whatever the fan-out.
    /// Effects beyond the limit wait for the next turn, and so does all reading. A broadcast to 10,000
    /// sessions is a tenth of the limit.
    pub turn_output_bytes: usize,
    /// Connections that the listener accepts before its next other task. Default: 256.
    pub accept_batch: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            workers: std::thread::available_parallelism().map_or(1, usize::from),
            backlog: 4096,
            max_sessions: None,
            max_sessions_per_ip: None,
            max_connects_per_ip_per_sec: None,
            trusted_proxies: Vec::new(),
            login_timeout: Some(Duration::from_secs(10)),
            max_unadmitted: None,
            max_packet_bytes: MAX_PACKET_BYTES,
            max_send_queue_bytes: 1 << 20,
            max_send_grace: Duration::from_secs(1),
            max_total_queue_bytes: None,
            max_send_lag: Some(Duration::from_secs(5)),
            min_send_rate_bytes: 16 << 10,
            packet_timeout: Some(Duration::from_secs(10)),
            idle_timeout: None,
            unacknowledged_timeout: Some(Duration::from_secs(30)),
            connect_timeout: Some(Duration::from_secs(10)),
            handshake_timeout: Some(Duration::from_secs(5)),
            max_handshakes: 1024,
            max_packets_per_sec: None,
            max_groups_per_session: 64,
            flush_timeout: Duration::from_secs(2),
            linger: Duration::from_millis(500),
            unsent_window_bytes: Some(16 << 10),
            chunk_bytes: 64 << 10,
            pooled_chunks: 64,
            mailbox_bytes: 4 << 20,
            recv_buffer_bytes: 64 << 10,
            read_budget_bytes: 128 << 10,
            read_pause: Duration::from_secs(1),
            write_budget_bytes: 64 << 10,
            turn_input_bytes: 256 << 10,
            turn_output_bytes: 8 << 20,
            accept_batch: 256,
        }
    }
}

impl Config {
    /// A queue of more than this many times [`max_send_queue_bytes`](Self::max_send_queue_bytes) ends its
    /// session at once: the bound of the memory of one session.
    pub const SEND_QUEUE_CAP: usize = 8;

    pub(crate) fn send_queue_cap(&self) -> usize {
        self.max_send_queue_bytes
            .saturating_mul(Self::SEND_QUEUE_CAP)
    }

    /// The value of [`max_total_queue_bytes`](Self::max_total_queue_bytes) on this machine, in bytes.
    #[must_use]
    pub fn total_queue_bytes(&self) -> usize {
        let default = || memory::allowed_bytes().map_or(usize::MAX, |bytes| (bytes / 4) as usize);
        self.max_total_queue_bytes.unwrap_or_else(default).max(1)
    }

    /// Above this length the queue of one session paces the sessions that send to it. The length is small
    /// enough that a tick behind the queue is not late, and larger than the bytes that gather between two
    /// reads of the peer.
    pub(crate) fn pacing_bytes(&self) -> usize {
        (self.max_send_queue_bytes / 2).min(128 << 10)
    }

    /// Above this queue length a session is not read: its peer asks faster than it takes the answers. The
    /// length is half of `pacing_bytes`, so a session's own answers pace no other session.
    pub(crate) fn crowded_bytes(&self) -> usize {
        self.pacing_bytes() / 2
    }

    /// Brings every size and time into the range in which the server works.
    #[must_use]
    pub(crate) fn clamped(mut self) -> Self {
        self.workers = self
            .workers
            .clamp(1, crate::base::id::SessionId::MAX_WORKERS);
        self.max_packet_bytes = self.max_packet_bytes.clamp(HEADER_BYTES, MAX_PACKET_BYTES);
        self.max_send_queue_bytes = self.max_send_queue_bytes.max(1);
        self.max_total_queue_bytes = Some(self.total_queue_bytes());
        self.chunk_bytes = self.chunk_bytes.clamp(1 << 10, 16 << 20);
        self.mailbox_bytes = self.mailbox_bytes.max(1);
        self.recv_buffer_bytes = self.recv_buffer_bytes.clamp(1 << 10, 16 << 20);
        self.read_budget_bytes = self.read_budget_bytes.max(1);
        self.write_budget_bytes = self.write_budget_bytes.max(1);
        self.turn_input_bytes = self.turn_input_bytes.max(1);
        self.turn_output_bytes = self.turn_output_bytes.clamp(1, 1 << 40);
        self.accept_batch = self.accept_batch.max(1);
        let times = [
            &mut self.flush_timeout,
            &mut self.linger,
            &mut self.max_send_grace,
            &mut self.read_pause,
        ];
        let times_or_off = [
            &mut self.max_send_lag,
            &mut self.packet_timeout,
            &mut self.idle_timeout,
            &mut self.unacknowledged_timeout,
            &mut self.connect_timeout,
            &mut self.login_timeout,
            &mut self.handshake_timeout,
        ];
        for time in times.into_iter().chain(times_or_off.into_iter().flatten()) {
            *time = (*time).min(LONGEST_TIME);
        }
        self
    }

    /// Unadmitted sessions of one worker at a time.
    pub(crate) fn max_unadmitted_of_worker(&self) -> usize {
        let half = || self.max_sessions.map(|sessions| sessions / 2);
        let all = self.max_unadmitted.or_else(half);
        all.map_or(usize::MAX, |all| all.div_ceil(self.workers).max(1))
    }

    /// Handshakes of one worker at a time.
    pub(crate) fn max_handshakes_of_worker(&self) -> usize {
        self.max_handshakes_of_all().div_ceil(self.workers).max(1)
    }

    /// Handshakes of all workers at a time.
    pub(crate) fn max_handshakes_of_all(&self) -> usize {
        let half = (self.max_sessions).map_or(usize::MAX, |sessions| sessions / 2);
        self.max_handshakes.min(half).max(1)
    }

    /// Places that stay free while there are unadmitted sessions.
    pub(crate) fn places_for_newcomers(&self) -> usize {
        self.max_sessions
            .map_or(0, |sessions| (sessions / 8).min(64))
    }
}

/// Longer than any session, and far too short for an instant plus a time to overflow.
pub(crate) const LONGEST_TIME: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zero_sizes_are_brought_into_range() {
        let config = Config {
            workers: 0,
            max_packet_bytes: 0,
            chunk_bytes: 0,
            recv_buffer_bytes: 0,
            read_budget_bytes: 0,
            ..Config::default()
        }
        .clamped();
        assert_eq!(config.workers, 1);
        assert_eq!(config.max_packet_bytes, 4);
        assert_eq!(config.chunk_bytes, 1024);
        assert_eq!(config.recv_buffer_bytes, 1024);
        assert_eq!(config.read_budget_bytes, 1);
    }

    #[test]
    fn no_time_is_so_long_that_a_deadline_overflows() {
        let endless = Some(Duration::MAX);
        let config = Config {
            max_send_lag: endless,
            packet_timeout: endless,
            idle_timeout: endless,
            unacknowledged_timeout: endless,
            connect_timeout: endless,
            login_timeout: endless,
            handshake_timeout: endless,
            flush_timeout: Duration::MAX,
            linger: Duration::MAX,
            max_send_grace: Duration::MAX,
            read_pause: Duration::MAX,
            ..Config::default()
        }
        .clamped();
        let shown = format!("{config:?}");
        assert!(!shown.contains(&format!("{:?}", Duration::MAX)), "{shown}");
        assert_eq!(config.linger, LONGEST_TIME);
        assert_eq!(config.idle_timeout, Some(LONGEST_TIME));
    }
}
