//! Steps of a start that the system can refuse. Each error names the step and the limit.
//!
//! Programs on this library use this module too: the same limits refuse their own threads and ports.

use nix::errno::Errno;
use std::fmt::Display;
use std::io;
use std::net::SocketAddr;
use std::thread::{self, JoinHandle};

/// Starts a thread of this name.
///
/// # Errors
/// The system refuses the thread. The error names the thread and the limit.
pub fn spawn<T: Send + 'static>(
    name: &str,
    run: impl FnOnce() -> T + Send + 'static,
) -> io::Result<JoinHandle<T>> {
    let thread = thread::Builder::new().name(name.into());
    (thread.spawn(run)).map_err(|error| failed(format_args!("cannot start thread `{name}`"), error))
}

/// The error of a step that failed: the step, the cause, and the limit that is reached, if a limit is
/// the cause. The [`kind`](io::Error::kind) stays that of `error`.
///
/// ```
/// use std::io::{Error, ErrorKind};
/// let error = server_core::start::failed("cannot open the log", ErrorKind::NotFound.into());
/// assert_eq!(error.to_string(), "cannot open the log: entity not found");
/// assert_eq!(error.kind(), ErrorKind::NotFound);
/// ```
#[must_use]
pub fn failed(what: impl Display, error: io::Error) -> io::Error {
    let text = match limit(&error) {
        Some(limit) => format!("{what}: {error}: {limit} is reached"),
        None => format!("{what}: {error}"),
    };
    io::Error::new(error.kind(), text)
}

/// Tries these addresses, in order, until the system accepts one. `what` is the start of an error, for
/// example "cannot listen on".
///
/// # Errors
/// The error of each address, on one line. A limit of the process ends the tries: it is reached for the
/// next address as well. [`io::ErrorKind::InvalidInput`] for an empty list.
pub fn first_of<T>(
    what: &str,
    addrs: impl IntoIterator<Item = SocketAddr>,
    mut begin: impl FnMut(SocketAddr) -> io::Result<T>,
) -> io::Result<T> {
    let mut refused: Option<io::Error> = None;
    for addr in addrs {
        let error = match begin(addr) {
            Ok(begun) => {
                if let Some(refused) = refused {
                    log::warn!("{refused}; took {addr}");
                }
                return Ok(begun);
            }
            Err(error) => error,
        };
        let is_limit = limit(&error).is_some();
        let error = failed(format_args!("{what} {addr}"), error);
        refused = Some(match refused {
            Some(before) => io::Error::new(error.kind(), format!("{before}; {error}")),
            None => error,
        });
        if is_limit {
            break;
        }
    }
    Err(refused.unwrap_or_else(|| {
        io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("{what}: the name has no address"),
        )
    }))
}

/// The limit that this error says is reached.
fn limit(error: &io::Error) -> Option<&'static str> {
    match Errno::from_raw(error.raw_os_error()?) {
        Errno::EMFILE => Some("the limit of open files (RLIMIT_NOFILE, `ulimit -n`)"),
        Errno::ENFILE => Some("the system's limit of open files (fs.file-max)"),
        Errno::ENOSPC => Some("the limit of watched sockets (fs.epoll.max_user_watches)"),
        Errno::EAGAIN => Some(
            "a limit of threads (RLIMIT_NPROC, `ulimit -u`; the cgroup's pids.max; \
             kernel.threads-max) or of memory (RLIMIT_AS, `ulimit -v`)",
        ),
        Errno::ENOMEM => Some("a limit of memory (RLIMIT_AS, `ulimit -v`)"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_names_the_step_and_the_limit() {
        for (errno, limit) in [
            (Errno::EMFILE, "RLIMIT_NOFILE"),
            (Errno::ENFILE, "fs.file-max"),
            (Errno::ENOSPC, "fs.epoll.max_user_watches"),
            (Errno::EAGAIN, "RLIMIT_NPROC"),
            (Errno::ENOMEM, "RLIMIT_AS"),
        ] {
            let error = failed("cannot start", io::Error::from(errno));
            let text = error.to_string();
            assert!(text.starts_with("cannot start: "), "{text}");
            assert!(text.contains(limit), "{text}");
            assert!(text.ends_with(" is reached"), "{text}");
            assert!(!text.contains('\n'), "{text}");
            assert_eq!(error.kind(), io::Error::from(errno).kind());
        }
    }

    #[test]
    fn addresses_are_tried_in_order_and_a_limit_ends_the_tries() {
        let addrs = [1, 2, 3].map(|port| SocketAddr::from(([127, 0, 0, 1], port)));
        let mut tried = Vec::new();
        let mut begin = |errors: [Option<Errno>; 3]| {
            tried.clear();
            let begun = first_of("cannot try", addrs, |addr| {
                tried.push(addr.port());
                match errors[usize::from(addr.port()) - 1] {
                    Some(errno) => Err(errno.into()),
                    None => Ok(addr.port()),
                }
            });
            (begun.map_err(|error| error.to_string()), tried.clone())
        };
        let taken = Some(Errno::EADDRINUSE);
        assert_eq!(begin([None; 3]), (Ok(1), vec![1]));
        assert_eq!(begin([taken, None, None]), (Ok(2), vec![1, 2]));
        let (error, tried) = begin([taken; 3]);
        let error = error.unwrap_err();
        assert_eq!(
            (error.matches("cannot try 127.0.0.1:").count(), tried.len()),
            (3, 3)
        );
        let (error, tried) = begin([taken, Some(Errno::EMFILE), None]);
        assert!(error.unwrap_err().contains("RLIMIT_NOFILE"));
        assert_eq!(tried, [1, 2]);
        let none = first_of("cannot try", [], |_| Ok(())).unwrap_err();
        assert_eq!(none.kind(), io::ErrorKind::InvalidInput);
    }

    #[test]
    fn an_error_of_another_kind_names_no_limit() {
        let error = failed("cannot listen", Errno::EADDRINUSE.into());
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
        assert!(!error.to_string().contains("limit"), "{error}");
    }
}
