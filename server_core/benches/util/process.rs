//! The processes of a benchmark: processor time, and clients that discard. Linux only.

// Each benchmark uses a part.
#![allow(dead_code)]

use mio::net::TcpStream as Socket;
use mio::{Events, Interest, Poll, Token};
use std::io::{self, ErrorKind, Read};
use std::net::TcpStream;
use std::process::Child;
use std::{fs, iter};

/// A process of this benchmark, which ends with this value.
pub struct Process(pub Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The processor time so far of the threads of a process whose name begins with `name`, in nanoseconds.
pub fn cpu_nanos(process: u32, name: &str) -> io::Result<u64> {
    let mut sum = 0;
    for task in fs::read_dir(format!("/proc/{process}/task"))? {
        let task = task?.path();
        if fs::read_to_string(task.join("comm"))?.starts_with(name) {
            let stat = fs::read_to_string(task.join("schedstat"))?;
            let nanos = stat.split(' ').next().unwrap_or_default();
            sum += nanos.parse::<u64>().map_err(io::Error::other)?;
        }
    }
    Ok(sum)
}

/// The value in the middle, NaN if there is none.
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// Reads and discards what the streams receive, until the first of them ends.
pub fn discard_all(streams: Vec<TcpStream>) -> io::Result<()> {
    let mut poll = Poll::new()?;
    let mut all = Vec::new();
    for (stream, number) in iter::zip(streams, 0..) {
        stream.set_nonblocking(true)?;
        let mut socket = Socket::from_std(stream);
        (poll.registry()).register(&mut socket, Token(number), Interest::READABLE)?;
        all.push(socket);
    }
    let (mut events, mut memory) = (Events::with_capacity(1024), vec![0; 64 << 10]);
    loop {
        poll.poll(&mut events, None)?;
        for event in &events {
            loop {
                match all[event.token().0].read(&mut memory) {
                    Ok(0) => return Ok(()),
                    Ok(_) => {}
                    Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                    Err(error) => return Err(error),
                }
            }
        }
    }
}
