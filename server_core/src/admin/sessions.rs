//! The connected sessions as JSON. Knows no HTTP.

use super::http::Selection;
use crate::base::snapshot::SessionInfo;
use serde::Serialize;
use std::cmp::Reverse;
use std::net::SocketAddr;
use std::time::Instant;

/// The content type of the text.
pub const CONTENT_TYPE: &str = "application/json";

/// One session. `game_server/README.md` documents the names and units of the fields, which stay.
#[derive(Serialize)]
struct SessionJson {
    /// As in the log.
    id: String,
    peer: SocketAddr,
    age_ms: u64,
    packets_received: u64,
    packets_sent: u64,
    queued_bytes: usize,
    /// `null` if no byte waits from an earlier turn.
    oldest_unsent_age_ms: Option<u64>,
}

/// A JSON array of the selected sessions.
///
/// # Errors
/// Errors of the encoder. No number and no address causes an error.
pub fn to_json(
    sessions: &[SessionInfo],
    selection: Selection,
    now: Instant,
) -> serde_json::Result<Vec<u8>> {
    let age_ms = |since: Instant| now.saturating_duration_since(since).as_millis() as u64;
    let selected = match selection {
        Selection::All => sessions.iter().collect(),
        Selection::Slowest(count) => slowest(sessions, count),
    };
    let rows: Vec<SessionJson> = selected
        .into_iter()
        .map(|session| SessionJson {
            id: session.id.to_string(),
            peer: session.addr,
            age_ms: age_ms(session.opened_at),
            packets_received: session.packets_received,
            packets_sent: session.packets_sent,
            queued_bytes: session.queued_bytes,
            oldest_unsent_age_ms: session.oldest_unsent_at.map(age_ms),
        })
        .collect();
    let mut json = serde_json::to_vec(&rows)?;
    json.push(b'\n');
    Ok(json)
}

/// The `count` sessions that are furthest behind, the worst first: by the age of the oldest unsent byte,
/// then by the number of queued bytes. The session with the most queued bytes is always in the list, at
/// the latest as the last row, so that every list shows the longest queue of the server.
fn slowest(sessions: &[SessionInfo], count: usize) -> Vec<&SessionInfo> {
    let rank = |session: &&SessionInfo| {
        let since = session.oldest_unsent_at;
        // A session without a byte from an earlier turn comes after all others.
        let place = (since.is_none(), since, Reverse(session.queued_bytes));
        (place, session.id.to_u64())
    };
    let mut rows: Vec<&SessionInfo> = sessions.iter().collect();
    let longest = rows.iter().copied().max_by_key(|row| row.queued_bytes);
    // Sorts only the rows that are listed.
    if count < rows.len() {
        rows.select_nth_unstable_by_key(count, rank);
        rows.truncate(count);
    }
    rows.sort_unstable_by_key(rank);
    let most_listed = rows.iter().map(|row| row.queued_bytes).max();
    if let (Some(longest), Some(last)) = (longest, rows.last_mut())
        && most_listed < Some(longest.queued_bytes)
    {
        *last = longest;
    }
    rows
}
