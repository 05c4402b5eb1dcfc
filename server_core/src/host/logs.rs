//! Logs to standard error.

use std::io::{self, IsTerminal, Write};

/// Logs to standard error, through `default_filter` (for example `info`) unless `RUST_LOG` says
/// otherwise.
pub fn init_logs(default_filter: &str) {
    log_builder(default_filter).init();
}

/// The same through a writer of one's own, which ends at standard error.
pub fn init_logs_through(default_filter: &str, writer: impl Write + Send + 'static) {
    let mut builder = log_builder(default_filter);
    // Behind a writer the logger cannot see whether there is a terminal.
    let is_set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    let is_dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
    let is_forbidden = is_set("NO_COLOR") || is_set("RUST_LOG_STYLE") || is_dumb;
    if io::stderr().is_terminal() && !is_forbidden {
        builder.write_style(env_logger::WriteStyle::Always);
    }
    builder.target(env_logger::Target::Pipe(Box::new(writer)));
    builder.init();
}

fn log_builder(default_filter: &str) -> env_logger::Builder {
    let env = env_logger::Env::default().default_filter_or(default_filter);
    env_logger::Builder::from_env(env)
}
