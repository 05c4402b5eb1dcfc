//! Logs and errors on standard error.

use super::log_queue::LogQueue;
use crate::base::start;
use env_logger::{Builder, Env, Target, WriteStyle};
use log::{Level, LevelFilter, Log, Record};
use std::backtrace::{Backtrace, BacktraceStatus};
use std::fmt::Display;
use std::io::{self, IsTerminal, Write};
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use std::{panic, thread};

/// The queue of the logger. Not set: lines are written by the thread that logs.
static QUEUE: OnceLock<Arc<LogQueue>> = OnceLock::new();

/// The longest time that the end of a program waits for the reader of its log.
const MAX_FLUSH: Duration = Duration::from_secs(1);

/// Logs to standard error through `default_filter` (for example `info`). `RUST_LOG` replaces the filter. A program
/// that has a logger keeps it.
///
/// A thread of its own writes the lines, and no other thread waits for the reader of standard error. Up to 1 MiB of
/// lines (about 10,000) wait for the reader. Further records are dropped, and the next line says how many:
/// `123 log records were dropped: the reader of standard error is slow`. The messages of panics take the same path:
/// the panic hook is replaced. Call [`flush_logs`] at the end of the program.
pub fn init_logs(default_filter: &str) {
    init_logs_through(default_filter, io::stderr);
}

/// Like [`init_logs`], through writers of the program that end at standard error. The thread of the log calls them.
pub fn init_logs_through<W: Write + Send + 'static>(
    default_filter: &str,
    make_writer: impl Fn() -> W,
) {
    let env = Env::default().default_filter_or(default_filter);
    let queue = Arc::new(LogQueue::default());
    // Its line is about the queue, and passes it by.
    let direct = (with_style(&mut Builder::new()).filter_level(LevelFilter::Warn))
        .target(Target::Pipe(Box::new(make_writer())))
        .build();
    let (of_thread, writer) = (Arc::clone(&queue), make_writer());
    let write = move || of_thread.write_to(writer, |dropped| write_dropped(&direct, dropped));
    if start::spawn("logs", write).is_err() {
        // The server is about to fail for the same limit.
        let _ = Builder::from_env(env).try_init();
        return;
    }
    let input = QueueInput(Arc::clone(&queue));
    let started = with_style(&mut Builder::from_env(env))
        .target(Target::Pipe(Box::new(input)))
        .try_init();
    if started.is_err() {
        queue.close();
        return;
    }
    // A process has one logger.
    let _ = QUEUE.set(Arc::clone(&queue));
    // The default hook waits for the reader of standard error. It stays in the tests of this crate, whose runner
    // captures its output.
    if !cfg!(test) {
        panic::set_hook(Box::new(move |info| push_panic(&queue, info)));
    }
}

/// Waits until the lines that are logged so far are written, 1 s at most. A program calls it before it ends;
/// [`print_error`], [`signals`](super::signals) and the `App` of the feature `app` call it by themselves.
pub fn flush_logs() {
    if let Some(queue) = QUEUE.get() {
        queue.flush(MAX_FLUSH);
    }
}

/// Prints one line on standard error, behind the lines of the log, whatever the log level. Waits as [`flush_logs`]
/// does. A closed standard error does not panic.
pub fn print_error(program: &str, error: impl Display) {
    let line = format!("{program}: {error}\n");
    if let Some(queue) = QUEUE.get() {
        queue.push_always(line.as_bytes());
        queue.flush(MAX_FLUSH);
    } else {
        let _ = io::stderr().write_all(line.as_bytes());
    }
}

/// The logger cannot see through a pipe whether standard error is a terminal.
fn with_style(builder: &mut Builder) -> &mut Builder {
    let is_set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    let is_dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
    let is_forbidden = is_set("NO_COLOR") || is_set("RUST_LOG_STYLE") || is_dumb;
    if io::stderr().is_terminal() && !is_forbidden {
        builder.write_style(WriteStyle::Always);
    }
    builder
}

fn write_dropped(logger: &env_logger::Logger, dropped: u64) {
    logger.log(
        &Record::builder()
            .level(Level::Warn)
            .target(module_path!())
            .args(format_args!(
                "{dropped} log records were dropped: the reader of standard error is slow"
            ))
            .build(),
    );
}

/// As the default hook prints it.
fn push_panic(queue: &LogQueue, info: &panic::PanicHookInfo<'_>) {
    let current = thread::current();
    let name = current.name().unwrap_or("<unnamed>");
    let mut text = format!("\nthread '{name}' {info}\n");
    let backtrace = Backtrace::capture();
    if backtrace.status() == BacktraceStatus::Captured {
        text += &format!("stack backtrace:\n{backtrace}\n");
    }
    queue.push(text.as_bytes());
    // The program may be about to end.
    if cfg!(panic = "abort") || name == "main" {
        queue.flush(MAX_FLUSH);
    }
}

/// The end of the queue that the logger writes to: one call for one record.
#[derive(Debug)]
struct QueueInput(Arc<LogQueue>);

impl Write for QueueInput {
    fn write(&mut self, record: &[u8]) -> io::Result<usize> {
        self.0.push(record);
        Ok(record.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
