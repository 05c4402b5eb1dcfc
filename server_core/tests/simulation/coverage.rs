//! Counts of the events that the simulation exists to provoke.

/// Counts of events of one run, or of all runs. A simulation in which an event does not happen cannot find
/// a bug in the handling of that event.
#[derive(Debug, Default)]
pub struct Coverage {
    pub turns: u64,
    pub sessions: u64,
    pub packets_to_peers: u64,
    pub packets_from_peers: u64,
    /// Peers whose connection was reset at a call of the server, in the middle of a turn.
    pub resets: u64,
    pub lost_edges: u64,
    /// Accepts that failed because no descriptor was free.
    pub failed_accepts: u64,
    pub clock_jumps: u64,
    /// Shutdowns that began before the run had quiesced.
    pub early_shutdowns: u64,
    pub handler_panics: u64,
    pub slow_consumers: u64,
    /// Packets to groups that peers got, had to get, and must not get.
    pub casts: u64,
    pub casts_owed: u64,
    pub casts_denied: u64,
    pub joins_refused: u64,
    /// Calls of `on_drained`; calls of `on_drained` whose request had to wait for the peer.
    pub drained: u64,
    pub drained_later: u64,
    pub logins: u64,
    /// Sessions that ended after their whole login timeout; sessions that were evicted before it.
    pub login_timeouts: u64,
    pub evictions: u64,
    /// Handshakes that were completed; sessions that ended during their handshake.
    pub handshakes: u64,
    pub failed_handshakes: u64,
    /// Sessions whose peer broke a record.
    pub broken_records: u64,
    /// Pongs that a codec sent by itself; runs of packets behind one prefix; ends of the server's side that
    /// had to wait for the peer.
    pub pongs: u64,
    pub runs: u64,
    pub pending_closes: u64,
    /// Packets that the link delivered; packets that the link was given.
    pub from_link: u64,
    pub to_link: u64,
    /// Headers of proxies that named a client; headers that were invalid; headers that did not come in time.
    pub headers: u64,
    pub invalid_headers: u64,
    pub late_headers: u64,
}

impl Coverage {
    pub fn fields(&mut self) -> [&mut u64; 31] {
        [
            &mut self.turns,
            &mut self.sessions,
            &mut self.packets_to_peers,
            &mut self.packets_from_peers,
            &mut self.resets,
            &mut self.lost_edges,
            &mut self.failed_accepts,
            &mut self.clock_jumps,
            &mut self.early_shutdowns,
            &mut self.handler_panics,
            &mut self.slow_consumers,
            &mut self.casts,
            &mut self.casts_owed,
            &mut self.casts_denied,
            &mut self.joins_refused,
            &mut self.drained,
            &mut self.drained_later,
            &mut self.logins,
            &mut self.login_timeouts,
            &mut self.evictions,
            &mut self.handshakes,
            &mut self.failed_handshakes,
            &mut self.broken_records,
            &mut self.pongs,
            &mut self.runs,
            &mut self.pending_closes,
            &mut self.from_link,
            &mut self.to_link,
            &mut self.headers,
            &mut self.invalid_headers,
            &mut self.late_headers,
        ]
    }

    pub fn absorb(&mut self, mut other: Self) {
        for (sum, part) in self.fields().into_iter().zip(other.fields()) {
            *sum += *part;
        }
    }

    pub fn has_everything(&mut self) -> bool {
        self.fields().iter().all(|count| **count > 0)
    }
}
