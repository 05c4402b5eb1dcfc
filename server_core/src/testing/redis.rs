//! A real Redis for the tests of a cluster.

use super::wait_until;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::{env, fs, process};

/// A `redis-server` of this machine, empty, on a Unix socket in a temporary folder. The drop ends the process.
#[derive(Debug)]
pub struct Redis {
    folder: PathBuf,
    url: String,
    process: Child,
}

impl Redis {
    /// Starts the server, and waits until it answers. `None`, with a line on standard error, if the program
    /// `redis-server` is not installed.
    ///
    /// # Panics
    /// If the program does not answer within [`DEADLINE`](super::DEADLINE).
    #[track_caller]
    #[must_use]
    pub fn start() -> Option<Self> {
        Self::launch(Command::new("redis-server"))
    }

    /// As [`start`](Self::start), with TLS on a free port of 127.0.0.1: [`url`](Self::url) begins with `rediss://`.
    ///
    /// `None`, with a line on standard error, also if the program ends at once: it may be built without TLS.
    ///
    /// # Panics
    /// As [`start`](Self::start).
    #[track_caller]
    #[must_use]
    pub fn start_tls(cert: &Path, key: &Path) -> Option<Self> {
        // The port is free until another process takes it.
        Self::try_start_tls(cert, key).or_else(|| Self::try_start_tls(cert, key))
    }

    #[track_caller]
    fn try_start_tls(cert: &Path, key: &Path) -> Option<Self> {
        let free = TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr());
        let port = free.expect("a port is free").port().to_string();
        let mut command = Command::new("redis-server");
        command.args(["--bind", "127.0.0.1", "--tls-port", &port]);
        for (flag, file) in [("cert", cert), ("key", key), ("ca-cert", cert)] {
            command.arg(format!("--tls-{flag}-file")).arg(file);
        }
        command.args(["--tls-auth-clients", "no"]);
        let mut redis = Self::launch(command)?;
        redis.url = format!("rediss://localhost:{port}/");
        Some(redis)
    }

    #[track_caller]
    fn launch(mut command: Command) -> Option<Self> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let folder = env::temp_dir().join(format!("redis-{}-{number}", process::id()));
        fs::create_dir_all(&folder).expect("a temporary folder can be made");
        let socket = folder.join("redis.sock");
        let process = command
            .args(["--port", "0", "--save", "", "--appendonly", "no"])
            .args(["--daemonize", "no", "--unixsocket"])
            .arg(&socket)
            .current_dir(&folder)
            .stdout(Stdio::null())
            .spawn();
        let process = match process {
            Ok(process) => process,
            Err(error) => {
                let _ = fs::remove_dir_all(&folder);
                eprintln!("NOT RUN: redis-server: {error}; apt-get install redis-server");
                return None;
            }
        };
        let mut redis = Self {
            url: format!("unix://{}", socket.display()),
            folder,
            process,
        };
        let mut has_ended = false;
        wait_until("Redis to answer", || {
            has_ended = !matches!(redis.process.try_wait(), Ok(None));
            if has_ended {
                return true;
            }
            UnixStream::connect(&socket).is_ok_and(|mut stream| {
                let mut answer = [0; 7];
                let asked = stream.write_all(b"PING\r\n");
                asked.and_then(|()| stream.read_exact(&mut answer)).is_ok()
                    && answer == *b"+PONG\r\n"
            })
        });
        if has_ended {
            eprintln!("NOT RUN: redis-server ends at once: {command:?}");
            return None;
        }
        Some(redis)
    }

    /// The URL for `Cluster::builder`.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Stops the process (SIGSTOP): connections stay, and nothing is answered.
    pub fn pause(&mut self) {
        self.signal("-STOP");
    }

    /// Continues the process after [`pause`](Self::pause).
    pub fn resume(&mut self) {
        self.signal("-CONT");
    }

    fn signal(&mut self, signal: &str) {
        let pid = self.process.id().to_string();
        let status = Command::new("kill").args([signal, &pid]).status();
        assert!(status.is_ok_and(|status| status.success()), "kill {signal}");
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        let _ = fs::remove_dir_all(&self.folder);
    }
}
