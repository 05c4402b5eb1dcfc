//! Statistics of all sessions, for another thread. Knows no socket and no worker.

use crate::base::id::SessionId;
use crossbeam_channel::{Receiver, Sender, TryRecvError};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

/// Statistics of one session at the end of a turn of its worker.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SessionInfo {
    /// Session id.
    pub id: SessionId,
    /// Address of the peer.
    pub addr: SocketAddr,
    /// Instant at which it connected.
    pub opened_at: Instant,
    /// Complete packets received from the peer.
    pub packets_received: u64,
    /// Packets whose last byte the socket took.
    pub packets_sent: u64,
    /// Bytes in its send queue.
    pub queued_bytes: usize,
    /// Instant at which the oldest of these bytes was queued, if it was queued in an earlier turn. May be
    /// early by a sixteenth of its age.
    pub oldest_unsent_at: Option<Instant>,
}

/// The answers of all workers.
#[derive(Debug)]
pub struct Snapshot {
    answers: Receiver<Vec<SessionInfo>>,
    missing: usize,
    sessions: Vec<SessionInfo>,
}

/// The request to one worker.
#[cfg_attr(doc, doc(hidden))]
#[derive(Debug)]
pub struct SnapshotRequest {
    /// No next snapshot begins until every worker has answered its request, or dropped it. Dropped before the sender: a
    /// thread that has all answers, or misses one for good, may begin the next snapshot.
    in_progress: Arc<InProgress>,
    answers: Sender<Vec<SessionInfo>>,
}

/// Permits one snapshot at a time, which bounds the requests to the workers however often a thread
/// asks.
#[cfg_attr(doc, doc(hidden))]
#[derive(Debug, Default)]
pub struct SnapshotGate {
    is_taken: Arc<AtomicBool>,
}

#[derive(Debug)]
/// Frees the gate when the last request is dropped.
struct InProgress(Arc<AtomicBool>);

/// A worker has ended without an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WorkerGone;

impl SnapshotGate {
    /// Begins a snapshot. Returns a request for each worker, and the [`Snapshot`] that collects the
    /// answers. `None` while an earlier snapshot is
    /// not complete.
    #[must_use]
    pub fn begin(&self, workers: usize) -> Option<(Vec<SnapshotRequest>, Snapshot)> {
        if self.is_taken.swap(true, Ordering::AcqRel) {
            return None;
        }
        let in_progress = Arc::new(InProgress(Arc::clone(&self.is_taken)));
        let (sender, receiver) = crossbeam_channel::bounded(workers);
        let request = || SnapshotRequest {
            in_progress: Arc::clone(&in_progress),
            answers: sender.clone(),
        };
        let requests = (0..workers).map(|_| request()).collect();
        let snapshot = Snapshot {
            answers: receiver,
            missing: workers,
            sessions: Vec::new(),
        };
        Some((requests, snapshot))
    }
}

impl Snapshot {
    /// All sessions after the answer of the last worker, `None` before. Never waits.
    ///
    /// # Errors
    /// [`WorkerGone`] if the server has ended.
    pub fn poll(&mut self) -> Result<Option<Vec<SessionInfo>>, WorkerGone> {
        while self.missing > 0 {
            match self.answers.try_recv() {
                Ok(mut sessions) => {
                    self.missing -= 1;
                    self.sessions.append(&mut sessions);
                }
                Err(TryRecvError::Empty) => return Ok(None),
                Err(TryRecvError::Disconnected) => return Err(WorkerGone),
            }
        }
        Ok(Some(std::mem::take(&mut self.sessions)))
    }
}

impl SnapshotRequest {
    /// Answers. Never waits: the channel has room for the answer of each worker.
    pub fn answer(self, sessions: Vec<SessionInfo>) {
        drop(self.in_progress);
        // The asking thread may have dropped its `Snapshot`.
        let _ = self.answers.try_send(sessions);
    }
}

impl Drop for InProgress {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

impl std::fmt::Display for WorkerGone {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a worker has ended")
    }
}

impl std::error::Error for WorkerGone {}

#[cfg(test)]
mod tests {
    use super::*;

    fn session(slot: u32) -> SessionInfo {
        SessionInfo {
            id: SessionId::new(1, 0, slot),
            addr: SocketAddr::from(([127, 0, 0, 1], 7)),
            opened_at: Instant::now(),
            packets_received: 0,
            packets_sent: 0,
            queued_bytes: 0,
            oldest_unsent_at: None,
        }
    }

    #[test]
    fn complete_when_all_have_answered() {
        let gate = SnapshotGate::default();
        let (mut requests, mut snapshot) = gate.begin(2).unwrap();
        assert!(snapshot.poll().unwrap().is_none());
        requests.pop().unwrap().answer(vec![session(1), session(2)]);
        assert!(snapshot.poll().unwrap().is_none());
        requests.pop().unwrap().answer(vec![session(3)]);
        assert_eq!(snapshot.poll().unwrap().unwrap().len(), 3);
    }

    #[test]
    fn one_at_a_time_even_if_the_snapshot_is_dropped() {
        let gate = SnapshotGate::default();
        let (requests, snapshot) = gate.begin(2).unwrap();
        drop(snapshot);
        assert!(gate.begin(2).is_none(), "the workers have not answered yet");
        for request in requests {
            request.answer(Vec::new());
        }
        assert!(gate.begin(2).is_some());
    }

    #[test]
    fn the_next_one_can_begin_as_soon_as_the_last_answer_is_there() {
        let gate = SnapshotGate::default();
        let (sender, orders) = crossbeam_channel::unbounded::<SnapshotRequest>();
        let worker = std::thread::spawn(move || {
            for request in orders {
                request.answer(Vec::new());
            }
        });
        for round in 0..20_000 {
            let begun = gate.begin(1);
            let (requests, mut snapshot) = begun.unwrap_or_else(|| panic!("round {round}"));
            for request in requests {
                sender.send(request).unwrap();
            }
            while snapshot.poll().unwrap().is_none() {
                std::hint::spin_loop();
            }
        }
        drop(sender);
        worker.join().unwrap();
    }

    #[test]
    fn a_worker_that_ends_leaves_no_snapshot_waiting() {
        let gate = SnapshotGate::default();
        let (mut requests, mut snapshot) = gate.begin(2).unwrap();
        requests.pop().unwrap().answer(Vec::new());
        drop(requests);
        assert_eq!(snapshot.poll().err(), Some(WorkerGone));
        assert!(gate.begin(2).is_some());
    }
}
