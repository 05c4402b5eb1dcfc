//! The program: command line, `--check`, start and end.

pub mod args;
mod ban_file;
pub mod check;
pub mod run;
