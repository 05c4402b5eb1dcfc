//! Starts the programs, binds them to cores, and ends them.

use crossbeam_channel::Receiver;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use server_core::host::signals;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// The data that all runs share.
pub struct Context {
    programs: PathBuf,
    rivals: PathBuf,
    cores: usize,
    signals: Receiver<i32>,
}

/// The cores that a program may run on, in the notation of `taskset`. `None`: all cores.
#[derive(Clone, Debug)]
pub struct Cores {
    pub server: Option<String>,
    pub client: Option<String>,
}

impl Context {
    /// Finds the folders of the programs, and installs the signal handlers.
    pub fn new(programs: &Path, rivals: &Path) -> Result<Self, String> {
        let (sender, signals) = crossbeam_channel::bounded(1);
        let stop = move |signal| {
            // `send` fails if the receiver is dropped: then the process is about to end.
            let _ = sender.send(signal);
        };
        signals::on_stop(stop).map_err(|error| format!("no signal handlers: {error}"))?;
        Ok(Self {
            programs: programs.into(),
            rivals: rivals.into(),
            cores: thread::available_parallelism().map_or(1, usize::from),
            signals,
        })
    }

    /// The path of `game_server` or `dummy_client`.
    pub fn program(&self, name: &str) -> PathBuf {
        self.programs.join(name)
    }

    /// The path of a program of the benchmark itself.
    pub fn rival(&self, name: &str) -> PathBuf {
        self.rivals.join(name)
    }

    /// A core for each worker, and the other cores for the client. If no core is left for the client, neither
    /// program is bound to cores.
    pub fn cores_for(&self, workers: usize) -> Cores {
        let is_shared = self.cores <= workers;
        let range = |from, to| (!is_shared).then(|| format!("{from}-{to}"));
        Cores {
            server: range(0, workers - 1),
            client: range(workers, self.cores.max(1) - 1),
        }
    }

    /// Waits until the condition holds.
    pub fn until(
        &self,
        patience: Duration,
        what: &str,
        mut is_so: impl FnMut() -> Result<bool, String>,
    ) -> Result<(), String> {
        let deadline = Instant::now() + patience;
        while !is_so()? {
            if Instant::now() > deadline {
                return Err(format!("waited too long for {what}"));
            }
            if self.signals.recv_timeout(Duration::from_millis(20)).is_ok() {
                return Err(STOPPED.into());
            }
        }
        Ok(())
    }

    /// Fails if a signal asks the benchmark to end.
    pub fn check(&self) -> Result<(), String> {
        match self.signals.try_recv() {
            Ok(_) => Err(STOPPED.into()),
            Err(_) => Ok(()),
        }
    }
}

/// The error text after a signal.
pub const STOPPED: &str = "stopped by a signal";

/// A child process. Dropping the value ends the process.
pub struct Program {
    name: String,
    child: Child,
    folder: PathBuf,
}

impl Program {
    /// Starts the program on these cores. Its output goes to files in a folder of its own.
    pub fn start(path: &Path, args: &[String], cores: Option<&str>) -> Result<Self, String> {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let name = name.into_owned();
        let start = || {
            let folder = Command::new("mktemp").arg("-d").output()?.stdout;
            let folder = PathBuf::from(String::from_utf8_lossy(&folder).trim());
            let mut command = match cores {
                // `taskset` becomes the program, with the same process id.
                Some(cores) => {
                    let mut command = Command::new("taskset");
                    command.args(["-c", cores]).arg(path);
                    command
                }
                None => Command::new(path),
            };
            let child = command
                .args(args)
                .stdin(Stdio::null())
                .stdout(File::create(folder.join("out"))?)
                .stderr(File::create(folder.join("err"))?)
                .spawn();
            match child {
                Ok(child) => Ok((child, folder)),
                Err(error) => {
                    fs::remove_dir_all(&folder)?;
                    Err(error)
                }
            }
        };
        match start() {
            Ok((child, folder)) => Ok(Self {
                name,
                child,
                folder,
            }),
            Err(error) => Err(format!("{name} cannot be started: {error}")),
        }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The text that the program has written to standard output.
    pub fn output(&self) -> String {
        fs::read_to_string(self.folder.join("out")).unwrap_or_default()
    }

    /// The text that the program has written to standard error.
    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.join("err")).unwrap_or_default()
    }

    /// Returns whether the process is running.
    pub fn is_running(&mut self) -> Result<bool, String> {
        self.status().map(|status| status.is_none())
    }

    /// The exit status. `None`: the process is running.
    pub fn status(&mut self) -> Result<Option<ExitStatus>, String> {
        self.child
            .try_wait()
            .map_err(|error| format!("{}: {error}", self.name))
    }

    /// Sends the process a signal to end.
    pub fn signal(&self, signal: Signal) {
        // The process may have ended by itself; the caller that waits for the process finds its status.
        let _ = kill(Pid::from_raw(self.child.id() as i32), signal);
    }

    /// A line for a failed run: the end of the program's log.
    pub fn last_words(&self) -> String {
        let log = self.log();
        let lines: Vec<&str> = log.lines().filter(|line| !line.is_empty()).collect();
        let last = &lines[lines.len().saturating_sub(3)..];
        format!("{}: {}", self.name, last.join(" / "))
    }

    /// Number of open files of the process: a server has one more file for each session.
    pub fn descriptors(&self) -> Result<usize, String> {
        let folder = format!("/proc/{}/fd", self.pid());
        fs::read_dir(folder)
            .map(Iterator::count)
            .map_err(|_| self.last_words())
    }

    /// The resident memory of the process.
    pub fn resident_bytes(&self) -> Result<u64, String> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid()));
        let status = status.map_err(|_| self.last_words())?;
        let kib = status
            .lines()
            .find_map(|line| line.strip_prefix("VmRSS:")?.split_whitespace().next());
        let kib: u64 = kib.and_then(|kib| kib.parse().ok()).unwrap_or(0);
        Ok(kib * 1024)
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // An error means that the process has already ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_dir_all(&self.folder);
    }
}
