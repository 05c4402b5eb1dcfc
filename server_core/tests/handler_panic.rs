//! A panic in the code of a game ends the session that it belongs to.

use crate::util::recorder::{C_PANIC, Echo, RecorderClient, builder, start};
use server_core::testing::{RawClient, wait_until};
use server_core::{Context, DisconnectReason, Kick, Packet, Session};
use std::time::Duration;

#[test]
fn panic_in_on_packet_ends_that_session_only() {
    let running = start(builder().workers(1));
    let (mut bad, bad_id) = running.connect();
    let (mut good, _) = running.connect();
    good.echo(b"before");
    bad.echo(b"answered before the panic");
    bad.send_packet(C_PANIC, b"");
    assert_eq!(
        running.next_departure(),
        (bad_id, DisconnectReason::HandlerPanicked)
    );
    bad.expect_eof();
    good.echo(b"after");
    let (mut next, _) = running.connect();
    next.echo(b"and the door is open");
    running.server.handle().shutdown(Duration::from_secs(1));
    drop((bad, good, next));
    running.server.join().unwrap();
}

/// A session that fails at the very last moment.
struct Fragile;

impl Session for Fragile {
    fn on_packet(&mut self, ctx: &mut Context<'_>, packet: Packet<'_>) -> Result<(), Kick> {
        ctx.send(&Echo, packet.payload());
        Ok(())
    }
}

impl Drop for Fragile {
    fn drop(&mut self) {
        // Silent for the hook: the panic is not the news here.
        std::panic::resume_unwind(Box::new("a bug in the destructor"));
    }
}

#[test]
fn panic_in_drop_ends_no_other_session() {
    let server = builder().workers(1).start("127.0.0.1:0", |_| Fragile);
    let server = server.unwrap();
    let connect = || RawClient::connect(server.local_addr());
    let (mut leaving, mut staying) = (connect(), connect());
    leaving.echo(b"one");
    staying.echo(b"two");
    drop(leaving);
    wait_until("one to have left", || {
        server.handle().metrics().totals().sessions == 1
    });
    staying.echo(b"and still there");
    server.handle().shutdown(Duration::from_secs(1));
    drop(staying);
    server.join().unwrap();
}
