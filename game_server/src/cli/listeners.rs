//! The listeners beside that of plain TCP.

use super::args::Args;
use server_core::ListenerKind;
use std::net::SocketAddr;

/// A transport and the addresses of which its listener takes one.
type Listeners = Vec<(ListenerKind, Vec<SocketAddr>)>;

/// The listeners that the flags ask for.
///
/// # Errors
/// A flag has a value that it cannot have, or this build lacks its feature. The message is for the user.
#[cfg(feature = "websocket")]
pub fn listeners(args: &Args) -> Result<Listeners, String> {
    let origins = (args.ws_origins.iter())
        .map(|origin| (origin.parse()).map_err(|error| format!("--ws-origin {origin}: {error}")))
        .collect::<Result<Vec<_>, _>>()?;
    let websocket = ListenerKind::WebSocket(origins.into());
    let addrs = args.ws_addr.iter();
    Ok(addrs
        .map(|addrs| (websocket.clone(), addrs.all().to_vec()))
        .collect())
}

/// The listeners that the flags ask for.
///
/// # Errors
/// This build lacks the feature of a flag. The message is for the user.
#[cfg(not(feature = "websocket"))]
pub fn listeners(args: &Args) -> Result<Listeners, String> {
    if args.ws_addr.is_some() || !args.ws_origins.is_empty() {
        return Err("--ws-addr and --ws-origin need a build with --features websocket".into());
    }
    Ok(Vec::new())
}
