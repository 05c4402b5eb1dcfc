//! `--check`: can the server run as asked on this machine? A start asks the same and logs what is
//! bad.

use crate::args::Args;
use server_core::host::checks::{self, Finding};
use server_core::host::{self, HostLimits};
use server_core::{Config, Server};
use std::process::ExitCode;

/// Looks, prints a table, and starts nothing.
pub fn check(args: &Args) -> ExitCode {
    let _ = host::raise_fd_limit();
    let limits = HostLimits::read();
    let mut findings = at_start(args, &limits);
    let sessions = args.sessions_asked();
    findings.push(checks::memory(&limits, sessions));
    let queue_bytes = args.config(0).total_queue_bytes();
    findings.push(checks::queues(&limits, queue_bytes as u64));
    let most = sessions.unwrap_or_else(|| args.sessions_allowed(limits.fd_soft_limit));
    findings.extend(checks::conntrack(&limits, most));
    findings.push(checks::clock(&limits));
    for addrs in [Some(&args.addr), args.metrics_addr.as_ref()]
        .into_iter()
        .flatten()
    {
        // A start takes the first that can be bound.
        let mut tries = addrs.all().iter().map(|addr| Server::try_bind(*addr));
        let index = tries.position(|tried| tried.is_ok()).unwrap_or(0);
        let addr = addrs.all()[index];
        findings.push(checks::address(addr, &Server::try_bind(addr)));
    }
    host::publish("game_server", &findings)
}

/// The limits that a start warns of as well.
pub fn at_start(args: &Args, limits: &HostLimits) -> Vec<Finding> {
    let backlog = u64::from(Config::default().backlog);
    vec![
        checks::open_files(limits, args.sessions_asked(), args.other_files()),
        checks::backlog(limits, backlog),
        checks::handshakes(limits, backlog),
    ]
}
