//! Packets: from bytes to packets, and from packets to bytes.

#![cfg_attr(not(test), deny(clippy::disallowed_methods, clippy::disallowed_types))]

#[cfg(any(test, feature = "testing", feature = "websocket"))]
pub mod codec;
pub mod framer;
#[cfg(feature = "framing")]
pub mod framing;
pub mod list;
pub mod packet;
mod packets;
pub mod proxy_header;
pub mod reader;
#[cfg(feature = "websocket")]
pub mod upgrade;
#[cfg(feature = "websocket")]
pub mod websocket;
pub mod writer;
