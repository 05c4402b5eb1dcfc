//! The limit of a server on readiness events: the system calls alone.
//!
//! Each worker has an `epoll` of its own, level-triggered, for input alone. The worker calls one
//! non-blocking `send` for each packet and session, at once. A session has no queue: the worker drops a session
//! whose socket does not accept a whole packet. The worker calls one `recv` for each readiness event. The
//! registration with `epoll` costs nothing when the server writes to a socket: its callbacks run for input.

use bench::frames::Frames;
use bench::server::{ServerArgs, listen};
use bench::wire::{C_CHAT, C_ECHO, S_CHAT, S_ECHO, append_packet, packet, tick_packets};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::eventfd::EventFd;
use server_core::tick::TickSchedule;
use slab::Slab;
use std::io::{self, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// A message from another thread to a worker.
enum Mail {
    Session(TcpStream),
    Chat(Arc<Vec<u8>>),
}

struct Mailbox {
    mail: Mutex<Vec<Mail>>,
    wake: EventFd,
}

struct Worker {
    index: usize,
    mailboxes: Arc<Vec<Mailbox>>,
    epoll: Epoll,
    sessions: Slab<Session>,
    /// The keys of sessions that did not accept a whole packet, or have left.
    gone: Vec<usize>,
}

struct Session {
    stream: TcpStream,
    frames: Frames,
}

const WAKE: u64 = u64::MAX;

fn main() -> io::Result<()> {
    let args = ServerArgs::from_command_line();
    let mailboxes: Arc<Vec<Mailbox>> = Arc::new(
        (0..args.workers)
            .map(|_| {
                Ok(Mailbox {
                    mail: Mutex::new(Vec::new()),
                    wake: EventFd::new()?,
                })
            })
            .collect::<io::Result<_>>()?,
    );
    let start = Instant::now();
    for index in 0..args.workers {
        let (args, mailboxes) = (args.clone(), Arc::clone(&mailboxes));
        thread::spawn(move || {
            let outcome = Worker::new(index, mailboxes).and_then(|worker| worker.run(&args, start));
            log::error!("a worker has ended: {outcome:?}");
            std::process::exit(1);
        });
    }
    let listener = listen(args.addr)?;
    listener.set_nonblocking(false)?;
    for mailbox in mailboxes.iter().cycle() {
        let (stream, _) = listener.accept()?;
        stream.set_nonblocking(true)?;
        stream.set_nodelay(true)?;
        mailbox.post(Mail::Session(stream))?;
    }
    Ok(())
}

impl Mailbox {
    fn post(&self, mail: Mail) -> io::Result<()> {
        self.lock().push(mail);
        self.wake.write(1)?;
        Ok(())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Mail>> {
        self.mail.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Worker {
    fn new(index: usize, mailboxes: Arc<Vec<Mailbox>>) -> io::Result<Self> {
        let epoll = Epoll::new(EpollCreateFlags::empty())?;
        let wake = EpollEvent::new(EpollFlags::EPOLLIN, WAKE);
        epoll.add(&mailboxes[index].wake, wake)?;
        Ok(Self {
            index,
            mailboxes,
            epoll,
            sessions: Slab::new(),
            gone: Vec::new(),
        })
    }

    fn run(mut self, args: &ServerArgs, start: Instant) -> io::Result<()> {
        let tail = args.hello_tail();
        let period = args.tick_period();
        let mut schedule = period.map(|period| TickSchedule::new(start, period));
        let mut events = vec![EpollEvent::empty(); 1024];
        let mut input = vec![0; 64 << 10];
        loop {
            let next_at = schedule.as_ref().map(TickSchedule::next_at);
            let count = match self.epoll.wait(&mut events, timeout_until(next_at)) {
                Err(nix::errno::Errno::EINTR) => 0,
                other => other?,
            };
            for event in &events[..count] {
                match event.data() {
                    WAKE => self.take_mail()?,
                    key => self.read(key as usize, &mut input)?,
                }
            }
            if let Some(tick) = schedule.as_mut().and_then(|all| all.poll(Instant::now())) {
                let packets = tick_packets(tick.number, &tail, args.packets_per_tick);
                packets.iter().for_each(|packet| self.send_to_all(packet));
            }
            for key in self.gone.drain(..) {
                // The close of a socket removes the socket from the epoll.
                self.sessions.try_remove(key);
            }
        }
    }

    fn take_mail(&mut self) -> io::Result<()> {
        let mailboxes = Arc::clone(&self.mailboxes);
        let mailbox = &mailboxes[self.index];
        mailbox.wake.read()?;
        let mail = std::mem::take(&mut *mailbox.lock());
        for mail in mail {
            match mail {
                Mail::Chat(chat) => self.send_to_all(&chat),
                Mail::Session(stream) => {
                    let entry = self.sessions.vacant_entry();
                    let event = EpollEvent::new(EpollFlags::EPOLLIN, entry.key() as u64);
                    self.epoll.add(&stream, event)?;
                    entry.insert(Session {
                        stream,
                        frames: Frames::default(),
                    });
                }
            }
        }
        Ok(())
    }

    fn read(&mut self, key: usize, input: &mut [u8]) -> io::Result<()> {
        let Some(session) = self.sessions.get_mut(key) else {
            return Ok(());
        };
        let bytes = match session.stream.read(input) {
            Ok(count @ 1..) => &input[..count],
            Err(error) if would_block(&error) => return Ok(()),
            _ => {
                self.gone.push(key);
                return Ok(());
            }
        };
        let (mut echoes, mut chats) = (Vec::new(), Vec::new());
        let fed = session.frames.feed(bytes, |id, payload| match id {
            C_ECHO => append_packet(&mut echoes, S_ECHO, &[], payload),
            C_CHAT => chats.push(packet(S_CHAT, &(key as u64).to_le_bytes(), payload)),
            _ => {}
        });
        let is_sent = echoes.is_empty() || send(&session.stream, &echoes);
        if fed.is_err() || !is_sent {
            self.gone.push(key);
        }
        for chat in chats {
            self.send_to_all(&chat);
            let chat = Arc::new(chat);
            let others = self.mailboxes.iter().enumerate();
            for (_, other) in others.filter(|(index, _)| *index != self.index) {
                other.post(Mail::Chat(Arc::clone(&chat)))?;
            }
        }
        Ok(())
    }

    fn send_to_all(&mut self, packet: &[u8]) {
        for (key, session) in &self.sessions {
            if !send(&session.stream, packet) {
                self.gone.push(key);
            }
        }
    }
}

/// Returns whether the socket accepted all bytes. `TcpStream::write` calls `send`.
fn send(mut stream: &TcpStream, bytes: &[u8]) -> bool {
    matches!(stream.write(bytes), Ok(count) if count == bytes.len())
}

fn would_block(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted)
}

/// The timeout is rounded up: with a timeout rounded down, the loop would spin through the last millisecond.
fn timeout_until(at: Option<Instant>) -> EpollTimeout {
    let Some(at) = at else {
        return EpollTimeout::NONE;
    };
    let left = at.saturating_duration_since(Instant::now());
    let millis = left.as_micros().div_ceil(1000).min(60_000);
    EpollTimeout::try_from(Duration::from_millis(millis as u64)).unwrap_or(EpollTimeout::ZERO)
}
