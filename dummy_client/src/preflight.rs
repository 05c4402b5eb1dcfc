//! Can this machine do what the command line asks for? `--check` prints the answer, a start
//! insists on it.

use crate::args::Args;
use crate::attack::NEIGHBOURS;
use crate::load::shape::MAX_SESSIONS;
use crate::load::{Failure, MAX_CONNECTING};
use game_server::preflight::judge::{self, Finding};
use game_server::preflight::{Machine, Sources, first_failure, publish};
use game_server::process;
use std::process::ExitCode;

/// Looks, prints a table, and starts nothing.
pub fn check(args: &Args) -> ExitCode {
    let (_, findings) = look(args);
    publish("dummy_client", &findings)
}

/// The machine, if it can do what is asked for. What it can do badly is logged.
///
/// # Errors
/// The first thing that has to change.
pub fn require(args: &Args) -> Result<Machine, Failure> {
    let (machine, findings) = look(args);
    if let Some(failure) = first_failure(&findings) {
        return Err(Failure {
            why: failure.to_string(),
            exit_status: 2,
        });
    }
    for finding in findings.iter().filter(|finding| finding.grade.is_bad()) {
        log::warn!("{finding}");
    }
    Ok(machine)
}

/// How many sessions there will be at the most: a search for the capacity that names no limit takes
/// what the limit of open files allows.
pub fn max_sessions(args: &Args, machine: &Machine) -> usize {
    args.max_sessions().unwrap_or_else(|| {
        let limit = machine.fd_soft_limit.unwrap_or(DEFAULT_FILES);
        let room = limit.saturating_sub(other_files(args));
        usize::try_from(room)
            .unwrap_or(usize::MAX)
            .clamp(1, MAX_SESSIONS)
    })
}

/// Where the connections come from.
pub fn sources(args: &Args, machine: &Machine) -> Sources {
    let sessions = max_sessions(args, machine);
    Sources::plan(args.addr.ip(), sessions, machine.ephemeral_ports)
}

/// What systems allow that do not tell.
const DEFAULT_FILES: u64 = 1024;

/// Standard streams, signals, and a poll with its waker for each thread; and, where sessions leave
/// and come back, those that are not quite gone yet.
fn other_files(args: &Args) -> u64 {
    let may_leave = args.churn_ms.is_some() || args.stages.is_some() || args.find_capacity;
    let leaving = if may_leave { MAX_CONNECTING as u64 } else { 0 };
    let attacking = args.attack.map_or(0, |attack| {
        // Those that are being closed, the poll of their thread, the neighbours and a newcomer come
        // on top.
        2 * attack.connections() * args.attackers(attack) + 2 + NEIGHBOURS + 1
    });
    16 + 3 * args.threads as u64 + leaving + attacking as u64
}

fn look(args: &Args) -> (Machine, Vec<Finding>) {
    let _ = process::raise_fd_limit();
    let machine = Machine::look();
    let max_sessions = max_sessions(args, &machine);
    let sessions = max_sessions as u64;
    let mut findings = vec![
        judge::open_files(&machine, Some(sessions), other_files(args)),
        judge::ports(&machine, &sources(args, &machine)),
    ];
    if args.addr.ip().is_loopback() {
        // The server is on this machine, so its limits can be seen from here.
        let at_a_time = max_sessions.min(MAX_CONNECTING) as u64;
        findings.push(judge::backlog(&machine, at_a_time));
        findings.push(judge::handshakes(&machine, at_a_time));
    }
    findings.push(judge::memory(&machine, Some(sessions)));
    findings.extend(judge::conntrack(&machine, sessions));
    findings.push(judge::clock(&machine));
    (machine, findings)
}
