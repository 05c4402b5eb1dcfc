//! `--check`: whether the server can run as asked on this machine. A start evaluates a part of the same
//! checks and logs bad findings.

use super::args::AppArgs;
use crate::base::config::Config;
use crate::host::checks::{self, Check, Finding};
use crate::host::{self, HostLimits};
use crate::server::Server;
use std::process::ExitCode;

/// Evaluates the checks, prints a table and starts nothing.
pub(super) fn check(program: &str, args: &AppArgs) -> ExitCode {
    let _ = host::raise_fd_limit();
    let limits = HostLimits::read();
    let sessions = args.sessions_asked();
    let most = sessions.unwrap_or_else(|| args.sessions_allowed(limits.fd_soft_limit));
    let mut needs = needs_of_a_start(args);
    let mut config = Config::default();
    args.apply(&mut config, 0, None);
    needs.extend([
        Check::Cpu(config.workers as u64),
        Check::Memory { sessions },
        Check::Queues(config.total_queue_bytes() as u64),
        Check::Firewall(most),
        Check::Clock,
    ]);
    #[cfg(feature = "tls")]
    needs.extend(args.tls_files());
    let others = [
        &args.tls_addr,
        &args.ws_addr,
        &args.wss_addr,
        &args.metrics_addr,
    ];
    for addrs in [&args.addr].into_iter().chain(others.into_iter().flatten()) {
        // A start takes the first address that can be bound.
        let mut tries = addrs.all().iter().map(|addr| Server::try_bind(*addr));
        let index = tries.position(|tried| tried.is_ok()).unwrap_or(0);
        let addr = addrs.all()[index];
        let bound = Server::try_bind(addr);
        needs.push(Check::Address { addr, bound });
    }
    host::print(program, &checks::evaluate(&limits, &needs))
}

/// The findings of a start.
pub(super) fn at_start(args: &AppArgs) -> Vec<Finding> {
    checks::evaluate(&HostLimits::read(), &needs_of_a_start(args))
}

fn needs_of_a_start(args: &AppArgs) -> Vec<Check> {
    let backlog = u64::from(Config::default().backlog);
    vec![
        args.open_files(),
        Check::Backlog(backlog),
        Check::Handshakes(backlog),
    ]
}
