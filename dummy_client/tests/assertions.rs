//! `--assert` and the exit status.

use crate::util::fault::clean_stub;
use crate::util::{Run, Stub, client, disturbance, scratch};
use dummy_client::report::Verdict;

#[test]
fn broken_assertion_is_status_1_and_a_line_with_the_value() {
    let args = ["--duration-secs", "1", "--assert", "lost==0"];
    let late = [
        "--assert",
        "tick_delay_p50<0.001us",
        "--assert",
        "rtt_p999<20ms",
    ];
    let json = scratch("holds.json");
    let run = |stub: &Stub| Run::with_text(stub.addr, &args, &json);
    let (good, _) = Run::fit(clean_stub, run, disturbance);
    assert_eq!(good.status, Some(0), "{good:?}");
    assert!(
        good.stdout.contains("assert           holds  lost==0: 0"),
        "{}",
        good.stdout
    );
    let stub = clean_stub();
    let bad = Run::of(client(stub.addr, &args).args(late));
    assert_eq!(bad.status, Some(1), "{bad:?}");
    let broken: Vec<_> = bad
        .stdout
        .lines()
        .filter(|line| line.contains("BROKEN"))
        .collect();
    assert_eq!(broken.len(), 2, "{}", bad.stdout);
    assert!(broken[0].contains("tick_delay_p50<0.001us: ") && broken[0].ends_with(" ms"));
    assert!(broken[1].ends_with("nothing was measured"), "{}", broken[1]);
    let (_, report) = Run::unlimited(&[&args[..], &late].concat(), clean_stub);
    let holds: Vec<bool> = (report.assertions.iter())
        .map(|asserted| asserted.holds)
        .collect();
    assert_eq!(
        (holds, report.verdict),
        (vec![true, false, false], Verdict::Failed)
    );
}
