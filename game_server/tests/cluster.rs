//! A cluster over a real Redis: where an account is logged in, and the nodes of the live page. Needs the feature
//! `cluster` and the program redis-server.

use crate::util::admin::*;
use crate::util::*;
use serde_json::Value;
use server_core::SessionId;
use server_core::testing::Redis;
use std::net::{SocketAddr, TcpListener};
use std::process::Stdio;
use std::time::{Duration, Instant};

const C_LOGIN: u16 = 8;
const S_LOGIN: u16 = 9;

fn start_node(redis: &Redis, name: &str) -> (Server, SocketAddr) {
    let (server, admin) = start(
        &[
            &QUIET[..],
            &["--cluster", redis.url(), "--node", name, "--login"],
        ]
        .concat(),
    );
    wait_until("the link", DEADLINE, || {
        scrape(admin).value("cluster_link_up") == 1.0
    });
    (server, admin)
}

fn login(server: &Server, account: &str) -> RawClient {
    let mut client = RawClient::connect(server.addr);
    client.send_packet(C_LOGIN, account);
    assert_eq!(client.next_packet().id, S_LOGIN);
    client
}

#[test]
fn account_is_found_from_each_node_and_without_the_broker_on_its_own_node() {
    let Some(mut redis) = Redis::start() else {
        return;
    };
    let nodes = ["a", "b"].map(|name| start_node(&redis, name));
    let [(a, at_a), (_, at_b)] = &nodes;
    let path = "/sessions?account=ada%20%C3%A4";
    assert_eq!(sessions_at(*at_b, path), Vec::<Value>::new());
    let client = login(a, "ada \u{e4}");
    let id = sessions(*at_a)[0]["id"].as_str().unwrap().to_owned();
    assert!(id.parse::<SessionId>().is_ok());
    for admin in [at_a, at_b] {
        // b knows a by its heartbeat.
        wait_until("the session to be found", DEADLINE, || {
            !sessions_at(*admin, path).is_empty()
        });
        let rows = sessions_at(*admin, path);
        assert_eq!(rows.len(), 1);
        assert_eq!(rows[0]["account"], "ada \u{e4}");
        assert_eq!(rows[0]["node"], "a");
        assert_eq!(rows[0]["id"], id);
        assert!(rows[0]["node_number"].is_u64());
    }

    // The newest login of the account stays, on the other node.
    let second = login(&nodes[1].0, "ada \u{e4}");
    for admin in [at_a, at_b] {
        wait_until("the newer session to be found", DEADLINE, || {
            let rows = sessions_at(*admin, path);
            rows.first().is_some_and(|row| row["node"] == "b")
        });
    }
    drop(client);

    redis.pause();
    let asked_at = Instant::now();
    assert_eq!(get(*at_a, path).status, 503, "the broker does not answer");
    assert!(asked_at.elapsed() < Duration::from_secs(5));
    assert_eq!(sessions_at(*at_b, path)[0]["node"], "b", "its own session");
    assert_eq!(get(*at_a, "/metrics").status, 200);
    redis.resume();
    wait_until("the session to be found again", DEADLINE, || {
        get(*at_a, path).status == 200
    });
    drop(second);
    wait_until("the session to be gone", DEADLINE, || {
        // Without an answer of the broker in time, the status is 503.
        [at_a, at_b].iter().all(|at| {
            let response = get(**at, path);
            response.status == 200 && response.body == b"[]\n"
        })
    });
}

#[test]
fn nodes_are_listed_with_their_sessions_and_this_one_is_marked() {
    let Some(redis) = Redis::start() else { return };
    let nodes = ["a", "b"].map(|name| start_node(&redis, name));
    let _client = login(&nodes[0].0, "ada");
    for (own, (_, admin)) in nodes.iter().enumerate() {
        let mut json = Value::Null;
        wait_until("both nodes and the session", DEADLINE, || {
            let response = get(*admin, "/nodes");
            assert_eq!(response.status, 200);
            json = serde_json::from_slice(&response.body).unwrap();
            let rows = json["nodes"].as_array().unwrap();
            rows.len() == 2 && rows[0]["sessions"] == 1
        });
        assert_eq!(json["link_up"], true);
        assert!(json["age_ms"].as_u64().unwrap() < 60_000);
        for (at, name) in ["a", "b"].iter().enumerate() {
            let row = &json["nodes"][at];
            assert_eq!(
                (&row["node"], &row["self"]),
                (&(*name).into(), &(at == own).into())
            );
            assert_eq!(row["sessions"], 1 - at);
            assert_eq!(row["draining"], false);
            assert!(row["age_ms"].as_u64().unwrap() < 60_000 && row["node_number"].is_u64());
        }
        assert!(get(*admin, "/").text().contains("HAS_CLUSTER = true"));
    }
}

#[test]
fn server_without_a_cluster_has_neither_nodes_nor_accounts() {
    let (_server, admin) = start(&QUIET);
    assert_eq!(get(admin, "/nodes").status, 404);
    assert_eq!(get(admin, "/sessions?account=ada").status, 404);
    assert!(get(admin, "/").text().contains("HAS_CLUSTER = false"));
}

#[test]
fn broker_that_cannot_be_asked_ends_the_program_before_it_listens() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = taken.local_addr().unwrap().to_string();
    let mut bad = vec![(vec!["--cluster", "http://x"], "URL of the broker", 2)];
    if cfg!(feature = "tls") {
        let flags = vec!["--cluster", "rediss://x", "--cluster-ca", "/no/such.pem"];
        bad.push((flags, "/no/such.pem", 1));
        bad.push((vec!["--cluster", "rediss://x"], "rediss", 2));
    }
    for (flags, cause, status) in bad {
        let mut command = command(&[&["--addr", &addr], &flags[..]].concat());
        let output = command.stdout(Stdio::piped()).output().unwrap();
        assert_eq!(output.status.code(), Some(status));
        let text = String::from_utf8(output.stderr).unwrap();
        // One that listens first would name the address.
        assert!(text.contains(cause) && !text.contains(&addr), "{text}");
        assert_eq!(text.trim_end().lines().count(), 1, "{text}");
    }
}
