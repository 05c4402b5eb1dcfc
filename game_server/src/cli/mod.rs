//! The program: command line, `--check`, start and end.

pub mod args;
pub mod check;
pub mod run;
