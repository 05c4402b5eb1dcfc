//! The bytes of one read. One buffer per worker, which its sessions share in turn.

use std::io::{self, Read};

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

    /// Reads once, at most `limit` bytes, and returns the bytes. An empty slice is the end of the stream.
    ///
    /// # Errors
    /// Errors of the reader. A read that returns [`io::ErrorKind::Interrupted`] is repeated.
    pub fn fill_from(&mut self, reader: &mut impl Read, limit: usize) -> io::Result<&[u8]> {
        let room = limit.min(self.memory.len());
        loop {
            match reader.read(&mut self.memory[..room]) {
                Ok(count) => return Ok(&self.memory[..count]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shows_only_what_came_and_never_more_than_the_limit() {
        let mut buffer = RecvBuffer::new(8);
        let mut input: &[u8] = b"abcdefghijk";
        assert_eq!(buffer.fill_from(&mut input, 3).unwrap(), b"abc");
        assert_eq!(buffer.fill_from(&mut input, 100).unwrap(), b"defghijk");
        assert_eq!(buffer.fill_from(&mut input, 100).unwrap(), b"");
    }
}
