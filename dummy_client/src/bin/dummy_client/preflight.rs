//! Whether this machine can do what the command line asks for. `--check` prints the findings; a start
//! fails on a failed check.

use crate::args::Args;
use dummy_client::attack::{Attack, NEIGHBOURS};
use dummy_client::executor::MAX_SESSIONS;
use dummy_client::{Error, MAX_CONNECTING};
use server_core::host::checks::{self, Check, Finding, Severity, first_failure};
use server_core::host::{self, HostLimits, SourceAddresses};
use std::process::ExitCode;
use std::time::Duration;

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
    SourceAddresses::plan(
        args.addr.addrs().first().ip(),
        sessions,
        limits.ephemeral_ports,
    )
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
    let mut needs = vec![Check::OpenFiles {
        sessions,
        other_files: other_files(args),
    }];
    if args.addr.addrs().first().ip().is_loopback() {
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
    let mut findings = checks::evaluate(&limits, &needs);
    findings.splice(1..1, ports(args, &limits, max_sessions));
    (limits, findings)
}

/// The finding on the ports. With churn, the ports of closed sessions are needed as well; a run that lacks only
/// these begins with a warning, and reports its failed connects as limits of this machine.
fn ports(args: &Args, limits: &HostLimits, max_sessions: usize) -> Option<Finding> {
    let find = |sources| checks::evaluate(limits, &[Check::Ports(sources)]).pop();
    let of_sessions = find(sources(args, limits))?;
    let target = args.addr.addrs().first().ip();
    // A run to 127.0.0.0/8 takes further source addresses when its ports are used up.
    let has_siblings = target.is_ipv4() && target.is_loopback();
    let Some(churn) = args.churn_ms.filter(|_| !has_siblings) else {
        return Some(of_sessions);
    };
    let waiting = waiting_ports(max_sessions, churn.mean());
    let all = SourceAddresses::plan(
        target,
        max_sessions.saturating_add(waiting),
        limits.ephemeral_ports,
    );
    let mut finding = find(all)?;
    finding.needed += &format!(
        ": {max_sessions} sessions, and {waiting} closed sessions whose port waits for {} s",
        TIME_WAIT.as_secs()
    );
    if of_sessions.severity != Severity::Fail && finding.severity == Severity::Fail {
        finding.severity = Severity::Warn;
    }
    Some(finding)
}

/// The ports in TIME_WAIT of sessions that stay for this time, close and reconnect.
fn waiting_ports(sessions: usize, length: Duration) -> usize {
    let rounds = TIME_WAIT.as_millis() / length.max(SHORTEST_SESSION).as_millis();
    sessions.saturating_mul(usize::try_from(rounds).unwrap_or(usize::MAX))
}

/// The time for which Linux keeps the port of a connection that this side closed.
const TIME_WAIT: Duration = Duration::from_secs(60);
/// A session that closes at once takes this long all the same: it connects, and waits for its turn.
const SHORTEST_SESSION: Duration = Duration::from_millis(10);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_closed_session_keeps_its_port_for_a_minute() {
        let waiting = |secs| waiting_ports(100, Duration::from_secs(secs));
        assert_eq!((waiting(1), waiting(30), waiting(61)), (6_000, 200, 0));
        assert_eq!(waiting(0), 600_000);
        assert_eq!(waiting_ports(usize::MAX, Duration::ZERO), usize::MAX);
    }
}
