//! The bytes of one read. One buffer per worker, which its sessions share in turn.

/// A worker's read buffer. Between two reads it holds nothing of value: an unfinished packet moves into
/// its session's framer, so an idle session owns no receive memory.
#[derive(Debug)]
pub struct RecvBuffer {
    memory: Box<[u8]>,
}

impl RecvBuffer {
    /// A buffer of `bytes` bytes.
    #[must_use]
    pub fn new(bytes: usize) -> Self {
        Self {
            memory: vec![0; bytes].into_boxed_slice(),
        }
    }

    /// The memory for one read of at most `limit` bytes.
    #[must_use]
    pub fn room(&mut self, limit: usize) -> &mut [u8] {
        let room = limit.min(self.memory.len());
        &mut self.memory[..room]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    #[test]
    fn shows_only_what_came_and_never_more_than_the_limit() {
        let mut buffer = RecvBuffer::new(8);
        let mut input: &[u8] = b"abcdefghijk";
        let mut fill = |limit| {
            let memory = buffer.room(limit);
            let count = input.read(memory).unwrap();
            memory[..count].to_vec()
        };
        assert_eq!(fill(3), b"abc");
        assert_eq!(fill(100), b"defghijk");
        assert_eq!(fill(100), b"");
    }
}
