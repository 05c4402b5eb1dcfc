//! Packets: from bytes to packets, and from packets to bytes.

#![cfg_attr(not(test), deny(clippy::disallowed_methods, clippy::disallowed_types))]

pub mod framer;
pub mod list;
pub mod packet;
mod packets;
pub mod reader;
pub mod writer;
