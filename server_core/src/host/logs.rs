//! Logs and errors on standard error.

use std::fmt::Display;
use std::io::{self, IsTerminal, Write};

/// Logs to standard error through `default_filter` (for example `info`). `RUST_LOG` replaces the filter. A program
/// that has a logger keeps it.
pub fn init_logs(default_filter: &str) {
    let _ = log_builder(default_filter).try_init();
}

/// Like [`init_logs`], through a writer of the program that ends at standard error.
pub fn init_logs_through(default_filter: &str, writer: impl Write + Send + 'static) {
    let mut builder = log_builder(default_filter);
    // The logger cannot see through the writer whether standard error is a terminal.
    let is_set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    let is_dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
    let is_forbidden = is_set("NO_COLOR") || is_set("RUST_LOG_STYLE") || is_dumb;
    if io::stderr().is_terminal() && !is_forbidden {
        builder.write_style(env_logger::WriteStyle::Always);
    }
    builder.target(env_logger::Target::Pipe(Box::new(writer)));
    let _ = builder.try_init();
}

fn log_builder(default_filter: &str) -> env_logger::Builder {
    let env = env_logger::Env::default().default_filter_or(default_filter);
    env_logger::Builder::from_env(env)
}

/// Prints one line on standard error, whatever the log level. A closed standard error does not panic.
pub fn print_error(program: &str, error: impl Display) {
    let _ = writeln!(io::stderr(), "{program}: {error}");
}
