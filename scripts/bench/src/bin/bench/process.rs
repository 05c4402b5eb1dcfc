//! The programs that are started, the cores that they run on, and their end.

use crossbeam_channel::Receiver;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use server_core::host::signals;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// What all runs have in common.
pub struct Context {
    programs: PathBuf,
    rivals: PathBuf,
    cores: usize,
    signals: Receiver<i32>,
}

/// Which cores a program may run on, as `taskset` writes them; `None`: all.
#[derive(Clone, Debug)]
pub struct Cores {
    pub server: Option<String>,
    pub client: Option<String>,
}

impl Context {
    /// Looks where the programs are.
    pub fn new(programs: &Path, rivals: &Path) -> Result<Self, String> {
        let (sender, signals) = crossbeam_channel::bounded(1);
        let stop = move |signal| {
            // Without a receiver the process is about to end.
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

    /// One of the programs that the project is about.
    pub fn program(&self, name: &str) -> PathBuf {
        self.programs.join(name)
    }

    /// One of the benchmark's own.
    pub fn rival(&self, name: &str) -> PathBuf {
        self.rivals.join(name)
    }

    /// A core for each worker, the others for the client. Where there are none left, nobody is
    /// bound to any.
    pub fn cores_for(&self, workers: usize) -> Cores {
        let is_shared = self.cores <= workers;
        let range = |from, to| (!is_shared).then(|| format!("{from}-{to}"));
        Cores {
            server: range(0, workers - 1),
            client: range(workers, self.cores.max(1) - 1),
        }
    }

    /// Waits until something is so.
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

    /// Whether somebody wants this to end.
    pub fn check(&self) -> Result<(), String> {
        match self.signals.try_recv() {
            Ok(_) => Err(STOPPED.into()),
            Err(_) => Ok(()),
        }
    }
}

/// What is said when a signal comes.
pub const STOPPED: &str = "stopped by a signal";

/// A child, which does not outlive this value.
pub struct Program {
    name: String,
    child: Child,
    folder: PathBuf,
}

impl Program {
    /// Starts it on these cores. Its output goes to files in a folder of its own.
    pub fn start(path: &Path, args: &[String], cores: Option<&str>) -> Result<Self, String> {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let name = name.into_owned();
        let start = || {
            let folder = Command::new("mktemp").arg("-d").output()?.stdout;
            let folder = PathBuf::from(String::from_utf8_lossy(&folder).trim());
            let mut command = match cores {
                // It becomes the program, with the same process id.
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

    /// What it has written to standard output.
    pub fn output(&self) -> String {
        fs::read_to_string(self.folder.join("out")).unwrap_or_default()
    }

    /// What it has written to standard error.
    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.join("err")).unwrap_or_default()
    }

    /// Whether it has not ended yet.
    pub fn is_running(&mut self) -> Result<bool, String> {
        self.status().map(|status| status.is_none())
    }

    /// How it has ended, if it has.
    pub fn status(&mut self) -> Result<Option<ExitStatus>, String> {
        self.child
            .try_wait()
            .map_err(|error| format!("{}: {error}", self.name))
    }

    /// Asks it to end.
    pub fn signal(&self, signal: Signal) {
        // It may have ended by itself; that is found by whoever waits for it.
        let _ = kill(Pid::from_raw(self.child.id() as i32), signal);
    }

    /// One line about a run that went wrong: the end of what it logged.
    pub fn last_words(&self) -> String {
        let log = self.log();
        let lines: Vec<&str> = log.lines().filter(|line| !line.is_empty()).collect();
        let last = &lines[lines.len().saturating_sub(3)..];
        format!("{}: {}", self.name, last.join(" / "))
    }

    /// Its open files: a server has one more for each session.
    pub fn descriptors(&self) -> Result<usize, String> {
        let folder = format!("/proc/{}/fd", self.pid());
        fs::read_dir(folder)
            .map(Iterator::count)
            .map_err(|_| self.last_words())
    }

    /// Its memory.
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
        // Errors say that it has ended already, which is what is wanted.
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_dir_all(&self.folder);
    }
}
