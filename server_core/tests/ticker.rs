//! A tick loop and the server that it belongs to.

use server_core::{Context, Kick, Packet, Server, Session, Ticker};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

struct Nobody;
impl Session for Nobody {
    fn on_packet(&mut self, _: &mut Context<'_>, _: Packet<'_>) -> Result<(), Kick> {
        Ok(())
    }
}

#[test]
fn ticker_ends_with_its_server_however_long_its_period() {
    let builder = Server::builder().workers(1);
    let server = builder.start("127.0.0.1:0", |_peer| Nobody).unwrap();
    let ticker = Ticker::new(Duration::from_secs(100_000)).for_server(&server.handle());
    let metrics = ticker.metrics();
    let (tell, told) = mpsc::channel();
    thread::spawn(move || {
        ticker.run(|_| ());
        tell.send(()).unwrap();
    });
    assert!(
        told.recv_timeout(Duration::from_millis(300)).is_err(),
        "the server runs"
    );
    server.handle().shutdown(Duration::ZERO);
    told.recv_timeout(Duration::from_secs(30)).unwrap();
    assert_eq!(metrics.ticks.get(), 0);
    server.join().unwrap();
}
