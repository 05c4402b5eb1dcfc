//! How often each of the things happened that the simulation is for.

/// How often things happened: a simulation in which they do not would find nothing either.
#[derive(Debug, Default)]
pub struct Tally {
    pub turns: u64,
    pub sessions: u64,
    pub packets_to_peers: u64,
    pub packets_from_peers: u64,
    /// A call of the server met a reset in the middle of a turn.
    pub resets: u64,
    pub lost_edges: u64,
    /// Accepts without a descriptor.
    pub failed_accepts: u64,
    pub clock_jumps: u64,
    /// Shutdowns in the middle of everything.
    pub early_shutdowns: u64,
    pub handler_panics: u64,
    pub slow_consumers: u64,
    /// Packets to groups that peers got, had to get, and must not get.
    pub casts: u64,
    pub casts_owed: u64,
    pub casts_denied: u64,
    pub joins_refused: u64,
    /// Calls of `on_drained`, and those among them whose request had to wait for the peer.
    pub drained: u64,
    pub drained_later: u64,
    pub logins: u64,
    /// Sessions that had their time for a login, and those that had to go before.
    pub login_timeouts: u64,
    pub evictions: u64,
    /// Handshakes that were completed, and sessions that ended in one.
    pub handshakes: u64,
    pub failed_handshakes: u64,
    /// Answers that a codec gave by itself, runs of packets behind a prefix, and ends of the server's side
    /// that had to wait for the peer.
    pub pongs: u64,
    pub runs: u64,
    pub pending_closes: u64,
    /// Packets from the link, and packets for it.
    pub from_link: u64,
    pub to_link: u64,
}

impl Tally {
    pub fn fields(&mut self) -> [&mut u64; 27] {
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
            &mut self.pongs,
            &mut self.runs,
            &mut self.pending_closes,
            &mut self.from_link,
            &mut self.to_link,
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
