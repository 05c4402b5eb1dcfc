//! Handlers of packets: a table by id, made once and shared by all sessions.

use crate::base::reason::Kick;
use crate::protocol::packet::{Direction, FromClient, IncomingPacket, Packet};
use crate::session::Context;
use std::fmt;
use std::marker::PhantomData;

/// A table of typed handlers for server sessions of type `S`. Client sessions use
/// `Handlers<S, FromServer>`.
///
/// The packet is decoded before its handler is called. The handler gets the body, and an invalid packet
/// never reaches it. An id without a handler is [`Kick::UnknownId`], for all 65,536 ids. A packet costs
/// a binary search, and no allocation.
///
/// A handler has the signature of a method that takes the body, so a method of the session works as well
/// as a closure:
///
/// ```
/// use server_core::{Context, Handlers, Kick, Packet, Session};
/// use std::sync::LazyLock;
///
/// server_core::packets! {
///     /// Any bytes, to be sent back.
///     client 2 => pub CEcho + bytes;
///     /// The same bytes.
///     server 3 => pub SEcho + bytes;
///     /// A step.
///     client 7 => pub CMove {
///         /// To the right.
///         dx: i16,
///     };
/// }
///
/// #[derive(Default)]
/// struct Player {
///     x: i64,
/// }
///
/// static HANDLERS: LazyLock<Handlers<Player>> = LazyLock::new(|| {
///     Handlers::<Player>::new()
///         .on::<CMove>(Player::on_move)
///         .on::<CEcho>(|_player, ctx, bytes| {
///             ctx.send(&SEcho, bytes);
///             Ok(())
///         })
/// });
///
/// impl Session for Player {
///     fn on_packet(&mut self, ctx: &mut Context<'_>, packet: Packet<'_>) -> Result<(), Kick> {
///         HANDLERS.dispatch(self, ctx, packet)
///     }
/// }
///
/// impl Player {
///     fn on_move(&mut self, _: &mut Context<'_>, step: &CMove) -> Result<(), Kick> {
///         self.x += i64::from(step.dx());
///         Ok(())
///     }
/// }
/// # assert_eq!(HANDLERS.ids().collect::<Vec<_>>(), [2, 7]);
/// ```
///
/// A packet of the wrong direction cannot be registered. This does not compile, and it compiles with
/// `client 1` or `both 1`:
///
/// ```compile_fail,E0277
/// # use server_core::Handlers;
/// server_core::packets! {
///     /// From server to client.
///     server 1 => pub SHello { tick: u64 } + text;
/// }
/// Handlers::<()>::new().on::<SHello>(|_, _, _| Ok(()));
/// ```
///
/// ```
/// # use server_core::{Handlers, packet::FromServer};
/// # server_core::packets! {
/// #     /// From server to client.
/// #     both 1 => pub SHello { tick: u64 } + text;
/// # }
/// Handlers::<()>::new().on::<SHello>(|_, _, _| Ok(()));
/// Handlers::<(), FromServer>::new().on::<SHello>(|_, _, _| Ok(()));
/// ```
pub struct Handlers<S, D = FromClient> {
    /// In the order of ids, without duplicates.
    by_id: Vec<Row<S>>,
    /// The answer to a packet that needs a login. `None`: no packet of this table needs one.
    not_logged_in: Option<Kick>,
    direction: PhantomData<fn(D)>,
}

struct Row<S> {
    id: u16,
    /// An unadmitted session may send it.
    is_for_login: bool,
    handler: Box<Handler<S>>,
}

/// Decodes a packet and handles its body.
type Handler<S> =
    dyn Fn(&mut S, &mut Context<'_>, Packet<'_>) -> Result<(), Kick> + Send + Sync + 'static;

