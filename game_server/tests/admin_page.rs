//! The live page: what it loads, what it may ask for, and which metrics it shows.

use crate::util::admin::*;
use crate::util::*;
use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;

#[test]
fn page_loads_nothing_from_elsewhere() {
    let (_server, addr) = start(&QUIET);
    let response = get(addr, "/");
    assert_eq!(response.status, 200);
    assert_eq!(
        response.header("content-type"),
        Some("text/html; charset=utf-8")
    );
    let page = response.text();
    assert!(page.starts_with("<!doctype html>") && page.ends_with("</html>\n"));
    assert!(page.len() < 50_000, "{} bytes", page.len());
    // No resource of another origin, and no text that becomes markup or code.
    for never in [
        "http:",
        "https:",
        "//",
        "src=",
        "@import",
        "url(",
        "import(",
        "innerHTML",
        "outerHTML",
        "insertAdjacent",
        "document.write",
        "eval(",
        "Function(",
        "onclick=",
        "onload=",
        "style=",
    ] {
        let lines = page.lines().filter(|line| {
            let code = line.trim_start();
            line.contains(never) && !code.starts_with("// ") && !code.starts_with("/**")
        });
        assert_eq!(lines.collect::<Vec<_>>(), Vec::<&str>::new(), "{never}");
    }
    // Its links and requests go to this port.
    for (attribute, known) in [
        (
            "href=\"",
            &["data:,", "/metrics", "/sessions", "/healthz"][..],
        ),
        ("ask(\"", &["/metrics", "/nodes"]),
        ("ask(`", &["/sessions?slowest=${SLOWEST}"]),
    ] {
        let found: BTreeSet<&str> = (page.split(attribute).skip(1))
            .map(|rest| rest.split(['"', '`']).next().unwrap())
            .collect();
        assert_eq!(found, known.iter().copied().collect(), "{attribute}");
    }
}

#[test]
fn page_policy_allows_requests_to_its_own_port_only() {
    let (_server, addr) = start(&QUIET);
    for path in ["/", "/metrics", "/sessions", "/nowhere"] {
        let response = get(addr, path);
        let policy = response.header("content-security-policy").unwrap();
        let directives: BTreeMap<&str, &str> = policy
            .split("; ")
            .map(|directive| directive.split_once(' ').unwrap())
            .collect();
        let expected = BTreeMap::from([
            ("default-src", "'none'"),
            ("script-src", "'unsafe-inline'"),
            ("style-src", "'unsafe-inline'"),
            ("img-src", "data:"),
            ("connect-src", "'self'"),
            ("base-uri", "'none'"),
            ("form-action", "'none'"),
            ("frame-ancestors", "'none'"),
            ("require-trusted-types-for", "'script'"),
            ("trusted-types", "'none'"),
        ]);
        assert_eq!(directives, expected, "{path}");
        assert_eq!(response.header("x-content-type-options"), Some("nosniff"));
    }
}

#[test]
fn page_shows_only_metrics_and_reasons_that_exist() {
    let (_server, addr) = start(&QUIET);
    let page = get(addr, "/").text();
    let text = get(addr, "/metrics").text();
    let names = names_in(&page);
    assert!(names.len() >= 13, "{names:?}");
    for name in names {
        // The parts of a histogram are series; its name is not.
        let is_there = text.lines().any(|line| {
            line.strip_prefix(&name)
                .is_some_and(|rest| rest.starts_with([' ', '{']) || rest.starts_with("_bucket{"))
        });
        assert!(is_there, "{name} is not in /metrics");
    }
    // Its kicks are the kicks of the server library.
    let (_, rest) = page.split_once("const KICKS = [").unwrap();
    let (list, _) = rest.split_once(']').unwrap();
    let kicks: Vec<&str> = list.split('"').skip(1).step_by(2).collect();
    let by_code: Vec<&str> = (0..kicks.len()).map(|at| REASONS[at]).collect();
    assert_eq!(kicks, by_code);
    assert_eq!(
        REASONS[kicks.len()],
        "server_full",
        "the next code is not a kick"
    );
}

#[test]
fn page_is_served_beside_garbage_and_loses_no_tick() {
    let (server, addr) = start(&["--tick-ms", "20"]);
    let whole = get(addr, "/").body;
    let tick_reader = TickReader::with_longest_gap(server.join(), LONGEST_GAP);
    let mut random = random();
    let mut held = Vec::new();
    for _ in 0..100 {
        let count = random.usize(1..2_000);
        let mut garbage = connect(addr);
        // The server may refuse it before its end.
        let _ = garbage.write_all(&random_bytes(&mut random, count));
        held.push(garbage);
        held.push(connect_and_send(addr, b"GET / HTT"));
        // The requests of a page, one after the other.
        assert_eq!(get(addr, "/").body, whole);
        scrape(addr);
        assert_eq!(slowest(addr, 20).len(), 1);
    }
    tick_reader.stop_after(11);
}
