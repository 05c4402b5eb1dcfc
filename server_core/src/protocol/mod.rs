//! Packets: how bytes become packets, and packets bytes.

pub mod framer;
pub mod list;
pub mod packet;
mod packets;
pub mod reader;
pub mod writer;
