//! Tests of the posts of a callback to a worker whose mailbox is full.
#![allow(clippy::unwrap_used)] // In a test, a panic is the report.

mod util;

use server_core::buffer::{ChunkPool, SendBufferManager};
use server_core::routing::mailbox::Mailbox;
use server_core::routing::outbox;
use server_core::routing::router::{Command, Router};
use server_core::testing::FakeStream;
use server_core::{Config, Context, Kick, Packet, Peer, Server, ServerHandle, Session, SessionId};
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};
use util::chat::{SChat, STick, chat_bytes};

/// A callback posts through a handle, on the thread of a worker, to a worker that takes no mail.
#[test]
fn posts_of_a_callback_stay_within_the_mailbox_limit_and_in_order() {
    std::thread::spawn(|| {
        let config = Config::default();
        let mailboxes = [(); 2].map(|()| Mailbox::new(config.mailbox_bytes, || {}));
        let router = Arc::new(Router::<FakeStream>::new(mailboxes));
        let pool = ChunkPool::new(config.chunk_bytes, config.pooled_chunks);
        let buffers = SendBufferManager::new(pool);
        router.enter_worker_thread();
        let limit = config.mailbox_bytes / 16;
        let to = SessionId::new(1, 1, 0);
        for number in 0..2_000_u64 {
            let packet = buffers
                .encode(&STick(number.into()), &[b'x'; 1000])
                .unwrap();
            router.send(to, packet);
            let waiting = router.mailbox(1).queued_bytes();
            assert!(
                waiting <= limit,
                "a mailbox of {limit} bytes holds {waiting}"
            );
        }
        assert!(!outbox::is_empty());
        let (mut next, mut rounds) = (0_u64, 0);
        while next < 2_000 {
            router.mailbox(1).take_all(|command| {
                let Command::Send(_, packet) = command else {
                    panic!("{command:?}");
                };
                assert_eq!(packet[4..12], next.to_le_bytes());
                next += 1;
            });
            outbox::retry(|_| true);
            rounds += 1;
            assert!(rounds < 100, "{next} after {rounds} rounds");
        }
        assert!(outbox::is_empty());
    })
    .join()
    .unwrap();
}

/// The callbacks of two servers post to each other as fast as they can. Each server takes its mail whatever
/// waits in its outbox, so no server waits for the other without end.
#[test]
fn servers_that_relay_to_each_other_do_not_deadlock() {
    let relay = |to: Arc<OnceLock<ServerHandle>>| {
        move |_: Peer| Relay {
            to: Arc::clone(&to),
        }
    };
    let handles: [Arc<OnceLock<ServerHandle>>; 2] = Default::default();
    let start = |index: usize| {
        let factory = relay(Arc::clone(&handles[1 - index]));
        Server::builder()
            .workers(1)
            .start("127.0.0.1:0", factory)
            .unwrap()
    };
    let servers = [start(0), start(1)];
    for (server, slot) in servers.iter().zip(&handles) {
        slot.set(server.handle()).unwrap();
    }
    let stop = Arc::new(AtomicBool::new(false));
    let clients: Vec<_> = (servers.iter())
        .flat_map(|server| [server.local_addr(); 4])
        .map(|addr| {
            let stream = TcpStream::connect(addr).unwrap();
            let (mut reader, mut writer) = (stream.try_clone().unwrap(), stream);
            let stop = Arc::clone(&stop);
            let read = std::thread::spawn(move || {
                let mut memory = vec![0; 64 << 10];
                let mut total = 0_u64;
                while let Ok(count @ 1..) = reader.read(&mut memory) {
                    total += count as u64;
                }
                total
            });
            let write = std::thread::spawn(move || {
                let chats = chat_bytes().repeat(64);
                while !stop.load(Ordering::Relaxed) && writer.write_all(&chats).is_ok() {}
                let _ = writer.shutdown(Shutdown::Write);
            });
            (read, write)
        })
        .collect();
    // Both servers make progress: each sends at least 200 packets in each of five rounds.
    let mut sent = [0; 2];
    for round in 0..5 {
        let deadline = Instant::now() + Duration::from_secs(20);
        for (server, sent) in servers.iter().zip(&mut sent) {
            loop {
                let now = server.handle().metrics().totals().packets_sent;
                if now >= *sent + 200 {
                    *sent = now;
                    break;
                }
                assert!(
                    Instant::now() < deadline,
                    "round {round}: the count does not rise above {now}"
                );
                std::thread::sleep(Duration::from_millis(5));
            }
        }
    }
    stop.store(true, Ordering::Relaxed);
    for server in servers {
        server.handle().shutdown(Duration::from_secs(1));
        server.join().unwrap();
    }
    for (read, write) in clients {
        assert!(read.join().unwrap() > 0);
        write.join().unwrap();
    }
}

/// A session that relays chat to all sessions of another server.
struct Relay {
    to: Arc<OnceLock<ServerHandle>>,
}

impl Session for Relay {
    fn on_packet(&mut self, _: &mut Context<'_>, packet: Packet<'_>) -> Result<(), Kick> {
        if let Some(to) = self.to.get() {
            to.broadcast(&SChat([]), packet.payload());
        }
        Ok(())
    }
}
