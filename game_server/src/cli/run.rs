//! A run of the server: the game within [`App`].

use super::args::Args;
use game_server::GameSession;
use game_server::chat_budget::ChatBudget;
use game_server::game::stats;
use game_server::game::tick::TickLoop;
#[cfg(feature = "cluster")]
use game_server::game::world::World;
use game_server::packets::{CHAT_FLOOD, PACKETS, SBye};
#[cfg(all(feature = "cluster", feature = "tls"))]
use server_core::TlsClientConfig;
use server_core::app::App;
#[cfg(feature = "cluster")]
use server_core::cluster::{Cluster, ClusterBuilder};
#[cfg(feature = "cluster")]
use server_core::host;
use server_core::{Peer, Server, TickMetrics};
#[cfg(feature = "cluster")]
use std::io;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

/// Runs until a signal arrives, or checks the machine. Returns the exit status.
pub fn run(args: &Args) -> ExitCode {
    let (max_chats_per_sec, requires_login) = (args.max_chats_per_sec(), args.requires_login());
    let chats_of_address = args
        .max_chats_per_ip_per_sec()
        .map(ChatBudget::new)
        .map(Arc::new);
    let ticks = Arc::new(TickMetrics::default());
    #[allow(unused_mut, reason = "without the feature `cluster`")]
    let mut registry = stats::registry(chats_of_address.clone());
    let builder = Server::builder()
        .custom_labels([CHAT_FLOOD.label()])
        .packets(PACKETS)
        .close_message_with_text(SBye::close_message);
    #[cfg(feature = "cluster")]
    let cluster = match args.cluster.as_deref().map(|url| cluster(args, url)) {
        // Before the server listens.
        Some(Err(error)) => {
            host::print_error("game_server", &error);
            // Of the URL. A file that is missing is a failure of the start.
            let is_bad_usage = error.kind() == io::ErrorKind::InvalidInput;
            let status = if is_bad_usage {
                host::exit::USAGE
            } else {
                host::exit::FAILURE
            };
            return status.into();
        }
        Some(Ok(builder)) => Some(builder),
        None => None,
    };
    #[cfg(feature = "cluster")]
    let world = args.cluster.as_ref().map(|_| World::new(args.login));
    #[cfg(feature = "cluster")]
    if let Some(world) = &world {
        world.register(&mut registry);
    }
    let app = App::new("game_server", args.app.clone())
        .server(builder)
        .requires_login(true) // By --login-timeout-ms, with and without --login.
        .tick_period(Duration::from_millis(args.tick_ms))
        .admin({
            let ticks = Arc::clone(&ticks);
            |admin| admin.tick_metrics(ticks).registry(registry)
        });
    #[cfg(feature = "cluster")]
    let app = match (world.clone(), cluster) {
        (Some(world), Some(builder)) => {
            let node = args.node.clone();
            let of_admin = Arc::clone(&world);
            let app = app.admin(move |admin| admin.cluster(move || of_admin.cluster()));
            app.on_start(move |server| {
                let cluster = builder.start(server).map_err(|error| error.to_string())?;
                log::info!(
                    "node {node} of the cluster, number {}",
                    cluster.id().to_u32()
                );
                world.enter(cluster);
                Ok(())
            })
        }
        _ => app,
    };
    let session = {
        #[cfg(feature = "cluster")]
        let world = world.clone();
        move |_: Peer| {
            let session = GameSession::new(max_chats_per_sec)
                .with_chats_of_address(chats_of_address.clone())
                .with_login(requires_login);
            #[cfg(feature = "cluster")]
            let session = session.in_world(world.clone());
            session
        }
    };
    let ended = app.run(session, |server| {
        let (period, interval) = (args.tick_period(), args.stats_interval_secs);
        TickLoop::new(period, args.hello_tail(), interval, ticks).run(server);
    });
    #[cfg(feature = "cluster")]
    if let Some(world) = &world {
        world.leave();
    }
    ended
}

/// The cluster of the flags.
#[cfg(feature = "cluster")]
fn cluster(args: &Args, url: &str) -> io::Result<ClusterBuilder> {
    let builder = Cluster::builder(url).node(args.node.as_str());
    #[cfg(feature = "tls")]
    let builder = match &args.cluster_ca {
        Some(file) => builder.tls(TlsClientConfig::with_ca_file(file)?),
        None => builder,
    };
    builder.check()?;
    Ok(builder)
}
