//! The oracle: it checks what has to hold after each turn, when all rest, and at the end.

use crate::coverage::Coverage;
use crate::driver::{HANDSHAKE_TIMEOUT, MOST_PEERS, Sim, SimShard};
use crate::groups::{self, Verdict};
use crate::peers::{Kind, PeerSide};
use crate::transport::{HandshakeKind, PeerLayers};
use crate::world::{OUTSIDE, Record, World};
use server_core::routing::outbox;
use server_core::runtime::acceptor::RETRY;
use server_core::testing::{Connect, FakeTls};
use server_core::{DisconnectReason, Kick, SessionId};
use std::collections::{HashMap, HashSet};
use std::io::ErrorKind;
use std::time::{Duration, Instant};

/// The time that a worker has for a timer that is overdue when all rest. A full mailbox or a used-up budget
/// delays the check of a timer, and the worker repeats the check a little later.
const TIMER_PATIENCE: Duration = Duration::from_secs(1);

impl Sim {
    /// Checks what holds after each turn: every peer got whole packets so far, each once and in order, and the
    /// counts are right.
    pub fn check_turn(&mut self) {
        let world = self.world.lock();
        for peer in &mut self.peers {
            let state = peer.end.state();
            let Some(id) = peer.end.id() else { continue };
            let own_seq_at_start = world.sessions[&id].own_seq_at_start;
            let read = match &mut peer.layers {
                None => (peer.seen).read_on(&state.output, own_seq_at_start, id),
                Some(layers) => (layers.read_on(&state.output))
                    .and_then(|()| (peer.seen).read_on(&layers.plain, own_seq_at_start, id)),
            };
            if let Err(offence) = read {
                self.offences.push(format!(
                    "after turn {}: {id} {:?}: {offence}; {:?}",
                    self.coverage.turns, peer.kind, world.sessions[&id]
                ));
            }
        }
        let live = world.live() as u64;
        drop(world);
        let gauge = self.metrics.totals().sessions;
        if gauge != live {
            self.offences
                .push(format!("{live} live sessions, the gauge says {gauge}"));
        }
    }

    /// Checks, when all rest, that no work is left that no event would announce.
    pub fn check_rest(&mut self) {
        for (worker, shard) in self.shards.iter().enumerate() {
            let waiting = self.router.mailbox(worker).queued_bytes();
            if shard.is_some() && waiting > 0 {
                self.offences
                    .push(format!("worker {worker} sleeps on {waiting} bytes of mail"));
            }
        }
        if self.listener.waiting() == 0 || self.free_descriptors() == 0 {
            self.may_accept_since = None;
        } else if *self.may_accept_since.get_or_insert(self.now) + RETRY.1 <= self.now {
            self.offences
                .push("the listener sleeps on waiting connections and free descriptors".into());
        }
        // Paced packets wait for time to pass, and everything behind them waits as well.
        let is_paced = self.shards.iter().flatten().any(SimShard::is_paced);
        if is_paced || !outbox::is_empty() {
            self.overdue.clear();
            return;
        }
        self.check_groups();
        self.check_drained();
        self.check_unadmitted();
        self.check_handshakes();
        // This thread writes into one chunk.
        let live = self.pool.stats().live;
        if live > 1 {
            self.offences
                .push(format!("{live} chunks are held while everybody rests"));
        }
        let mut overdue = HashMap::new();
        for (id, record) in &self.world.lock().sessions {
            let is_live = record.connected > record.disconnected;
            if let Some(at) = record.timer_at.filter(|at| is_live && *at <= self.now) {
                let noticed = self.overdue.get(&(*id, at)).copied();
                let noticed = noticed.unwrap_or(self.now);
                overdue.insert((*id, at), noticed);
                if noticed + TIMER_PATIENCE <= self.now {
                    self.offences
                        .push(format!("{id}: the worker slept through its timer"));
                }
            }
            let began = record.unadmitted_since();
            let login_by = began
                .zip(self.config.login_timeout)
                .map(|(at, time)| at + time);
            // A peer with bytes to take has the time of the stall for them, also beyond its login timeout.
            let shard = self.shards[id.worker()].as_mut();
            let has_queue = shard.and_then(|shard| shard.queued_bytes(*id)) > Some(0);
            let may_be_late = record.packets > 0 || has_queue;
            let grace_until = self.login_grace_until.filter(|_| may_be_late);
            let login_by = login_by.map(|at| grace_until.map_or(at, |grace| grace.max(at)));
            if let Some(at) = login_by.filter(|at| *at <= self.now) {
                let noticed = self.overdue.get(&(*id, at)).copied();
                let noticed = noticed.unwrap_or(self.now);
                overdue.insert((*id, at), noticed);
                if noticed + TIMER_PATIENCE <= self.now {
                    self.offences.push(format!(
                        "{id}: is unadmitted beyond its login timeout: {record:?}"
                    ));
                }
            }
        }
        self.overdue = overdue;
    }

