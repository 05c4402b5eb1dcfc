//! The times of `Config`.

use crate::util::recorder::{RecorderClient, builder, start};
use server_core::Config;
use server_core::testing::{RawClient, RawPacket};
use std::time::Duration;

#[test]
fn longest_duration_in_every_time_of_config_works() {
    let endless = Some(Duration::MAX);
    let mut config = Config::default();
    config.workers = 1;
    config.max_sessions = Some(1);
    config.max_send_lag = endless;
    config.packet_timeout = endless;
    config.idle_timeout = endless;
    config.unacknowledged_timeout = endless;
    config.connect_timeout = endless;
    config.flush_timeout = Duration::MAX;
    config.linger = Duration::MAX;
    config.read_pause = Duration::MAX;
    let running = start(builder().config(config));
    let (mut first, id) = running.connect();
    let mut rejected = RawClient::connect(running.server.local_addr());
    assert_eq!(rejected.next_packet(), RawPacket::new(6, [9, 0]));
    first.echo(b"all is well");
    first.send(&[8]); // A packet that is begun has a deadline, too.
    running.server.handle().close(id);
    first.expect_eof();
    running.server.handle().shutdown(Duration::MAX);
    drop((first, rejected));
    running.server.join().unwrap();
}
