//! A run of the server: start, tick loop, end.

use super::args::Args;
use super::ban_file::BanFile;
use super::check;
use game_server::GameSession;
use game_server::chat_budget::ChatBudget;
use game_server::game::stats;
use game_server::game::tick::TickLoop;
#[cfg(feature = "cluster")]
use game_server::game::world::World;
use game_server::packets::{CHAT_FLOOD, SBye};
#[cfg(any(feature = "tls", feature = "websocket"))]
use server_core::ListenerKind;
#[cfg(feature = "websocket")]
use server_core::WebSocketServerConfig;
use server_core::admin::Admin;
#[cfg(feature = "cluster")]
use server_core::cluster::Cluster;
use server_core::host::{self, signals};
use server_core::{Config, Server, TickMetrics};
use std::io;
use std::sync::Arc;

/// Runs until a signal arrives.
///
/// # Errors
/// The start fails, or the server ends by itself. The message is one line for the user.
pub fn run(args: &Args) -> Result<(), String> {
    let fd_limit = host::raise_fd_limit();
    let tick_thread = std::thread::current();
    let in_words = |error: io::Error| error.to_string();
    let (sender, signals) = crossbeam_channel::bounded(1);
    let stop = move |signal| {
        // Without a receiver the process is about to end.
        let _ = sender.send(signal);
        tick_thread.unpark();
    };
    let mut reloads: Vec<Box<dyn Fn() + Send>> = Vec::new();
    if let Some(file) = args.ban_file.clone() {
        reloads.push(Box::new(move || file.reload()));
    }
    #[cfg(feature = "tls")]
    let tls = args.tls().map_err(in_words)?;
    #[cfg(feature = "tls")]
    if let Some(tls) = tls.clone() {
        reloads.push(Box::new(move || match tls.reload() {
            Ok(()) => log::info!("SIGHUP: certificate and key read again"),
            Err(error) => log::error!("SIGHUP: certificate and key stay as they are: {error}"),
        }));
    }
    let hangup = move || {
        if reloads.is_empty() {
            log::info!("SIGHUP ignored: there is nothing to reload");
        }
        reloads.iter().for_each(|reload| reload());
    };
    signals::on_stop_and_hangup(stop, hangup).map_err(in_words)?;
    let config = args.config(fd_limit);
    let (max_chats_per_sec, requires_login) = (args.max_chats_per_sec(), args.requires_login());
    let chats_of_address = args
        .max_chats_per_ip_per_sec()
        .map(ChatBudget::new)
        .map(Arc::new);
    let ticks = Arc::new(TickMetrics::default());
    #[allow(unused_mut, reason = "without the feature `cluster`")]
    let mut registry = stats::registry(chats_of_address.clone());
    #[cfg(feature = "cluster")]
    let world = args.cluster.as_ref().map(|_| World::new(args.login));
    #[cfg(feature = "cluster")]
    if let Some(world) = &world {
        world.register(&mut registry);
    }
    // Binds before the server: a failed start must not have accepted a peer. Ends with this function, after
    // the sessions.
    let admin = (args.metrics_addr.as_ref())
        .map(|addrs| {
            let admin = Admin::builder();
            #[cfg(feature = "cluster")]
            let admin = match world.clone() {
                Some(world) => admin.cluster(move || world.cluster()),
                None => admin,
            };
            admin
                .name("game_server")
                .tick_metrics(Arc::clone(&ticks))
                .registry(registry)
                .allow_hosts(args.admin_hosts.iter().cloned())
                .host_hint("game_server --admin-host NAME allows it")
                .bind(addrs.all())
        })
        .transpose()
        .map_err(in_words)?;
    let builder = Server::builder()
        .config(config.clone())
        .bans(
            args.ban_file
                .as_ref()
                .map(BanFile::bans)
                .unwrap_or_default(),
        )
        .custom_labels([CHAT_FLOOD.label()])
        .close_message_with_text(SBye::close_message);
    #[cfg(feature = "tls")]
    let builder = match (&tls, &args.tls_addr) {
        (Some(tls), Some(addrs)) => builder.listen(ListenerKind::Tls(tls.clone()), addrs.all()),
        _ => builder,
    };
    #[cfg(feature = "websocket")]
    let websocket = WebSocketServerConfig::from(Arc::from(args.origins()?));
    #[cfg(feature = "websocket")]
    let builder = match &args.ws_addr {
        Some(addrs) => builder.listen(ListenerKind::WebSocket(websocket.clone()), addrs.all()),
        None => builder,
    };
    #[cfg(all(feature = "tls", feature = "websocket"))]
    let builder = match (&tls, &args.wss_addr) {
        (Some(tls), Some(addrs)) => {
            let kind = ListenerKind::SecureWebSocket(tls.for_websocket(), websocket);
            builder.listen(kind, addrs.all())
        }
        _ => builder,
    };
    let server = builder
        .start(args.addr.all(), {
            #[cfg(feature = "cluster")]
            let world = world.clone();
            move |_peer| {
                let session = GameSession::new(max_chats_per_sec)
                    .with_chats_of_address(chats_of_address.clone())
                    .with_login(requires_login);
                #[cfg(feature = "cluster")]
                let session = session.in_world(world.clone());
                session
            }
        })
        .map_err(in_words)?;
    let handle = server.handle();
    #[cfg(feature = "cluster")]
    if let (Some(world), Some(url)) = (&world, &args.cluster) {
        let builder = Cluster::builder(url.as_str()).node(args.node.as_str());
        #[cfg(feature = "tls")]
        let builder = match &args.cluster_ca {
            Some(file) => {
                builder.tls(server_core::TlsClientConfig::with_ca_file(file).map_err(in_words)?)
            }
            None => builder,
        };
        let cluster = builder.start(&handle).map_err(in_words)?;
        log::info!(
            "node {} of the cluster, number {}",
            args.node,
            cluster.id().to_u32()
        );
        world.enter(cluster);
    }
    let _admin = admin.map(|admin| {
        log::info!("metrics on {}", admin.local_addr());
        admin.serve(&handle)
    });
    log_start(args, &server, &config, fd_limit);
    let period = args.tick_period();
    let mut tick_loop = TickLoop::new(period, args.hello_tail(), args.stats_interval_secs, ticks);
    let signal = tick_loop.run(&handle, &signals);
    if let Some(signal) = signal {
        log::info!("signal {signal}: shutting down");
        handle.shutdown(args.drain_secs);
    }
    let ended = server.join();
    #[cfg(feature = "cluster")]
    if let Some(world) = &world {
        world.leave();
    }
    ended.map_err(|error| format!("the server failed: {error}"))?;
    signal.map_or(Err("the server ended by itself".into()), |_| Ok(()))
}