    /// Checks that every session with an open request for `on_drained` has more bytes queued than the request
    /// names.
    pub fn check_drained(&mut self) {
        for (id, record) in &self.world.lock().sessions {
            let Some(below) = record.drained_below else {
                continue;
            };
            let shard = self.shards[id.worker()].as_mut();
            let queued_bytes = shard.and_then(|shard| shard.queued_bytes(*id));
            if queued_bytes.is_some_and(|bytes| bytes <= below) {
                self.offences.push(format!(
                    "{id}: {queued_bytes:?} queued bytes are not above {below}, and `on_drained` was not called"
                ));
            }
        }
    }

    /// Checks that no worker has more unadmitted sessions than its share of the cap.
    pub fn check_unadmitted(&mut self) {
        let half = self.config.max_sessions.map(|sessions| sessions / 2);
        let Some(cap) = self.config.max_unadmitted.or(half) else {
            return;
        };
        let share = cap.div_ceil(self.config.workers).max(1);
        for worker in 0..self.shards.len() {
            let world = self.world.lock();
            let its = world.sessions.iter().filter(|(id, record)| {
                id.worker() == worker && record.unadmitted_since().is_some()
            });
            let count = its.count();
            if count > share {
                self.offences.push(format!(
                    "{count} sessions of worker {worker} wait for a login, its share is {share}"
                ));
            }
        }
    }

    /// Checks that no worker has more handshakes than its share of the cap.
    pub fn check_handshakes(&mut self) {
        let share = self.max_handshakes().div_ceil(self.config.workers);
        for shard in self.shards.iter().flatten() {
            let count = shard.handshakes();
            if count > share.max(1) {
                (self.offences).push(format!("{count} handshakes, the share is {share}"));
            }
        }
    }

    fn max_handshakes(&self) -> usize {
        let half = self.config.max_sessions.map(|sessions| sessions / 2);
        half.unwrap_or(usize::MAX).min(self.config.max_handshakes)
    }

    /// Whether a worker may evict a session before its login timeout.
    pub fn evicts(&self) -> bool {
        self.config
            .max_unadmitted
            .or(self.config.max_sessions)
            .is_some()
    }

    /// Checks that each session is in the groups that it should be in, and that the index of groups has a
    /// worker exactly if the worker has members.
    pub fn check_groups(&mut self) {
        let shards = &self.shards;
        let members = |worker: usize, group| {
            let shard = shards[worker].as_ref();
            shard.map_or(&[][..], |shard| shard.groups().members(group))
        };
        let is_in = |id: SessionId, group| members(id.worker(), group).contains(&id);
        let mut world = self.world.lock();
        let mut offences = world.groups.rest(is_in);
        for group in groups::all() {
            let count: usize = (0..shards.len())
                .map(|worker| members(worker, group).len())
                .sum();
            let should_be = world.groups.members(group);
            if count != should_be {
                offences.push(format!("{count} members of {group}, and not {should_be}"));
            }
            let told: Vec<usize> = self.router.groups().workers(group).iter().collect();
            let has_members = |worker: &usize| !members(*worker, group).is_empty();
            let should_be: Vec<usize> = (0..shards.len()).filter(has_members).collect();
            if told != should_be {
                offences.push(format!(
                    "{group}: the index has workers {told:?}, and not {should_be:?}"
                ));
            }
        }
        drop(world);
        self.offences.extend(offences);
    }

