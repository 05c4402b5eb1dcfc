//! The queue between the threads that log and the thread that writes.

use std::io::Write;
use std::mem;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Records on their way to a reader that may be slow. A full queue drops records and counts them.
#[derive(Debug, Default)]
pub(super) struct LogQueue {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// Whole lines, in the order of the records.
    lines: Vec<u8>,
    /// Records that found no room behind `lines`.
    dropped: u64,
    /// Bytes that were ever queued, and those that are written.
    queued_bytes: u64,
    written_bytes: u64,
    /// A flush has waited in vain since the last write.
    is_stalled: bool,
    is_closed: bool,
}

impl LogQueue {
    /// The most bytes that wait, about 10,000 lines. As many may be with the writer.
    pub const MAX_BYTES: usize = 1 << 20;

    /// Queues a record, or drops and counts it. Never waits for the writer.
    pub fn push(&self, record: &[u8]) {
        let mut state = self.lock();
        // Behind a dropped record, a shorter one is dropped too: the line about them has one place.
        if state.dropped > 0 || state.lines.len() + record.len() > Self::MAX_BYTES {
            state.dropped += 1;
        } else {
            state.push(record);
        }
        self.changed.notify_all();
    }

    /// Queues a record, however long the queue is: for the last words of a program.
    pub fn push_always(&self, record: &[u8]) {
        self.lock().push(record);
        self.changed.notify_all();
    }

    /// Waits until all records that are queued are written, `timeout` at most. Waits no second time for a writer that
    /// has written nothing since.
    pub fn flush(&self, timeout: Duration) {
        let state = self.lock();
        let target = state.queued_bytes;
        let is_waiting = |state: &mut State| state.written_bytes < target && !state.is_stalled;
        let waited = (self.changed).wait_timeout_while(state, timeout, is_waiting);
        let (mut state, result) = waited.unwrap_or_else(PoisonError::into_inner);
        state.is_stalled |= result.timed_out();
    }

    /// Ends [`write_to`](Self::write_to).
    pub fn close(&self) {
        self.lock().is_closed = true;
        self.changed.notify_all();
    }

    /// Writes each line until the queue is closed, and has `write_dropped` write the number of records that were
    /// dropped. A writer that fails loses the line.
    pub fn write_to(&self, mut writer: impl Write, write_dropped: impl Fn(u64)) {
        let mut lines = Vec::new();
        loop {
            let is_idle = |state: &mut State| {
                state.lines.is_empty() && state.dropped == 0 && !state.is_closed
            };
            let state = self.changed.wait_while(self.lock(), is_idle);
            let mut state = state.unwrap_or_else(PoisonError::into_inner);
            if state.is_closed {
                return;
            }
            mem::swap(&mut state.lines, &mut lines);
            let dropped = mem::take(&mut state.dropped);
            drop(state);
            // A pipe takes a short line at once or not at all: the end of the process leaves whole lines.
            for line in lines.split_inclusive(|byte| *byte == b'\n') {
                let _ = writer.write_all(line).and_then(|()| writer.flush());
            }
            if dropped > 0 {
                write_dropped(dropped);
            }
            let mut state = self.lock();
            state.written_bytes += lines.len() as u64;
            state.is_stalled = false;
            self.changed.notify_all();
            lines.clear();
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn push(&mut self, record: &[u8]) {
        self.lines.extend_from_slice(record);
        self.queued_bytes += record.len() as u64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{self, BufRead, BufReader, PipeReader};
    use std::sync::Arc;
    use std::thread::{self, JoinHandle};

    const DEADLINE: Duration = Duration::from_secs(60);

    /// A queue whose thread writes to a pipe, and the pipe.
    struct Rig {
        queue: Arc<LogQueue>,
        writing: JoinHandle<()>,
        pipe: BufReader<PipeReader>,
    }

    impl Rig {
        fn start(queue: LogQueue) -> Self {
            let (pipe, writer) = io::pipe().unwrap();
            let queue = Arc::new(queue);
            let (of_thread, lines) = (Arc::clone(&queue), writer.try_clone().unwrap());
            let writing = thread::spawn(move || {
                of_thread.write_to(lines, |dropped| {
                    writeln!(&writer, "{dropped} dropped").unwrap();
                });
            });
            let pipe = BufReader::new(pipe);
            Self {
                queue,
                writing,
                pipe,
            }
        }

        fn next_line(&mut self) -> String {
            let mut line = String::new();
            self.pipe.read_line(&mut line).unwrap();
            line
        }

        fn end(self) {
            self.queue.close();
            self.writing.join().unwrap();
        }
    }

    fn queue_of(records: u64) -> LogQueue {
        let queue = LogQueue::default();
        (0..records).for_each(|number| queue.push(record(number).as_bytes()));
        queue
    }

    fn record(number: u64) -> String {
        format!("record {number:0100}\n")
    }

    /// The pipe is read when all records are pushed: a push that waits for the reader waits for ever.
    #[test]
    fn a_reader_that_stops_costs_records_and_stops_no_push() {
        const RECORDS: u64 = 100_000;
        let mut rig = Rig::start(LogQueue::default());
        (0..RECORDS).for_each(|number| rig.queue.push(record(number).as_bytes()));
        let (mut kept, mut dropped) = (0, 0);
        while kept + dropped < RECORDS {
            let line = rig.next_line();
            if let Some(count) = line.strip_suffix(" dropped\n") {
                dropped += count.parse::<u64>().unwrap();
            } else {
                assert_eq!(line, record(kept + dropped), "the order, and the place");
                kept += 1;
            }
        }
        // One queue waits, and as much is with the writer.
        let max_kept = 3 * LogQueue::MAX_BYTES / record(0).len();
        assert!(
            dropped > 0 && kept > 0 && kept < max_kept as u64,
            "{kept} records were kept"
        );
        rig.queue.push(b"after\n");
        assert_eq!(rig.next_line(), "after\n");
        rig.end();
    }

    #[test]
    fn a_flush_waits_for_the_writer_until_its_timeout() {
        // More than a pipe holds.
        let mut rig = Rig::start(queue_of(5_000));
        rig.queue.flush(Duration::from_millis(1));
        assert!(rig.queue.lock().is_stalled);
        // A second flush would wait for ever.
        rig.queue.flush(Duration::MAX);
        rig.queue.push_always(b"the last words\n");
        while rig.next_line() != "the last words\n" {}
        rig.queue.flush(DEADLINE);
        let state = rig.queue.lock();
        assert_eq!(state.written_bytes, state.queued_bytes);
        drop(state);
        rig.end();
    }

    #[test]
    fn the_last_words_of_a_program_find_room_in_a_full_queue() {
        // More than the queue holds.
        let queue = queue_of(100_000);
        queue.push_always(b"the last words\n");
        let mut rig = Rig::start(queue);
        while rig.next_line() != "the last words\n" {}
        assert!(rig.next_line().ends_with(" dropped\n"));
        rig.end();
    }
}