fn log_start(args: &Args, server: &Server, config: &Config, fd_limit: u64) {
    log::info!("listening on {}", server.local_addr());
    for (transport, addr) in server.local_addrs().iter().skip(1) {
        log::info!("{transport} on {addr}");
    }
    if args.addr.are_several() {
        log::info!("took {} of {}", server.local_addr(), args.addr);
    }
    log::info!(
        "tick {} ms, {} workers, at most {} sessions ({fd_limit} open files)",
        args.tick_ms,
        config.workers,
        config.max_sessions.unwrap_or(usize::MAX),
    );
    for proxies in &config.trusted_proxies {
        log::info!("trusted proxies: {proxies}");
    }
    if let Some(file) = &args.ban_file {
        log::info!("bans read from {file}: {}", file.networks());
    }
    let findings = check::at_start(args);
    if let (Some(asked), Some(most)) = (args.sessions_asked(), config.max_sessions)
        && asked > most as u64
    {
        log::warn!(
            "--max-sessions lowered from {asked} to {most}: of {fd_limit} descriptors, {} are kept for \
             the admin port, refused connections and the program itself",
            fd_limit - most as u64,
        );
    }
    for finding in findings.iter().filter(|finding| finding.severity.is_bad()) {
        log::warn!("{finding}");
    }
    if let Some(warning) = args.silence_warning() {
        log::warn!("{warning}");
    }
}