    /// Checks that everything that was sent has arrived, and that every session that has ended, offended or
    /// stalled is gone. `here` are the sessions that were accepted when the quiet began,
    /// some with a handshake under way. All connected sessions had a broadcast at `broadcast_at`.
    pub fn check_quiesced(&mut self, here: &HashSet<SessionId>, broadcast_at: Instant) {
        let world = self.world.lock();
        (self.offences).extend(self.link.check_complete(&world.broadcasts));
        for peer in &self.peers {
            let state = peer.end.state();
            let Some(id) = peer.end.id() else { continue };
            let record = &world.sessions[&id];
            let told = |what: &str| format!("{id} {:?}: {what}; {record:?}", peer.kind);
            // A session that was accepted after the quiet began may have some time left.
            let is_overdue = here.contains(&id);
            // After a stall of the process, a peer that takes nothing gets as much time as the stall took,
            // and the server does not read from it meanwhile.
            let is_excused = !peer.reads() && self.coverage.clock_jumps > 0;
            if record.disconnected > 0 {
                let is_excused = is_excused
                    || record.reason == Some(DisconnectReason::Handshake)
                        && self.coverage.clock_jumps > 0;
                if is_overdue && !state.is_dropped && !is_excused {
                    self.offences
                        .push(told("has left, and its stream is still here"));
                }
                // There was no shutdown so far: every peer that read got everything that was for it.
                drop(state);
                let verdict = self.check_session(peer, id, &world);
                self.coverage.casts_owed += verdict.owed;
                self.offences.extend(verdict.offences);
                continue;
            }
            // After a stall of the process, a handshake may take longer by the time of the stall.
            let is_late = has_handshake(peer)
                && (!is_overdue || peer.stalls_handshake() && self.coverage.clock_jumps > 0);
            if record.connected == 0 {
                if is_late {
                    continue;
                }
                self.offences
                    .push(told("is neither connected nor disconnected"));
                continue;
            }
            if is_overdue && peer.has_offended && !is_excused {
                self.offences.push(told("has offended, and is still here"));
            }
            if is_overdue && peer.kind == Kind::Silent && self.config.idle_timeout.is_some() {
                self.offences.push(told("was silent, and is still here"));
            }
            let seen = &peer.seen;
            if seen.is_wrong {
                continue; // Reported already.
            }
            if !peer.reads() {
                continue; // The peer has some time left until it is kicked as a slow consumer.
            }
            if let Some(layers) = &peer.layers {
                if layers.answered != layers.pings {
                    let text = format!("sent {} pings, got {}", layers.pings, layers.answered);
                    self.offences.push(told(&text));
                }
                if layers.layers.is_sealed && !layers.has_ticket {
                    self.offences.push(told("has not got its ticket"));
                }
            }
            for (source, sent) in &world.broadcasts {
                let began = if *source == id.worker() {
                    record.own_seq_at_start
                } else {
                    0
                };
                let last = seen.broadcasts.get(source).copied();
                // A peer that saw no broadcast of another source may have connected after all of them.
                let was_connected = record.connected_at.is_some_and(|at| at <= broadcast_at);
                let from_outside = *source == OUTSIDE && was_connected;
                let must_have_seen = last.is_some() || from_outside || began > 0;
                if must_have_seen && last.unwrap_or(began) != *sent {
                    let text = format!("saw {last:?} of the {sent} broadcasts of {source}");
                    self.offences.push(told(&text));
                }
            }
            let verdict = world.groups.check(id, &seen.casts, true);
            self.coverage.casts_owed += verdict.owed;
            self.offences.extend(verdict.offences);
            if record.echoes != peer.echoes || seen.echoes != peer.echoes {
                let text = format!("sent {} echoes, got {}", peer.echoes, seen.echoes);
                self.offences.push(told(&text));
            }
        }
    }

