//! The sessions as JSON. Knows no HTTP.

use serde::Serialize;
use server_core::snapshot::SessionInfo;
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

/// An array of all sessions.
///
/// # Errors
/// Those of the encoder: none that numbers and addresses could cause.
pub fn to_json(sessions: &[SessionInfo], now: Instant) -> serde_json::Result<Vec<u8>> {
    let age_ms = |since: Instant| now.saturating_duration_since(since).as_millis() as u64;
    let rows: Vec<SessionJson> = sessions
        .iter()
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
