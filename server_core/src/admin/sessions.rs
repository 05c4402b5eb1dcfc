//! The sessions as JSON. Knows no HTTP.

use super::http::Selection;
use crate::base::snapshot::SessionInfo;
use serde::Serialize;
use std::cmp::Reverse;
use std::net::SocketAddr;
use std::time::Instant;

/// What the text is served as.
pub const CONTENT_TYPE: &str = "application/json";

/// One session. Names and units are part of what the README promises.
#[derive(Serialize)]
struct SessionJson {
    id: u64,
    peer: SocketAddr,
    age_ms: u64,
    packets_received: u64,
    packets_sent: u64,
    queued_bytes: usize,
    /// `null` if nothing waits from an earlier turn.
    oldest_unsent_age_ms: Option<u64>,
}

/// An array of these of the sessions.
///
/// # Errors
/// Those of the encoder: none that numbers and addresses could cause.
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
            id: session.id.to_u64(),
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

/// So many of those that are furthest behind, the worst first: by how long their oldest byte has
/// waited, then by how many wait. The one with the most is always among them, at the latest as the
/// last, so that the longest queue of the server is in every such list.
fn slowest(sessions: &[SessionInfo], count: usize) -> Vec<&SessionInfo> {
    let rank = |session: &&SessionInfo| {
        let since = session.oldest_unsent_at;
        // Whoever has nothing from an earlier turn comes after all others.
        let place = (since.is_none(), since, Reverse(session.queued_bytes));
        (place, session.id.to_u64())
    };
    let mut rows: Vec<&SessionInfo> = sessions.iter().collect();
    let longest = rows.iter().copied().max_by_key(|row| row.queued_bytes);
    // Not all are put in order for the sake of a few.
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
