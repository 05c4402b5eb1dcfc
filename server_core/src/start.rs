//! Steps of a start that the system can refuse, and how an error names the step and the limit.
//!
//! For programs on this library, whose own threads and ports are refused by the same limits.

use nix::errno::Errno;
use std::fmt::Display;
use std::io;
use std::thread::{self, JoinHandle};

/// Starts a thread of this name.
///
/// # Errors
/// If the system refuses the thread. The error names the thread and the limit.
pub fn spawn<T: Send + 'static>(
    name: &str,
    run: impl FnOnce() -> T + Send + 'static,
) -> io::Result<JoinHandle<T>> {
    let thread = thread::Builder::new().name(name.into());
    (thread.spawn(run)).map_err(|error| failed(format_args!("cannot start thread `{name}`"), error))
}

/// The error of a step that failed: what failed, why, and the limit that was reached, if that is
/// the reason. The [`kind`](io::Error::kind) stays that of `error`.
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

/// The limit that the system says is reached.
pub(crate) fn limit(error: &io::Error) -> Option<&'static str> {
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
    fn an_error_of_another_kind_names_no_limit() {
        let error = failed("cannot listen", Errno::EADDRINUSE.into());
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
        assert!(!error.to_string().contains("limit"), "{error}");
    }
}
