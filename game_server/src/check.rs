//! `--check`: can the server run as asked on this machine? A start asks the same and logs what is
//! bad.

use crate::args::Args;
use server_core::host::judge::{self, Finding};
use server_core::host::process;
use server_core::host::{self, Machine};
use server_core::{Config, Server};
use std::process::ExitCode;

/// Looks, prints a table, and starts nothing.
pub fn check(args: &Args) -> ExitCode {
    let _ = process::raise_fd_limit();
    let machine = Machine::look();
    let mut findings = limits(args, &machine);
    let sessions = args.sessions_asked();
    findings.push(judge::memory(&machine, sessions));
    let queue_bytes = args.config(0).total_queue_bytes();
    findings.push(judge::queues(&machine, queue_bytes as u64));
    let most = sessions.unwrap_or_else(|| args.sessions_allowed(machine.fd_soft_limit));
    findings.extend(judge::conntrack(&machine, most));
    findings.push(judge::clock(&machine));
    for addrs in [Some(&args.addr), args.metrics_addr.as_ref()]
        .into_iter()
        .flatten()
    {
        // A start takes the first that can be bound.
        let mut tries = addrs.all().iter().map(|addr| Server::try_bind(*addr));
        let index = tries.position(|tried| tried.is_ok()).unwrap_or(0);
        let addr = addrs.all()[index];
        findings.push(judge::address(addr, &Server::try_bind(addr)));
    }
    host::publish("game_server", &findings)
}

/// The limits that a start warns of as well.
pub fn limits(args: &Args, machine: &Machine) -> Vec<Finding> {
    let backlog = u64::from(Config::default().backlog);
    vec![
        judge::open_files(machine, args.sessions_asked(), args.other_files()),
        judge::backlog(machine, backlog),
        judge::handshakes(machine, backlog),
    ]
}
