//! The tests of the program, in one test binary: a file is a feature, and a module here. One binary is
//! linked once, and its tests that wait overlap.

// A failed unwrap is a failed test, also in its helpers.
#![allow(clippy::unwrap_used)]

// The flags are compared in the default build alone.
#[cfg_attr(feature = "cluster", allow(dead_code))]
mod pages;
mod util;

mod admin_http;
mod admin_limits;
mod admin_metrics;
mod admin_page;
mod admin_sessions;
mod admission;
mod bans;
mod broadcast;
mod chat;
#[cfg(feature = "cluster")]
mod cluster;
mod descriptor_limit;
mod disconnect;
mod disconnect_reasons;
mod documents;
mod framing;
mod gathered_writes;
mod hostile_input;
mod lecture_table;
mod load;
mod logging;
#[cfg(feature = "cluster")]
mod login;
mod packet_ids;
mod preflight;
mod proxy;
mod rate_limit;
mod readiness;
mod shutdown;
mod slow_consumer;
mod startup;
mod startup_limits;
mod tick;
mod timeouts;
#[cfg(feature = "websocket")]
mod websocket;

use std::fs;
use std::path::Path;

/// Cargo does not look for test files in a folder with `all.rs` (`autotests = false`): a file without a
/// line there, or in `Cargo.toml`, is not compiled.
#[test]
fn every_test_file_of_the_workspace_is_compiled() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let (mut checked, mut forgotten) = (0, Vec::new());
    for crate_name in ["server_core", "game_server", "dummy_client"] {
        let tests = root.join(crate_name).join("tests");
        let Ok(all) = fs::read_to_string(tests.join("all.rs")) else {
            continue;
        };
        let manifest = fs::read_to_string(root.join(crate_name).join("Cargo.toml")).unwrap();
        for entry in fs::read_dir(&tests).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_stem().unwrap().to_str().unwrap();
            let is_source = path.extension().is_some_and(|ending| ending == "rs");
            let is_program = is_source || path.join("main.rs").exists();
            let is_module = all.lines().any(|line| line == format!("mod {name};"));
            let is_target = manifest
                .lines()
                .any(|line| line == format!("name = \"{name}\""));
            checked += 1;
            if is_program && !is_module && !is_target {
                forgotten.push(path);
            }
        }
    }
    assert!(checked > 20, "only {checked} files were found");
    assert!(forgotten.is_empty(), "not compiled: {forgotten:#?}");
}
