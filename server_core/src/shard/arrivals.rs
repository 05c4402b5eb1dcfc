//! Arrivals: a connection gets its place in the table, and its session.

use super::{Shard, guarded};
use crate::base::id::SessionId;
use crate::base::reason::DisconnectReason;
use crate::base::trace::TraceKind;
use crate::connection::Connection;
use crate::routing::router::NewConnection;
use crate::session::{Peer, Session};
use crate::transport::Transport;
use std::io;
use std::sync::Arc;
use std::time::Instant;

impl<T: Transport + Send + 'static, S: Session> Shard<T, S> {
    pub(super) fn adopt(
        &mut self,
        arrival: NewConnection<T>,
        now: Instant,
        register: impl FnOnce(&mut T, SessionId) -> io::Result<()>,
    ) {
        let NewConnection {
            stream,
            permit,
            tag,
            is_connecting,
        } = arrival;
        let addr = permit.peer();
        if self.admission.is_none() {
            self.admission = Some(Arc::clone(permit.admission()));
        }
        let shared = Arc::clone(&self.shared);
        let mut requires_login = false;
        let inserted = self.table.insert(|id| {
            let session = guarded(|| {
                let session = (shared.factory)(Peer::new(id, addr, tag));
                requires_login = session.requires_login();
                session
            })?;
            Ok::<_, DisconnectReason>(Connection::new(session, stream, permit, tag, now))
        });
        if !is_connecting {
            shared.metrics.accepted.add(1);
            self.unadmitted.unsettled += 1;
        }
        let id = match inserted {
            Ok(id) => id,
            Err(reason) => {
                let reason = reason.unwrap_or(DisconnectReason::ServerFull);
                shared.metrics.count_disconnect(self.worker, reason);
                log::error!("could not take over the connection of {addr}: {reason}");
                return;
            }
        };
        if requires_login && !is_connecting {
            self.await_login(id);
        }
        let registered = self.table.try_visit(id, |connection| {
            register(connection.stream_mut(), id)
                .map_err(|error| DisconnectReason::IoError(error.kind()))
        });
        if registered.is_none() {
            return;
        }
        if is_connecting {
            self.rearm(id);
        } else {
            self.establish(id, now);
        }
        if self.shutdown_by.is_some() {
            self.close(id, DisconnectReason::Shutdown);
        }
    }

    /// The stream of a session is connected: its packets flow now, or its handshake begins.
    fn establish(&mut self, id: SessionId, now: Instant) {
        match self.table.visit(id, |connection| connection.establish(now)) {
            Some(true) => self.connected(id, now),
            Some(false) => self.await_handshake(id),
            None => {}
        }
    }

    pub(super) fn connected(&mut self, id: SessionId, now: Instant) {
        if self.pending_broadcast.is_some() {
            // The pending broadcast is older than this session.
            self.table
                .visit(id, |connection| connection.is_detached = true);
            self.detached.push(id);
        }
        self.table.note_connected(id);
        let transport = self.table.visit(id, |connection| connection.transport());
        self.metrics().count_session(transport.unwrap_or_default());
        if self.is_tracing() {
            let addr = self.table.visit(id, |connection| connection.peer(id).addr);
            addr.inspect(|addr| self.traces.add(id, *addr, TraceKind::Connected));
        }
        self.call(id, now, |session, ctx| session.on_connected(ctx));
        self.rearm(id);
    }
}
