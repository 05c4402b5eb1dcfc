//! A server on mio that takes an afternoon to write: one thread, and a slab of sessions, each with a queue of
//! vectors. A session is registered once, for both directions. The server clones every packet into each queue,
//! and calls `write` once for each packet, as soon as the packet is queued.

use bench::frames::Frames;
use bench::server::{ServerArgs, listen};
use bench::wire::{C_CHAT, C_ECHO, S_CHAT, S_ECHO, packet, tick_packets};
use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Token};
use server_core::tick::TickSchedule;
use slab::Slab;
use std::collections::VecDeque;
use std::io::{self, ErrorKind, Read, Write};
use std::time::{Duration, Instant};

struct Session {
    stream: TcpStream,
    frames: Frames,
    queue: VecDeque<Vec<u8>>,
    /// Number of bytes of the queue's front that are written.
    written: usize,
}

const LISTENER: Token = Token(usize::MAX);

fn main() -> io::Result<()> {
    let args = ServerArgs::from_command_line();
    if args.workers > 1 {
        return Err(io::Error::other("plain_mio has a single thread"));
    }
    let tail = args.hello_tail();
    let mut listener = TcpListener::from_std(listen(args.addr)?);
    let mut poll = Poll::new()?;
    poll.registry()
        .register(&mut listener, LISTENER, Interest::READABLE)?;
    let mut events = Events::with_capacity(1024);
    let mut sessions: Slab<Session> = Slab::new();
    let mut input = vec![0; 64 << 10];
    let period = args.tick_period();
    let mut schedule = period.map(|period| TickSchedule::new(Instant::now(), period));
    loop {
        let timeout = schedule.as_ref().map(|schedule| {
            let left = schedule.next_at().saturating_duration_since(Instant::now());
            // Rounded up to the next millisecond, the unit of the kernel's timeout.
            Duration::from_millis(left.as_micros().div_ceil(1000) as u64)
        });
        match poll.poll(&mut events, timeout) {
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            other => other?,
        }
        for event in &events {
            if event.token() == LISTENER {
                accept_all(&listener, &poll, &mut sessions)?;
                continue;
            }
            let key = event.token().0;
            let Some(session) = sessions.get_mut(key) else {
                continue;
            };
            let mut lives = !event.is_writable() || session.flush();
            let mut chats = Vec::new();
            if lives && event.is_readable() {
                lives = session.read(key, &mut input, &mut chats);
            }
            if !lives {
                sessions.remove(key);
            }
            for chat in chats {
                broadcast(&mut sessions, &chat);
            }
        }
        if let Some(tick) = schedule.as_mut().and_then(|all| all.poll(Instant::now())) {
            for packet in tick_packets(tick.number, &tail, args.packets_per_tick) {
                broadcast(&mut sessions, &packet);
            }
        }
    }
}

fn accept_all(listener: &TcpListener, poll: &Poll, sessions: &mut Slab<Session>) -> io::Result<()> {
    loop {
        let mut stream = match listener.accept() {
            Ok((stream, _)) => stream,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(error),
        };
        stream.set_nodelay(true)?;
        let entry = sessions.vacant_entry();
        let both = Interest::READABLE | Interest::WRITABLE;
        poll.registry()
            .register(&mut stream, Token(entry.key()), both)?;
        entry.insert(Session {
            stream,
            frames: Frames::default(),
            queue: VecDeque::new(),
            written: 0,
        });
    }
}

fn broadcast(sessions: &mut Slab<Session>, packet: &[u8]) {
    // `retain` removes the failed sessions: a removal inside a loop over the sessions is the lecture's bug.
    sessions.retain(|_, session| session.send(packet.to_vec()));
}

impl Session {
    /// Returns whether the session stays connected, as `flush` and `read` do.
    fn send(&mut self, packet: Vec<u8>) -> bool {
        self.queue.push_back(packet);
        // Behind other packets the packet waits until the socket is writable.
        self.queue.len() > 1 || self.flush()
    }

    fn flush(&mut self) -> bool {
        while let Some(front) = self.queue.front() {
            match self.stream.write(&front[self.written..]) {
                Ok(0) => return false,
                Ok(count) => self.written += count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return true,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => return false,
            }
            if self.written == front.len() {
                self.queue.pop_front();
                self.written = 0;
            }
        }
        true
    }

    /// Reads until the socket would block: the event is edge-triggered and comes once.
    fn read(&mut self, key: usize, input: &mut [u8], chats: &mut Vec<Vec<u8>>) -> bool {
        loop {
            let bytes = match self.stream.read(input) {
                Ok(0) => return false,
                Ok(count) => &input[..count],
                Err(error) if error.kind() == ErrorKind::WouldBlock => return true,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(_) => return false,
            };
            let mut echoes = Vec::new();
            let fed = self.frames.feed(bytes, |id, payload| match id {
                C_ECHO => echoes.push(packet(S_ECHO, &[], payload)),
                C_CHAT => chats.push(packet(S_CHAT, &(key as u64).to_le_bytes(), payload)),
                _ => {}
            });
            if fed.is_err() || !echoes.into_iter().all(|echo| self.send(echo)) {
                return false;
            }
        }
    }
}
