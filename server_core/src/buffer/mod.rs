//! The chunk pool: what is sent is written once, into a large block that many packets share.
//!
//! ```text
//!  manager (thread-local)      chunk: one block, cut into send buffers     pool (bounded)
//! +--------------------+     +--------+--------+--------+-------------+     +-------+
//! | current chunk  ----|---> | packet | packet | packet |    free     | <---| block |
//! +--------------------+     +--------+--------+--------+-------------+     | block |
//!                                 ^ SendBuffer: Arc + range                 +-------+
//! ```
//!
//! * [`chunk`]: the block and the buffers cut from it; the only unsafe code of this crate.
//! * [`pool`]: where blocks rest between two uses. The last reference to a chunk gives its block
//!   back, from whichever thread that is.
//! * [`manager`]: each thread writes into a chunk of its own, so threads meet at the pool only,
//!   once per chunk and not once per packet.

#![cfg_attr(not(test), deny(clippy::disallowed_methods, clippy::disallowed_types))]

pub mod chunk;
pub mod manager;
pub mod pool;
pub mod queue;
pub mod recv;

pub use chunk::SendBuffer;
pub use manager::SendBufferManager;
pub use pool::ChunkPool;
