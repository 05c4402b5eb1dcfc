//! The tests of the library that need no binary of their own, in one test binary: a file is a feature, and a
//! module here. One binary is linked once, and its tests that wait overlap.
#![allow(clippy::unwrap_used)] // In a test, a panic is the report.

mod util;

mod admin;
mod admission;
mod api;
mod app;
mod backpressure;
mod broadcast;
mod client;
mod close_reasons;
mod cluster_redis;
mod cluster_tls;
mod examples;
mod framing;
mod game_loop;
mod game_rooms;
mod groups;
mod handle_after_end;
mod handler_panic;
mod layers;
mod limits;
mod listen;
mod logins;
mod messages;
mod packet_counts;
mod packets;
mod sending;
mod session_lifecycle;
mod shutdown;
mod sim_server;
mod slow_consumer;
mod snapshot;
mod start;
mod ticker;
mod timeouts;
mod tls;
mod websocket;
