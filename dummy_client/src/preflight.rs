//! Can this machine do what the command line asks for? `--check` prints the answer, a start
//! insists on it.

use crate::args::Args;
use crate::attack::NEIGHBOURS;
use crate::load::shape::MAX_SESSIONS;
use crate::load::{Failure, MAX_CONNECTING};
use server_core::host::checks::{self, Finding};
use server_core::host::{self, Addresses, HostLimits, SourceAddresses, first_failure, publish};
use server_core::start;
use std::net::TcpStream;
use std::process::ExitCode;
use std::time::Duration;

/// Looks, prints a table, and starts nothing.
pub fn check(args: &Args) -> ExitCode {
    let (_, findings) = look(args);
    publish("dummy_client", &findings)
}

/// Of a server's name with several addresses, the first that accepts a connection is taken for the
/// run. If none does, the run says so and goes on with the first: it counts what fails.
pub fn choose_address(addrs: &mut Addresses) {
    if !addrs.are_several() {
        return;
    }
    let accepting = start::first_of("cannot connect to", addrs.all().iter().copied(), |addr| {
        TcpStream::connect_timeout(&addr, MAX_CONNECT_TIME).map(|_| addr)
    });
    match accepting {
        Ok(addr) => {
            log::info!("took {addr} of {addrs}");
            addrs.prefer(addr);
        }
        Err(error) => log::error!("no address of {addrs} accepts a connection: {error}"),
    }
}

/// The machine, if it can do what is asked for. What it can do badly is logged.
///
/// # Errors
/// The first thing that has to change.
pub fn require(args: &Args) -> Result<HostLimits, Failure> {
    let (limits, findings) = look(args);
    if let Some(failure) = first_failure(&findings) {
        return Err(Failure {
            why: failure.to_string(),
            exit_status: 2,
        });
    }
    for finding in findings.iter().filter(|finding| finding.severity.is_bad()) {
        log::warn!("{finding}");
    }
    Ok(limits)
}

/// How many sessions there will be at the most: a search for the capacity that names no limit takes
/// what the limit of open files allows.
pub fn max_sessions(args: &Args, limits: &HostLimits) -> usize {
    args.max_sessions().unwrap_or_else(|| {
        let limit = limits.fd_soft_limit.unwrap_or(DEFAULT_FILES);
        let room = limit.saturating_sub(other_files(args));
        usize::try_from(room)
            .unwrap_or(usize::MAX)
            .clamp(1, MAX_SESSIONS)
    })
}

/// Where the connections come from.
pub fn sources(args: &Args, limits: &HostLimits) -> SourceAddresses {
    let sessions = max_sessions(args, limits);
    SourceAddresses::plan(args.addr.first().ip(), sessions, limits.ephemeral_ports)
}

/// The wait for one address of several.
const MAX_CONNECT_TIME: Duration = Duration::from_secs(3);

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

fn look(args: &Args) -> (HostLimits, Vec<Finding>) {
    let _ = host::raise_fd_limit();
    let limits = HostLimits::read();
    let max_sessions = max_sessions(args, &limits);
    let sessions = max_sessions as u64;
    let mut findings = vec![
        checks::open_files(&limits, Some(sessions), other_files(args)),
        checks::ports(&limits, &sources(args, &limits)),
    ];
    if args.addr.first().ip().is_loopback() {
        // The server is on this limits, so its limits can be seen from here.
        let at_a_time = max_sessions.min(MAX_CONNECTING) as u64;
        findings.push(checks::backlog(&limits, at_a_time));
        findings.push(checks::handshakes(&limits, at_a_time));
    }
    findings.push(checks::memory(&limits, Some(sessions)));
    findings.extend(checks::conntrack(&limits, sessions));
    findings.push(checks::clock(&limits));
    (limits, findings)
}

#[cfg(test)]
mod tests {
    use super::*;
    use server_core::host::parse_addrs;
    use std::net::{SocketAddr, TcpListener};

    /// A socket listens at `addrs[1]` alone.
    fn two_addresses() -> (Addresses, [SocketAddr; 2], TcpListener) {
        let closed = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let open = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let [one, two] = [&closed, &open].map(|socket| socket.local_addr().expect("an address"));
        let mut addrs = parse_addrs(&two.to_string()).expect("an address");
        addrs.prefer(one);
        (addrs, [one, two], open)
    }

    #[test]
    fn of_several_addresses_the_first_that_accepts_is_taken() {
        let (mut addrs, [one, two], _listener) = two_addresses();
        choose_address(&mut addrs);
        assert_eq!(addrs.all(), [two, one]);
        choose_address(&mut addrs);
        assert_eq!(addrs.first(), two, "the order changes no more");
    }

    #[test]
    fn where_none_accepts_the_first_is_taken() {
        let (mut addrs, [one, two], listener) = two_addresses();
        drop(listener);
        choose_address(&mut addrs);
        assert_eq!(addrs.all(), [one, two]);
    }
}
