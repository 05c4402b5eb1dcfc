//! The program: command line and run.

pub mod args;
pub mod run;
