//! The chunk pool: a packet is written once, into a large block that many packets share.
//!
//! ```text
//!  manager (thread-local)      chunk: one block, cut into send buffers     pool (bounded)
//! +--------------------+     +--------+--------+--------+-------------+     +-------+
//! | current chunk  ----|---> | packet | packet | packet |    free     | <---| block |
//! +--------------------+     +--------+--------+--------+-------------+     | block |
//!                                 ^ SendBuffer: Arc + range                 +-------+
//! ```
//!
//! * [`chunk`]: the block and the buffers that are cut from it. Its unsafe code rests on one invariant.
//! * [`pool`]: the blocks between two uses. The last reference to a chunk gives its block back, on any
//!   thread.
//! * [`manager`]: each thread writes into a chunk of its own. So threads share only the pool, which they
//!   visit once per chunk and not once per packet.
//! * [`queue`]: the unsent packets of one session.
//! * [`recv`]: the read buffer of one worker.

#![cfg_attr(not(test), deny(clippy::disallowed_methods, clippy::disallowed_types))]

pub mod chunk;
pub mod manager;
pub mod pool;
pub mod queue;
pub mod recv;

pub use chunk::SendBuffer;
pub use manager::SendBufferManager;
pub use pool::ChunkPool;