    pub fn finish(mut self) -> (Vec<String>, Coverage) {
        let mut offences = std::mem::take(&mut self.offences);
        offences.append(&mut self.listener.offences);
        offences.append(&mut self.link.take_offences());
        (self.coverage.from_link, self.coverage.to_link) = self.link.counts();
        self.shards.clear();
        // Posts what other threads had in the outbox when the last worker ended.
        outbox::open();
        let totals = self.metrics.totals();
        let world = self.world.lock();
        offences.extend(world.offences.iter().cloned());
        let mut expect = |what: &str, is: u64, should_be: u64| {
            if is != should_be {
                offences.push(format!("{what}: {is}, and not {should_be}"));
            }
        };
        expect("sessions gauge", totals.sessions, 0);
        expect("send_queue_bytes gauge", totals.send_queue_bytes, 0);
        let partial_bytes = |worker| self.metrics.worker(worker).partial_packet_bytes.get();
        let partial_bytes = (0..self.config.workers).map(partial_bytes).sum();
        expect("partial_packet_bytes gauge", partial_bytes, 0);
        expect("admission", self.admission.total() as u64, 0);
        expect(
            "packets_received",
            totals.packets_received,
            world.packets_handled,
        );
        let left = world
            .sessions
            .values()
            .map(|record| u64::from(record.disconnected))
            .sum();
        let disconnects: u64 = totals.disconnects.iter().sum();
        expect("disconnects", disconnects, left);
        let live = self.pool.stats().live;
        expect(
            "chunks besides this thread's own",
            live.saturating_sub(1),
            0,
        );
        self.buffers.release();
        expect("chunks", self.pool.stats().live, 0);

        let (mut bytes, mut packets, mut accepted) = (0, 0, 0);
        let (mut casts, mut casts_denied) = (0, 0);
        // A record with packets may be on its way when its stream breaks: it arrives, and is not counted.
        let (mut broken_records, mut uncounted) = (0, 0);
        for peer in &self.peers {
            let state = peer.end.state();
            let output = peer
                .layers
                .as_ref()
                .map_or(&state.output, |layers| &layers.plain);
            bytes += if peer.is_translated {
                without_torn_header(output) as u64
            } else {
                output.len() as u64
            };
            let notes = peer.end.notes();
            offences.extend(
                (state.misuses.iter().copied())
                    .chain(notes.offences.iter().map(String::as_str))
                    .map(|offence| format!("{:?}: {offence}", notes.id)),
            );
            if !state.is_dropped {
                offences.push(format!(
                    "{:?} {:?}: its stream was never dropped",
                    notes.id, peer.kind
                ));
            }
            let Some(id) = notes.id else { continue };
            let record = &world.sessions[&id];
            let is_session = record.connected > 0 || has_handshake(peer);
            accepted += u64::from(is_session && !peer.is_outgoing);
            drop((state, notes));
            packets += peer.seen.packets;
            if record.connected > 0 && record.reason == Some(DisconnectReason::Handshake) {
                broken_records += 1;
                uncounted += FakeTls::MAX_RECORD_BYTES as u64;
            }
            casts += peer.seen.casts.len() as u64;
            let verdict = self.check_session(peer, id, &world);
            casts_denied += verdict.denied;
            offences.extend(verdict.offences);
        }
        let mut expect = |what: &str, is: u64, should_be: u64| {
            if is != should_be {
                offences.push(format!("{what}: {is}, and not {should_be}"));
            }
        };
        expect("accepted", totals.accepted, accepted + self.failed_incoming);
        let should_be = |sent: u64, most: u64| sent.clamp(most.saturating_sub(uncounted), most);
        let bytes = should_be(totals.bytes_sent, bytes);
        expect("bytes_sent", totals.bytes_sent, bytes);
        let packets_sent = should_be(totals.packets_sent, packets);
        expect("packets_sent", totals.packets_sent, packets_sent);
        offences.dedup();
        offences.truncate(12);
        let resets =
            |peer: &&PeerSide| peer.kind == Kind::Resets && peer.end.state().broken.is_some();
        let login_timeouts = |had_time: bool| {
            let ended = world.sessions.values().filter(|record| {
                record.reason == Some(DisconnectReason::LoginTimeout)
                    && self.had_time_for_login(record) == had_time
            });
            ended.count() as u64
        };
        let coverage = Coverage {
            sessions: world.sessions.len() as u64,
            packets_to_peers: packets,
            packets_from_peers: world.packets_handled,
            resets: self.peers.iter().filter(resets).count() as u64,
            failed_accepts: self.listener.failures,
            handler_panics: totals.disconnects_for(DisconnectReason::HandlerPanicked),
            slow_consumers: totals.disconnects_for(Kick::SlowConsumer),
            casts,
            casts_denied,
            joins_refused: world.groups.refused + totals.joins_refused,
            drained: world.drained,
            drained_later: world.drained_later,
            logins: (world.sessions.values())
                .filter(|record| record.requires_login && record.admitted_at.is_some())
                .count() as u64,
            login_timeouts: login_timeouts(true),
            evictions: login_timeouts(false),
            handshakes: (self.peers.iter())
                .filter(|peer| peer.layers.as_ref().is_some_and(|layers| layers.has_ticket))
                .count() as u64,
            broken_records,
            failed_handshakes: totals.disconnects_for(DisconnectReason::Handshake),
            pongs: sum_of_layers(&self.peers, |layers| layers.pongs),
            runs: sum_of_layers(&self.peers, |layers| layers.runs),
            pending_closes: (self.peers.iter())
                .map(|peer| peer.end.notes().pending_closes)
                .sum(),
            ..self.coverage
        };
        (offences, coverage)
    }