impl<S, D> Handlers<S, D> {
    /// A table without handlers.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            by_id: Vec::new(),
            not_logged_in: None,
            direction: PhantomData,
        }
    }

    /// Adds the handler of one kind of packet.
    ///
    /// # Panics
    /// If this id has a handler already. Within one `packets!` no two packets have the same id, so that
    /// is a second handler for the same packet. A table in a `LazyLock` is made at its first use: use the
    /// table once before the server starts, and a mistake ends the start.
    #[must_use]
    #[track_caller]
    pub fn on<P>(
        self,
        handler: impl Fn(&mut S, &mut Context<'_>, P::Body<'_>) -> Result<(), Kick>
        + Send
        + Sync
        + 'static,
    ) -> Self
    where
        P: IncomingPacket + Direction<D>,
    {
        self.add::<P>(false, handler)
    }

    /// Adds the handler of a packet that is a part of the login: a session may send it before
    /// [`Context::admit`]. Every other packet of the table then needs the login, and ends an unadmitted
    /// session: see [`not_logged_in`](Self::not_logged_in).
    ///
    /// The session has to declare its login, by
    /// [`Session::requires_login`](crate::Session::requires_login). Otherwise it is admitted from the start.
    ///
    /// ```
    /// use server_core::{Context, Handlers, Kick, Packet, Session};
    /// use std::sync::LazyLock;
    ///
    /// server_core::packets! {
    ///     client 1 => CLogin + text(1..=32);
    ///     client 2 => CStep { dx: i16 };
    /// }
    ///
    /// const NOT_LOGGED_IN: Kick = Kick::custom(1001, "not_logged_in");
    ///
    /// #[derive(Default)]
    /// struct Player {
    ///     name: String,
    ///     x: i64,
    /// }
    ///
    /// static HANDLERS: LazyLock<Handlers<Player>> = LazyLock::new(|| {
    ///     Handlers::<Player>::new()
    ///         .on_login::<CLogin>(|player, ctx, name| {
    ///             player.name = name.to_owned();
    ///             ctx.admit();
    ///             Ok(())
    ///         })
    ///         .on::<CStep>(|player, _, step| {
    ///             player.x += i64::from(step.dx()); // logged in, whatever the peer sends
    ///             Ok(())
    ///         })
    ///         .not_logged_in(NOT_LOGGED_IN)
    /// });
    ///
    /// impl Session for Player {
    ///     fn requires_login(&self) -> bool {
    ///         true
    ///     }
    ///
    ///     fn on_packet(&mut self, ctx: &mut Context<'_>, packet: Packet<'_>) -> Result<(), Kick> {
    ///         HANDLERS.dispatch(self, ctx, packet)
    ///     }
    /// }
    /// ```
    ///
    /// # Panics
    /// As [`on`](Self::on).
    #[must_use]
    #[track_caller]
    pub fn on_login<P>(
        mut self,
        handler: impl Fn(&mut S, &mut Context<'_>, P::Body<'_>) -> Result<(), Kick>
        + Send
        + Sync
        + 'static,
    ) -> Self
    where
        P: IncomingPacket + Direction<D>,
    {
        self.not_logged_in.get_or_insert(Kick::UnknownId);
        self.add::<P>(true, handler)
    }

    /// Sets the kick for a packet that needs the login and comes before it. Default: [`Kick::UnknownId`].
    /// Without an [`on_login`](Self::on_login), every packet needs the login.
    #[must_use]
    pub fn not_logged_in(mut self, kick: Kick) -> Self {
        self.not_logged_in = Some(kick);
        self
    }

    #[track_caller]
    fn add<P>(
        mut self,
        is_for_login: bool,
        handler: impl Fn(&mut S, &mut Context<'_>, P::Body<'_>) -> Result<(), Kick>
        + Send
        + Sync
        + 'static,
    ) -> Self
    where
        P: IncomingPacket + Direction<D>,
    {
        let Err(place) = self.place_of(P::ID) else {
            panic!("packet {} has two handlers", P::ID);
        };
        let handler: Box<Handler<S>> =
            Box::new(move |session, ctx, packet| handler(session, ctx, P::decode(packet)?));
        let row = Row {
            id: P::ID,
            is_for_login,
            handler,
        };
        self.by_id.insert(place, row);
        self
    }

    /// Decodes a packet and calls its handler.
    ///
    /// # Errors
    /// [`Kick::UnknownId`] for a packet without a handler, [`Kick::BadPayload`] for a payload that its id
    /// does not allow, the kick of [`not_logged_in`](Self::not_logged_in), and the error of the handler.
    pub fn dispatch(
        &self,
        session: &mut S,
        ctx: &mut Context<'_>,
        packet: Packet<'_>,
    ) -> Result<(), Kick> {
        let Ok(place) = self.place_of(packet.id()) else {
            return Err(Kick::UnknownId);
        };
        let row = &self.by_id[place];
        match self.not_logged_in {
            Some(kick) if !row.is_for_login && !ctx.is_admitted() => Err(kick),
            _ => (row.handler)(session, ctx, packet),
        }
    }

    /// The ids with a handler, in rising order.
    pub fn ids(&self) -> impl Iterator<Item = u16> + '_ {
        self.by_id.iter().map(|row| row.id)
    }

    /// The index of a handler, or the index at which to insert it.
    fn place_of(&self, id: u16) -> Result<usize, usize> {
        self.by_id.binary_search_by_key(&id, |row| row.id)
    }
}

