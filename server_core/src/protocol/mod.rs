//! Packets: from bytes to packets, and from packets to bytes.

#![cfg_attr(not(test), deny(clippy::disallowed_methods, clippy::disallowed_types))]

// WebSocket is the first codec that is more than a test.
#[cfg(any(test, feature = "testing"))]
pub mod codec;
pub mod framer;
#[cfg(feature = "framing")]
pub mod framing;
pub mod list;
pub mod packet;
mod packets;
pub mod proxy_header;
pub mod reader;
pub mod writer;