    pub fn had_time_for_login(&self, record: &Record) -> bool {
        let had = (record.connected_at.zip(record.disconnected_at))
            .map(|(began, ended)| ended.saturating_duration_since(began));
        had.zip(self.config.login_timeout)
            .is_some_and(|(had, time)| had >= time)
    }

    /// Checks the whole life of one session against what its peer did.
    pub fn check_session(&self, peer: &PeerSide, id: SessionId, world: &World) -> Verdict {
        let (seen, record) = (&peer.seen, &world.sessions[&id]);
        if seen.is_wrong {
            return Verdict::default(); // Reported already.
        }
        let mut offences = Vec::new();
        let mut offence = |what: &str| {
            offences.push(format!(
                "{id} {:?}: {what}; {record:?}; {seen:?}",
                peer.kind
            ));
        };
        if record.addr != peer.header.names {
            offence(&format!("has another address than {:?}", peer.header.names));
        }
        if record.disconnected != 1 || record.connected > 1 {
            offence("not connected and disconnected once each");
        }
        let has_handshake = has_handshake(peer);
        if record.connected == 0 && !peer.is_outgoing && !has_handshake {
            offence("was never connected");
        }
        let Some(reason) = record.reason else {
            return Verdict {
                offences,
                ..Verdict::default()
            };
        };
        let state = peer.end.state();
        use DisconnectReason as Why;
        let is_explained = match reason {
            Why::Closed => record.close_was_asked,
            Why::LoginTimeout => {
                record.requires_login
                    && record.admitted_at.is_none()
                    && (self.evicts() || self.had_time_for_login(record))
            }
            Why::HandlerPanicked => record.has_panicked,
            Why::Shutdown => self.flush_by.is_some(),
            Why::PeerClosed => state.has_sent_fin,
            Why::PeerReset => matches!(
                state.broken,
                Some(ErrorKind::ConnectionReset | ErrorKind::BrokenPipe)
            ),
            Why::IoError(kind) => state.broken == Some(kind),
            Why::Handshake if has_broken_record(peer) => true,
            Why::Handshake => {
                let had_time = record.disconnected_at >= Some(peer.arrived_at + HANDSHAKE_TIMEOUT);
                let is_late = had_time && self.coverage.clock_jumps > 0;
                let is_evicted = self.max_handshakes() < MOST_PEERS;
                let is_at_fault = had_time && peer.stalls_handshake()
                    || (peer.layers.as_ref())
                        .is_some_and(|layers| layers.handshake == HandshakeKind::Garbage);
                has_handshake && record.connected == 0 && (is_late || is_evicted || is_at_fault)
            }
            Why::Idle => self.config.idle_timeout.is_some() && !peer.is_well_behaved(),
            Why::ConnectFailed(ErrorKind::TimedOut) => peer.is_outgoing && record.connected == 0,
            Why::ConnectFailed(_) => state.connect == Connect::Refused,
            Why::Kicked(Kick::SlowConsumer) => {
                self.is_tight || !peer.reads() || state.broken == Some(ErrorKind::TimedOut)
            }
            Why::Kicked(Kick::PacketTimeout) => peer.kind == Kind::Stall,
            Why::Kicked(Kick::BadSize) => peer.kind == Kind::BadSize,
            Why::Kicked(Kick::TooLarge) => peer.kind == Kind::TooLarge,
            Why::Kicked(Kick::UnknownId) => peer.kind == Kind::UnknownId,
            Why::Kicked(Kick::BadPayload) => {
                matches!(
                    peer.kind,
                    Kind::BadPayload | Kind::BadFrame | Kind::BadRecord
                )
            }
            _ => false,
        };
        if !is_explained {
            offence("left for a reason that nothing in the run explains");
        }
        if let Some(close) = (peer.layers.as_ref()).and_then(|layers| layers.close.as_ref()) {
            let should_be = close_of(reason, peer.kind);
            if *close != should_be {
                offence(&format!("got {close:?} and not {should_be:?}"));
            }
        }
        let is_broken = reason == Why::Handshake && record.connected > 0;
        let arrives =
            reason.flushes() && state.broken.is_none() && peer.reads() && !peer.may_be_cut;
        // At a shutdown, the deadline may come before the peer has read.
        let arrives = arrives && self.flush_by.is_none();
        // A session that is evicted for the next peer gets one write, and no time to drain. Its last read may find a
        // broken record.
        let may_be_evicted = matches!(reason, Why::LoginTimeout | Why::Handshake) && self.evicts();
        let arrives = arrives && !may_be_evicted;
        if is_broken
            && arrives
            && let Some(layers) = &peer.layers
            && !layers.has_alert_alone()
        {
            offence("broke a record, and was told something else than that");
        }
        // A record may be broken after the session has ended, for whatever reason: nothing follows the alert.
        let arrives = arrives && !has_broken_record(peer);
        if arrives
            && record.connected > 0
            && let Some(layers) = &peer.layers
            && !layers.has_end()
        {
            offence(&format!(
                "was not told in band that the stream ends: {} bytes are not a record",
                layers.torn_bytes()
            ));
        }
        if arrives && record.connected > 0 && !seen.is_complete() {
            offence("lost the rest of a packet");
        }
        if arrives && record.connected > 0 {
            if reason.code().is_some() && !seen.has_bye {
                offence("got no close message");
            }
            // The server drops what a handler sends after it has closed its own session.
            if seen.echoes != record.echoes && reason != Why::Closed {
                offence("lost echoes");
            }
            let is_by_offence = matches!(reason, Why::Kicked(kick) if kick != Kick::PacketTimeout);
            if (is_by_offence || reason == Why::PeerClosed && peer.has_offended)
                && record.echoes != peer.echoes
            {
                offence(&format!("sent {} good packets first", peer.echoes));
            }
        }
        if seen.has_bye && reason.code().is_none() {
            offence("got a close message, but its reason has no code");
        }
        let mut verdict = (world.groups).check(id, &seen.casts, arrives && record.connected > 0);
        verdict.offences.append(&mut offences);
        verdict
    }
}

