//! Whether this machine can do what the command line asks for. `--check` prints the findings; a start
//! fails on a failed check.

use crate::args::Args;
use dummy_client::attack::{Attack, NEIGHBOURS};
use dummy_client::executor::MAX_SESSIONS;
use dummy_client::{Error, MAX_CONNECTING};
use server_core::host::checks::{self, Check, Finding, first_failure};
use server_core::host::{self, Addresses, HostLimits, SourceAddresses};
use server_core::start;
use std::net::TcpStream;
use std::process::ExitCode;
use std::time::Duration;

/// Evaluates the checks, prints a table and starts nothing.
pub fn check(args: &Args) -> ExitCode {
    let (_, findings) = look(args);
    host::print("dummy_client", &findings)
}

/// Takes the first address of the server's name that accepts a connection, if the name has several. If no
/// address accepts a connection, the run logs that and takes the first address: it counts what fails.
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

/// The longest wait for one address of several.
const MAX_CONNECT_TIME: Duration = Duration::from_secs(3);

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
