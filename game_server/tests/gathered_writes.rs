//! Many queued packets leave in one system call.

use crate::util::*;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

/// Row 10: many queued buffers leave in one system call. `strace` counts the calls; where `strace` is
/// missing or may not attach, the test ends early.
#[test]
fn queued_packets_leave_in_few_system_calls() {
    const PACKETS: usize = 20_000;
    let server = Server::start_quiet(&[]);
    let mut client = server.join();
    let Some(mut strace) = Strace::attach(server.pid()) else {
        println!(
            "strace cannot attach here: only the unit tests of the send queue count the calls"
        );
        return;
    };
    client.send(&packet(C_ECHO, b"few bytes").repeat(PACKETS));
    for _ in 0..PACKETS {
        client.expect_echo(b"few bytes");
    }
    let calls = strace.write_calls();
    assert!(calls > 0, "strace saw nothing");
    assert!(calls < PACKETS / 20, "{calls} calls for {PACKETS} packets");
}

struct Strace {
    child: Child,
    stderr: BufReader<std::process::ChildStderr>,
}

impl Strace {
    fn attach(pid: u32) -> Option<Self> {
        let calls = "trace=write,writev,sendto,sendmsg";
        let mut child = Command::new("strace")
            .args(["-f", "-e", calls, "-p", &pid.to_string()])
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .ok()?;
        let stderr = BufReader::new(child.stderr.take().unwrap());
        let mut strace = Self { child, stderr };
        let mut line = String::new();
        while strace.stderr.read_line(&mut line).unwrap() > 0 {
            if line.contains("attached") {
                return Some(strace);
            }
        }
        None
    }

    fn write_calls(&mut self) -> usize {
        let interrupt = format!("kill -INT {}", self.child.id());
        Command::new("sh")
            .args(["-c", &interrupt])
            .status()
            .unwrap();
        let lines = (&mut self.stderr).lines().map_while(Result::ok);
        let calls = ["write(", "writev(", "sendto(", "sendmsg("];
        lines
            .filter(|line| calls.iter().any(|call| line.contains(call)))
            .count()
    }
}

impl Drop for Strace {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