fn has_broken_record(peer: &PeerSide) -> bool {
    let is_sealed = (peer.layers.as_ref()).is_some_and(|layers| layers.layers.is_sealed);
    peer.kind == Kind::BadRecord && peer.has_offended && is_sealed
}

fn has_handshake(peer: &PeerSide) -> bool {
    (peer.layers.as_ref()).is_some_and(|layers| layers.layers.any())
}

/// The close code and the label that a peer gets.
fn close_of(reason: DisconnectReason, kind: Kind) -> (u16, String) {
    let code = match reason {
        DisconnectReason::PeerClosed => return (1000, String::new()),
        DisconnectReason::Closed => 1000,
        DisconnectReason::Shutdown => 1001,
        DisconnectReason::Kicked(Kick::BadPayload) if kind == Kind::BadFrame => 1002,
        DisconnectReason::Kicked(Kick::TooLarge) => 1009,
        DisconnectReason::HandlerPanicked => 1011,
        _ => 1008,
    };
    (code, reason.label().into())
}

/// The bytes of an output without the part of a header at its end. A translated header is sent when it is
/// complete.
fn without_torn_header(output: &[u8]) -> usize {
    let mut at = 0;
    while let Some(header) = output.get(at..at + 4) {
        let size = usize::from(u16::from_le_bytes([header[0], header[1]]));
        // A size below that of a header is no packet's: the bytes are broken, and all of them were sent.
        if size < 4 || at + size > output.len() {
            return output.len();
        }
        at += size;
    }
    at
}

fn sum_of_layers(peers: &[PeerSide], count: impl Fn(&PeerLayers) -> u64) -> u64 {
    let layers = peers.iter().filter_map(|peer| peer.layers.as_ref());
    layers.map(count).sum()
}
