//! Limits on how many sessions there are, and the time for a login.

use crate::util::recorder::{C_ECHO, Echo, RecorderClient, builder, start};
use server_core::testing::{DEADLINE, RawClient, RawPacket};
use server_core::{
    Config, Context, DisconnectReason, Kick, Packet, Server, ServerBuilder, Session,
};
use std::io::Write;
use std::net::TcpStream;
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

#[test]
fn max_sessions_reached_refuses_with_server_full_and_counts_as_rejected() {
    let running = start(builder().max_sessions(Some(1)));
    let (mut first, _) = running.connect();
    let mut second = RawClient::connect(running.server.local_addr());
    assert_eq!(second.next_packet(), RawPacket::new(6, [9, 0]));
    second.expect_eof();
    first.echo(b"not my concern");
    let totals = running.server.handle().metrics().totals();
    assert_eq!((totals.accepted, totals.rejected), (1, 1));
    assert_eq!(totals.disconnects.iter().sum::<u64>(), 0);
}

/// Admits itself at a `C_LOGIN`, and answers each packet with whether the session is admitted.
struct Guarded {
    ends: Sender<DisconnectReason>,
}

const C_LOGIN: u16 = 24;

impl Session for Guarded {
    fn requires_login(&self) -> bool {
        true
    }

    fn on_packet(&mut self, ctx: &mut Context<'_>, packet: Packet<'_>) -> Result<(), Kick> {
        if packet.id() == C_LOGIN {
            ctx.admit();
        }
        ctx.send(&Echo, [ctx.is_admitted().into()]);
        Ok(())
    }

    fn on_disconnected(&mut self, _: &mut Context<'_>, reason: DisconnectReason) {
        let _ = self.ends.send(reason);
    }
}

fn start_guarded(builder: ServerBuilder) -> (Server, Receiver<DisconnectReason>) {
    let (sender, ends) = channel();
    let sender = Mutex::new(sender);
    let factory = move |_| Guarded {
        ends: sender.lock().unwrap().clone(),
    };
    (builder.start("127.0.0.1:0", factory).unwrap(), ends)
}

#[test]
fn session_admitted_in_time_stays_and_others_get_login_timeout() {
    let timeout = Duration::from_secs(3);
    let (server, ends) = start_guarded(builder().login_timeout(Some(timeout)));
    let connect = || RawClient::connect(server.local_addr());
    let began = Instant::now();
    let (mut admitted, mut talker, mut silent) = (connect(), connect(), connect());
    for (id, is_admitted) in [(C_ECHO, 0), (C_LOGIN, 1), (C_ECHO, 1)] {
        admitted.send_packet(id, b"");
        assert_eq!(admitted.next_packet(), RawPacket::new(3, [is_admitted]));
    }
    talker.send_packet(C_ECHO, b"no login");
    assert_eq!(talker.next_packet(), RawPacket::new(3, [0]));
    for client in [&mut talker, &mut silent] {
        assert_eq!(client.next_packet(), RawPacket::new(6, [12, 0]));
        client.expect_eof();
    }
    assert!(began.elapsed() >= timeout);
    for _ in 0..2 {
        let end = ends.recv_timeout(DEADLINE).unwrap();
        assert_eq!(end, DisconnectReason::LoginTimeout);
    }
    admitted.send_packet(C_ECHO, b"");
    assert_eq!(admitted.next_packet(), RawPacket::new(3, [1]));
}

/// The client always has more to read, and no packet of it is a login.
#[test]
fn packets_without_a_login_do_not_delay_login_timeout() {
    let mut config = Config::default();
    config.read_budget_bytes = 64;
    config.login_timeout = Some(Duration::from_millis(300));
    let (server, ends) = start_guarded(builder().config(config));
    let stream = TcpStream::connect(server.local_addr()).unwrap();
    let mut reader = stream.try_clone().unwrap();
    let mut writer = stream;
    let reads = thread::spawn(move || std::io::copy(&mut reader, &mut std::io::sink()));
    let packets = [4, 0, C_ECHO as u8, 0].repeat(1000);
    let writes = thread::spawn(move || while writer.write_all(&packets).is_ok() {});
    let end = ends.recv_timeout(DEADLINE).unwrap();
    assert_eq!(end, DisconnectReason::LoginTimeout);
    writes.join().unwrap();
    let _ = reads.join().unwrap();
}
