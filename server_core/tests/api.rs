//! What every user of a public type may count on: it travels between threads, it can be shown, and
//! an error is an error.

use server_core::admin::{Admin, BoundAdmin, Host};
use server_core::backoff::Backoff;
use server_core::metrics::{Counter, Histogram, Metrics, Totals, WorkerMetrics};
use server_core::packet::{FromClient, FromServer};
use server_core::rate_limiter::RateLimiter;
use server_core::snapshot::{SessionInfo, Snapshot, WorkerGone};
use server_core::tick::{Tick, TickSchedule};
use server_core::wire::{F32Le, F64Le, I16Le, I32Le, I64Le, PacketHeader, U16Le, U32Le, U64Le};
use server_core::{
    BanList, BanListError, Bans, Cidr, Config, Content, ContentError, ContentReceiver,
    ContentSender, Context, DisconnectReason, Handlers, InvalidCidr, InvalidSessionId, Kick, List,
    ListIter, MailboxFull, Packet, PacketReader, PacketTooLarge, PacketWriter, Peer, PoolStats,
    SendBuffer, Server, ServerBuilder, ServerHandle, Session, SessionId, TickMetrics, TickStopper,
    Ticker,
};
use server_core::{GameLoop, GamePlayer};
use std::error::Error;
use std::fmt::{Debug, Display};
use std::hash::Hash;

fn travels<T: Send + Sync + Debug>() {}
fn is_a_value<T: Copy + Eq + Hash + Send + Sync + Debug + 'static>() {}
fn is_an_error<T: Error + Display + Clone + Eq + Send + Sync + 'static>() {}

#[test]
fn shared_types_are_send_and_sync() {
    travels::<Server>();
    travels::<ServerBuilder>();
    travels::<ServerHandle>();
    travels::<Admin>();
    travels::<BoundAdmin>();
    travels::<Host>();
    travels::<Config>();
    travels::<Bans>();
    travels::<BanList>();
    travels::<Ticker>();
    travels::<GameLoop>();
    travels::<GamePlayer>();
    travels::<TickStopper>();
    travels::<TickMetrics>();
    travels::<TickSchedule>();
    travels::<Metrics>();
    travels::<WorkerMetrics>();
    travels::<Counter>();
    travels::<Histogram>();
    travels::<Totals>();
    travels::<Snapshot>();
    travels::<SessionInfo>();
    travels::<PoolStats>();
    travels::<SendBuffer>();
    travels::<Backoff>();
    travels::<RateLimiter>();
    travels::<Packet<'_>>();
    travels::<PacketReader<'_>>();
    travels::<PacketWriter<'_>>();
    travels::<List<'_, &str>>();
    travels::<ListIter<'_, &str>>();
    travels::<Context<'_>>();
    travels::<ContentSender<std::rc::Rc<u8>>>();
    travels::<ContentReceiver>();
    travels::<Content>();
}

/// A table is shared by all workers, whatever a session holds: sessions stay on their thread.
#[test]
fn handlers_of_a_session_that_is_not_send_are_shared() {
    type NotSend = std::rc::Rc<std::cell::Cell<u8>>;
    travels::<Handlers<NotSend>>();
    travels::<Handlers<NotSend, FromServer>>();
    travels::<Handlers<NotSend, FromClient>>();
}

#[test]
fn small_values_are_copy_eq_and_hash() {
    is_a_value::<Cidr>();
    is_a_value::<SessionId>();
    is_a_value::<Peer>();
    is_a_value::<Kick>();
    is_a_value::<DisconnectReason>();
    is_a_value::<Tick>();
    is_a_value::<U16Le>();
    is_a_value::<U32Le>();
    is_a_value::<U64Le>();
    is_a_value::<I16Le>();
    is_a_value::<I32Le>();
    is_a_value::<I64Le>();
    travels::<F32Le>();
    travels::<F64Le>();
    travels::<PacketHeader>();
}

#[test]
fn error_types_implement_error() {
    is_an_error::<BanListError>();
    is_an_error::<InvalidCidr>();
    is_an_error::<InvalidSessionId>();
    is_an_error::<Kick>();
    is_an_error::<PacketTooLarge>();
    is_an_error::<WorkerGone>();
    is_an_error::<MailboxFull>();
    is_an_error::<ContentError>();
}

/// For a session of your own that hands everything on to one of several kinds.
#[test]
fn session_is_object_safe() {
    fn holds(_: Option<Box<dyn Session>>) {}
    holds(None);
}
