//! A run of the program: start, signals, end.

use super::App;
use super::args::AppArgs;
use super::check;
use crate::admin::Admin;
use crate::base::config::Config;
use crate::host::{self, signals};
#[cfg(feature = "websocket")]
use crate::protocol::upgrade::WebSocketServerConfig;
#[cfg(any(feature = "tls", feature = "websocket"))]
use crate::runtime::listener_kind::ListenerKind;
use crate::server::{Server, ServerBuilder, ServerHandle};
use crate::session::{Peer, Session};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

/// The first signal, and the server that it ends. Either may come first.
#[derive(Debug, Default)]
struct Stop {
    signal: Option<i32>,
    server: Option<ServerHandle>,
}

impl Stop {
    fn end(&self, drain: Duration) {
        if let (Some(signal), Some(server)) = (self.signal, &self.server) {
            log::info!("signal {signal}: shutting down");
            server.shutdown(drain);
        }
    }
}

impl App {
    /// # Errors
    /// The start fails, or the server ends by itself. The message is one line for the user.
    pub(super) fn try_run<S: Session>(
        self,
        factory: impl Fn(Peer) -> S + Send + Sync + 'static,
        work: impl FnOnce(&ServerHandle) -> io::Result<()>,
    ) -> Result<(), String> {
        let Self {
            name,
            args,
            builder,
            requires_login,
            tick_period,
            admin: set_up_admin,
            on_start,
            on_hangup: mut reloads,
        } = self;
        let in_words = |error: io::Error| error.to_string();
        let fd_limit = host::raise_fd_limit();
        let (stop, drain) = (Arc::new(Mutex::new(Stop::default())), args.drain_secs);
        let (of_signals, work_thread) = (Arc::clone(&stop), thread::current());
        let on_stop = move |signal| {
            let mut stop = of_signals.lock().unwrap_or_else(PoisonError::into_inner);
            stop.signal = Some(signal);
            stop.end(drain);
            work_thread.unpark();
        };
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
            for reload in &reloads {
                // A panic would end the thread of the signals.
                if catch_unwind(AssertUnwindSafe(reload)).is_err() {
                    log::error!("SIGHUP: a reload has panicked");
                }
            }
        };
        signals::on_stop_and_hangup(on_stop, hangup).map_err(in_words)?;
        // Binds before the server: a failed start must not have accepted a peer. Ends with this function, after
        // the sessions.
        let admin = (args.metrics_addr.as_ref())
            .map(|addrs| {
                (set_up_admin.into_iter())
                    .fold(Admin::builder().name(name), |admin, set_up| set_up(admin))
                    .allow_hosts(args.admin_hosts.iter().cloned())
                    .host_hint(format!("{name} --admin-host NAME allows it"))
                    .bind(addrs.all())
            })
            .transpose()
            .map_err(in_words)?;
        let mut config = Config::default();
        let builder = builder.change_config(|limits| {
            args.apply(limits, fd_limit, tick_period);
            config = limits.clone();
        });
        let builder = args.ban(builder);
        #[cfg(feature = "tls")]
        let builder = args.listen_tls(builder, tls)?;
        #[cfg(feature = "websocket")]
        let builder = args.listen_websocket(builder)?;
        let server = builder.start(args.addr.all(), factory).map_err(in_words)?;
        let handle = server.handle();
        for on_start in on_start {
            on_start(&handle)?;
        }
        let _admin = admin.map(|admin| {
            log::info!("metrics on {}", admin.local_addr());
            admin.serve(&handle)
        });
        log_start(&args, &server, &config, fd_limit, tick_period);
        if let Some(warning) = args.silence_warning(&config, requires_login) {
            log::warn!("{warning}");
        }
        {
            let mut stop = stop.lock().unwrap_or_else(PoisonError::into_inner);
            stop.server = Some(handle.clone());
            stop.end(drain);
        }
        let worked = work(&handle);
        let ended = worked.and(server.join());
        ended.map_err(|error| format!("the server failed: {error}"))
    }
}

impl AppArgs {
    /// Sets the bans of `--ban-file`. Without it, those of the program stay.
    pub(super) fn ban(&self, builder: ServerBuilder) -> ServerBuilder {
        match &self.ban_file {
            Some(file) => builder.bans(file.bans()),
            None => builder,
        }
    }

    #[cfg(feature = "websocket")]
    fn websocket(&self) -> Result<WebSocketServerConfig, String> {
        Ok(WebSocketServerConfig::from(Arc::from(self.origins()?)))
    }

    #[cfg(feature = "websocket")]
    fn listen_websocket(&self, builder: ServerBuilder) -> Result<ServerBuilder, String> {
        Ok(match &self.ws_addr {
            Some(addrs) => builder.listen(ListenerKind::WebSocket(self.websocket()?), addrs.all()),
            None => builder,
        })
    }

    #[cfg(feature = "tls")]
    fn listen_tls(
        &self,
        builder: ServerBuilder,
        tls: Option<crate::runtime::tls::TlsServerConfig>,
    ) -> Result<ServerBuilder, String> {
        let Some(tls) = tls else {
            return Ok(builder);
        };
        #[cfg(feature = "websocket")]
        let builder = match &self.wss_addr {
            Some(addrs) => {
                let kind = ListenerKind::SecureWebSocket(tls.for_websocket(), self.websocket()?);
                builder.listen(kind, addrs.all())
            }
            None => builder,
        };
        Ok(match &self.tls_addr {
            Some(addrs) => builder.listen(ListenerKind::Tls(tls), addrs.all()),
            None => builder,
        })
    }
}

fn log_start(
    args: &AppArgs,
    server: &Server,
    config: &Config,
    fd_limit: u64,
    tick_period: Option<Duration>,
) {
    log::info!("listening on {}", server.local_addr());
    for (transport, addr) in server.local_addrs().iter().skip(1) {
        log::info!("{transport} on {addr}");
    }
    if args.addr.are_several() {
        log::info!("took {} of {}", server.local_addr(), args.addr);
    }
    let tick = tick_period.map(|period| format!("tick {} ms, ", period.as_millis()));
    log::info!(
        "{}{} workers, at most {} sessions ({fd_limit} open files)",
        tick.unwrap_or_default(),
        config.workers,
        config.max_sessions.unwrap_or(usize::MAX),
    );
    for proxies in &config.trusted_proxies {
        log::info!("trusted proxies: {proxies}");
    }
    if let Some(file) = &args.ban_file {
        log::info!("bans read from {file}: {}", file.networks());
    }
    if let (Some(asked), Some(most)) = (args.sessions_asked(), config.max_sessions)
        && asked > most as u64
    {
        log::warn!(
            "--max-sessions lowered from {asked} to {most}: of {fd_limit} descriptors, {} are kept for \
             the admin port, refused connections and the program itself",
            fd_limit - most as u64,
        );
    }
    let findings = check::at_start(args);
    for finding in findings.iter().filter(|finding| finding.severity.is_bad()) {
        log::warn!("{finding}");
    }
}
