//! The tests of the program, in one test binary: a file is a feature, and a module here. One binary is
//! linked once, and its tests that wait overlap. Attacks and encrypted runs need the processors for themselves, and the
//! capacity search repeats a run in which the client was late by 100 ms: they have binaries of their own.

// A failed unwrap is a failed test, also in its helpers.
#![allow(clippy::unwrap_used)]

#[path = "../../game_server/tests/pages/mod.rs"]
mod pages;
mod util;

mod assertions;
mod chats;
mod compare;
mod disconnect_reasons;
mod documents;
mod echoes;
mod exit_status;
mod framing;
mod load_profile;
mod modules;
mod output;
mod preflight;
mod profile;
mod share;
mod signals;
// `ulimit -v`.
#[cfg(target_os = "linux")]
mod start;
mod ticks;
