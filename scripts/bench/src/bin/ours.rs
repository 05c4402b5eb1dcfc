//! `server_core` with the session and the loop of `game_server`, and with more than one packet a tick.
//! `game_server` itself has no flag for the number of packets.

use bench::server::ServerArgs;
use bench::wire::NOBODY;
use game_server::GameSession;
use game_server::packets::{SChat, SHello};
use server_core::Server;
use server_core::tick::TickSchedule;
use std::io;
use std::thread;
use std::time::{Duration, Instant};

fn main() -> io::Result<()> {
    let args = ServerArgs::from_command_line();
    let server = Server::builder()
        .workers(args.workers)
        .start(args.addr, |_peer| GameSession::new(None))?;
    log::info!("listening on {}", server.local_addr());
    let handle = server.handle();
    let tail = args.hello_tail();
    let chat = SChat {
        sender: NOBODY.into(),
    };
    let Some(period) = args.tick_period() else {
        return server.join();
    };
    let mut schedule = TickSchedule::new(Instant::now(), period);
    while !handle.is_shutting_down() {
        thread::sleep(
            schedule
                .next_at()
                .saturating_duration_since(Instant::now())
                .min(Duration::from_secs(1)),
        );
        let now = Instant::now();
        if let Some(tick) = schedule.poll(now) {
            handle.broadcast_measured(now, &SHello::new(tick.number), &tail);
            for _ in 1..args.packets_per_tick {
                handle.broadcast(&chat, &tail);
            }
        }
    }
    server.join()
}
