//! Packets with unknown ids, and invalid headers.

use crate::util::fault::{TEXT, with_fault};
use crate::util::{counts, hello, packet};

/// (lecture row 37)
#[test]
fn unknown_id_is_counted_and_its_payload_is_not_logged() {
    let (run, report) = with_fault(|tick| match tick {
        20 => Some([packet(77, b"secret text"), hello(20, TEXT)].concat()),
        _ => Some(hello(tick, TEXT)),
    });
    assert_eq!(run.status, Some(1));
    assert_eq!(counts(&report, ["packets_unknown"]), [1]);
    assert!(run.stderr.contains("id 77 size 15"), "{}", run.stderr);
    assert!(!run.stderr.contains("secret"));
}

/// (lecture row 37)
#[test]
fn id_size_and_text_of_each_session_are_logged() {
    let (run, _) = with_fault(|tick| Some(hello(tick, TEXT)));
    for session in 1..=3 {
        let line = format!("session {session}: id 1 size 23 \"Hello World\"");
        assert!(run.stderr.contains(&line), "{line} in {}", run.stderr);
    }
}

#[test]
fn invalid_size_loses_that_session() {
    for (size, label) in [(0, "bad_size"), (3, "bad_size")] {
        let (run, report) = with_fault(move |tick| match tick {
            20 => Some(vec![size, 0, 1, 0]),
            _ => Some(hello(tick, TEXT)),
        });
        assert_eq!(run.status, Some(1));
        let disconnect = &report.disconnects[0];
        assert_eq!((&*disconnect.reason, disconnect.count), (label, 1));
        assert_eq!(report.sessions.connected_at_end, 2);
    }
}
