//! The nodes of the cluster, and where an account is logged in, as JSON. Knows no HTTP but the status.

use super::ClusterOf;
use super::http::Status;
use super::service::{AnswerTimeout, ClientKey, MAX_CONNECTIONS, Response};
use crate::base::text::escape_controls;
use crate::cluster::{AccountSession, Cluster};
use crate::shard::guarded;
use serde::Serialize;
use std::mem;
use std::rc::Rc;
use std::sync::mpsc::{Receiver, TryRecvError};
use std::time::Instant;

/// The cluster of the server, and the searches for accounts that have no answer.
pub struct World {
    cluster: ClusterOf,
    searches: Vec<Search>,
}

/// A request for an account.
struct Search {
    account: Rc<str>,
    client: ClientKey,
    answer: Receiver<Option<AccountSession>>,
    timeout: AnswerTimeout,
}

/// The names and units of the fields are in `game_server/README.md`, and stay.
#[derive(Serialize)]
struct AccountJson<'a> {
    account: &'a str,
    node: &'a str,
    node_number: u32,
    /// As in the log of that node.
    id: String,
}

#[derive(Serialize)]
struct NodesJson<'a> {
    link_up: bool,
    age_ms: u64,
    nodes: Vec<NodeJson<'a>>,
}

#[derive(Serialize)]
struct NodeJson<'a> {
    node: &'a str,
    node_number: u32,
    sessions: u32,
    draining: bool,
    #[serde(rename = "self")]
    is_local: bool,
    age_ms: u64,
}

impl World {
    pub fn new(cluster: ClusterOf) -> Self {
        Self {
            cluster,
            searches: Vec::new(),
        }
    }

    /// Whether a search has no answer.
    pub fn is_pending(&self) -> bool {
        !self.searches.is_empty()
    }

    /// The nodes of the cluster.
    ///
    /// # Errors
    /// [`Status::Unavailable`] before the cluster has started.
    pub fn nodes(&self) -> Response {
        let nodes = self.cluster()?.nodes();
        let rows = (nodes.nodes.iter()).map(|node| NodeJson {
            node: &node.name,
            node_number: node.id.to_u32(),
            sessions: node.sessions,
            draining: node.is_draining,
            is_local: node.is_local,
            age_ms: node.age.as_millis() as u64,
        });
        to_json(&NodesJson {
            link_up: nodes.is_link_up,
            age_ms: nodes.age.as_millis() as u64,
            nodes: rows.collect(),
        })
    }

    /// Begins the search for an account, whose result [`poll`](Self::poll) returns.
    ///
    /// # Errors
    /// [`Status::Unavailable`] before the cluster has started, and while [`MAX_CONNECTIONS`] searches have no answer:
    /// a client that gives up leaves its search.
    pub fn begin_search(
        &mut self,
        account: &Rc<str>,
        client: ClientKey,
        now: Instant,
    ) -> Result<(), Status> {
        if self.searches.len() >= MAX_CONNECTIONS {
            return Err(Status::Unavailable);
        }
        let answer = self.cluster()?.find(account);
        self.searches.push(Search {
            account: Rc::clone(account),
            client,
            answer,
            timeout: AnswerTimeout::new(now),
        });
        Ok(())
    }

    /// The responses of the searches that have ended.
    pub fn poll(&mut self, now: Instant) -> Vec<(ClientKey, Response)> {
        let mut responses = Vec::new();
        for mut search in mem::take(&mut self.searches) {
            let response = match search.answer.try_recv() {
                Ok(found) => found_to_json(&search.account, found.as_ref()),
                Err(TryRecvError::Empty) if !search.timeout.is_over(now) => {
                    self.searches.push(search);
                    continue;
                }
                Err(_) => Err(Status::Unavailable),
            };
            responses.push((search.client, response));
        }
        responses
    }

    fn cluster(&self) -> Result<Cluster, Status> {
        // A panic in the game's function must not end the port.
        let cluster = guarded(&self.cluster).ok().flatten();
        cluster.ok_or(Status::Unavailable)
    }
}

fn found_to_json(account: &str, found: Option<&AccountSession>) -> Response {
    let row = found.map(|found| AccountJson {
        account,
        node: &found.node_name,
        node_number: found.node.to_u32(),
        id: found.session.to_string(),
    });
    to_json(&Vec::from_iter(row))
}

fn to_json(value: &impl Serialize) -> Response {
    let mut json = serde_json::to_string(value).map_err(|error| {
        // No name and no number causes an error.
        log::error!("JSON of the cluster failed: {error}");
        Status::Unavailable
    })?;
    json.push('\n');
    Ok(escape_controls(&json).into_bytes().into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    #[test]
    fn json_has_no_character_that_controls_a_terminal_or_turns_text() {
        let shown = "ada \u{e4}\u{d55c}\"";
        let hidden = "\u{1b}[31m\u{7f}\u{9b}2J\u{202e}\u{2066}\u{200f}\u{61c}\u{2028}\u{e0041}";
        let account = [shown, hidden].concat();
        let row = AccountJson {
            account: &account,
            node: "n\u{202e}",
            node_number: 1,
            id: "1-2".into(),
        };
        let json = to_json(&[row]).unwrap();
        let text = str::from_utf8(&json).unwrap();
        let is_shown =
            |c: char| c == '\n' || c == '\\' || !hidden.contains(c) || c.is_ascii_graphic();
        assert!(text.chars().all(is_shown), "{text:?}");
        assert!(text.contains("\u{e4}\u{d55c}"), "{text:?}");
        let value: Value = serde_json::from_str(text).unwrap();
        assert_eq!(value[0]["account"], *account);
        assert_eq!(value[0]["node"], "n\u{202e}");
    }
}
