//! Whether this machine can do what the command line asks for. `--check` prints the findings; a start
//! fails on a failed check.

use crate::args::Args;
use dummy_client::attack::{Attack, NEIGHBOURS};
use dummy_client::executor::MAX_SESSIONS;
use dummy_client::{Error, MAX_CONNECTING};
use server_core::host::checks::{self, Check, Finding, first_failure};
use server_core::host::{self, HostLimits, SourceAddresses};
use std::process::ExitCode;

/// Evaluates the checks, prints a table and starts nothing.
pub fn check(args: &Args) -> ExitCode {
    let (_, findings) = look(args);
    host::print("dummy_client", &findings)
}

/// The limits of the machine. Logs the warnings.
///
/// # Errors
/// The first failed check.
pub fn require(args: &Args) -> Result<HostLimits, Error> {
    let (limits, findings) = look(args);
    if let Some(failure) = first_failure(&findings) {
        return Err(Error::usage(failure));
    }
    for finding in findings.iter().filter(|finding| finding.severity.is_bad()) {
        log::warn!("{finding}");
    }
    Ok(limits)
}

/// The largest number of sessions of the run. A search for the capacity without `--count` takes what the
/// limit of open files allows.
pub fn max_sessions(args: &Args, limits: &HostLimits) -> usize {
    args.max_sessions().unwrap_or_else(|| {
        let limit = limits.fd_soft_limit.unwrap_or(DEFAULT_FILES);
        let room = limit.saturating_sub(other_files(args));
        usize::try_from(room)
            .unwrap_or(usize::MAX)
            .clamp(1, MAX_SESSIONS)
    })
}

/// The source addresses of the connections.
pub fn sources(args: &Args, limits: &HostLimits) -> SourceAddresses {
    let sessions = max_sessions(args, limits);
    SourceAddresses::plan(args.addr.first().ip(), sessions, limits.ephemeral_ports)
}

/// The limit of open files on a system that does not tell its limit.
const DEFAULT_FILES: u64 = 1024;

/// Standard streams, signals, a poll with its waker for each thread, and the sockets that are closing in a
/// run whose sessions leave and reconnect.
fn other_files(args: &Args) -> u64 {
    let may_leave = args.churn_ms.is_some() || args.stages.is_some() || args.find_capacity;
    let leaving = if may_leave { MAX_CONNECTING as u64 } else { 0 };
    let attacking = args.attack.map_or(0, |attack| {
        // Attack connections that are closing count twice. The poll of their thread, the neighbours and a
        // newcomer come on top.
        2 * attack.connections_per_attacker() * args.attackers(attack) + 2 + NEIGHBOURS + 1
    });
    16 + 3 * args.threads as u64 + leaving + attacking as u64
}

fn look(args: &Args) -> (HostLimits, Vec<Finding>) {
    let _ = host::raise_fd_limit();
    let limits = HostLimits::read();
    let max_sessions = max_sessions(args, &limits);
    let sessions = Some(max_sessions as u64);
    let mut needs = vec![
        Check::OpenFiles {
            sessions,
            other_files: other_files(args),
        },
        Check::Ports(sources(args, &limits)),
    ];
    if args.addr.first().ip().is_loopback() {
        // The limits of this machine are those of the server as well.
        let at_a_time = max_sessions.min(MAX_CONNECTING) as u64;
        needs.extend([Check::Backlog(at_a_time), Check::Handshakes(at_a_time)]);
    }
    needs.extend([
        Check::Cpu(args.threads as u64),
        Check::Memory { sessions },
        Check::Firewall(max_sessions as u64),
        Check::Clock,
    ]);
    let findings = checks::evaluate(&limits, &needs);
    (limits, findings)
}