impl<S, D> Default for Handlers<S, D> {
    fn default() -> Self {
        Self::new()
    }
}

impl<S, D> fmt::Debug for Handlers<S, D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Handlers ")?;
        f.debug_set().entries(self.ids()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::id::SessionId;
    use crate::buffer::{ChunkPool, SendBufferManager};
    use crate::groups::members::Groups;
    use crate::protocol::packet::PacketHead;
    use crate::session::{Effect, Peer};
    use std::net::SocketAddr;
    use std::sync::Arc;
    use std::time::Instant;

    /// An empty packet of any id.
    struct Id<const ID: u16>;
    impl<const ID: u16> IncomingPacket for Id<ID> {
        const ID: u16 = ID;
        type Body<'a> = &'a [u8];

        fn decode(packet: Packet<'_>) -> Result<Self::Body<'_>, Kick> {
            match packet.payload() {
                [] => Err(Kick::BadPayload),
                bytes => Ok(bytes),
            }
        }
    }
    impl<const ID: u16> Direction<FromClient> for Id<ID> {}

    /// The handled packets.
    type Seen = Vec<(u16, Vec<u8>)>;

    fn table() -> Handlers<Seen> {
        // Not in order, and at both ends: id 65,535 is one beyond the lecture's table.
        Handlers::new()
            .on::<Id<7>>(|seen, _, body| handle(seen, 7, body))
            .on::<Id<65_535>>(|seen, _, body| handle(seen, 65_535, body))
            .on::<Id<0>>(|seen, _, body| handle(seen, 0, body))
            .on::<Id<300>>(|_, _, _| Err(Kick::Custom(1_000, "full")))
    }

    fn handle(seen: &mut Seen, id: u16, body: &[u8]) -> Result<(), Kick> {
        seen.push((id, body.to_vec()));
        Ok(())
    }

    fn with_context<T>(call: impl FnOnce(&mut Context<'_>) -> T) -> (T, Vec<Effect>) {
        let buffers = SendBufferManager::new(ChunkPool::new(1024, 1));
        let (mut effects, mut groups) = (Vec::new(), Groups::new(0, Arc::default(), 1));
        let addr = SocketAddr::from(([127, 0, 0, 1], 1));
        let peer = Peer::new(SessionId::new(1, 0, 0), addr, None);
        let mut ctx = Context::new(peer, Instant::now(), &buffers, &mut effects, &mut groups, 0);
        let outcome = call(&mut ctx);
        (outcome, effects)
    }

    #[test]
    fn all_65_536_ids_find_their_handler_or_are_a_kick() {
        let handlers = table();
        with_context(|ctx| {
            for id in 0..=u16::MAX {
                let mut seen = Seen::new();
                let outcome = handlers.dispatch(&mut seen, ctx, Packet::new(id, b"x"));
                match id {
                    0 | 7 | 65_535 => {
                        assert_eq!((outcome, seen), (Ok(()), vec![(id, b"x".to_vec())]));
                    }
                    300 => assert_eq!(outcome, Err(Kick::Custom(1_000, "full"))),
                    _ => assert_eq!((outcome, seen), (Err(Kick::UnknownId), vec![])),
                }
            }
        });
        assert_eq!(format!("{handlers:?}"), "Handlers {0, 7, 300, 65535}");
    }

    #[test]
    fn before_its_login_a_session_may_send_packets_of_the_login_alone() {
        const NOT_LOGGED_IN: Kick = Kick::custom(1_001, "not_logged_in");
        let login = |seen: &mut Seen, ctx: &mut Context<'_>, body: &[u8]| {
            if body == b"bob" {
                ctx.admit();
            }
            handle(seen, 9, body)
        };
        let with_login = || table().on_login::<Id<9>>(login);
        let dispatch = |handlers: &Handlers<Seen>, ctx: &mut Context<'_>, id, body: &[u8]| {
            handlers.dispatch(&mut Seen::new(), ctx, Packet::new(id, body))
        };
        for (handlers, kick) in [
            (with_login(), Kick::UnknownId),
            (with_login().not_logged_in(NOT_LOGGED_IN), NOT_LOGGED_IN),
            (
                table()
                    .not_logged_in(NOT_LOGGED_IN)
                    .on_login::<Id<9>>(login),
                NOT_LOGGED_IN,
            ),
        ] {
            with_context(|ctx| {
                ctx.is_admitted = false;
                assert_eq!(dispatch(&handlers, ctx, 7, b"x"), Err(kick));
                assert_eq!(dispatch(&handlers, ctx, 8, b"x"), Err(Kick::UnknownId));
                assert_eq!(dispatch(&handlers, ctx, 9, b"eve"), Ok(()));
                assert_eq!(dispatch(&handlers, ctx, 7, b"x"), Err(kick));
                assert_eq!(dispatch(&handlers, ctx, 9, b"bob"), Ok(()));
                assert_eq!(dispatch(&handlers, ctx, 7, b"x"), Ok(()));
            });
        }
        with_context(|ctx| {
            ctx.is_admitted = false;
            assert_eq!(
                dispatch(&table(), ctx, 7, b"x"),
                Ok(()),
                "no packet is for a login"
            );
        });
    }

    #[test]
    fn an_invalid_packet_never_reaches_its_handler() {
        let mut seen = Seen::new();
        let packet = Packet::new(7, b"");
        let (outcome, _) = with_context(|ctx| table().dispatch(&mut seen, ctx, packet));
        assert_eq!((outcome, seen), (Err(Kick::BadPayload), vec![]));
    }

    #[test]
    fn a_table_without_handlers_knows_no_id() {
        let packet = Packet::new(0, b"");
        let (outcome, _) =
            with_context(|ctx| Handlers::<Seen>::new().dispatch(&mut Seen::new(), ctx, packet));
        assert_eq!(outcome, Err(Kick::UnknownId));
    }

    #[test]
    #[should_panic(expected = "packet 7 has two handlers")]
    fn two_handlers_of_one_packet_panic() {
        let _ = table().on::<Id<7>>(|_, _, _| Ok(()));
    }

    #[test]
    fn a_handler_has_the_context_and_may_hold_what_all_sessions_share() {
        #[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
        #[repr(C)]
        struct Pong;
        impl PacketHead for Pong {
            const ID: u16 = 9;
        }
        let shared = std::sync::Arc::new(std::sync::atomic::AtomicU64::new(0));
        let counted = std::sync::Arc::clone(&shared);
        let handlers = Handlers::<()>::new().on::<Id<1>>(move |(), ctx, body| {
            counted.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            ctx.send(&Pong, body);
            Ok(())
        });
        let packet = Packet::new(1, b"x");
        let (outcome, effects) = with_context(|ctx| handlers.dispatch(&mut (), ctx, packet));
        assert_eq!(outcome, Ok(()));
        assert_eq!(shared.load(std::sync::atomic::Ordering::Relaxed), 1);
        let [Effect::Send(to, buffer)] = &effects[..] else {
            panic!("{effects:?}");
        };
        assert_eq!(
            (*to, &buffer[..]),
            (SessionId::new(1, 0, 0), &[5, 0, 9, 0, b'x'][..])
        );
    }

    #[test]
    fn tables_are_shared_between_threads() {
        fn is_shared<T: Send + Sync + 'static>() {}
        is_shared::<Handlers<Seen>>();
    }
}
