//! What a session may send before it is admitted.

use crate::base::reason::Kick;
use crate::protocol::packet::{IncomingPacket, Packet};
use std::fmt;

/// The packets of the login, for [`ServerBuilder::login_rules`](crate::ServerBuilder::login_rules): of an unadmitted
/// session no other packet reaches [`Session::on_packet`](crate::Session::on_packet), or the
/// [`Game`](crate::Game).
///
/// The sessions have to declare their login: by [`Session::requires_login`](crate::Session::requires_login), or by
/// [`GameLoop::requires_login`](crate::GameLoop::requires_login).
///
/// ```
/// use server_core::{Kick, LoginRules, Server};
///
/// server_core::packets! {
///     client 1 => CLogin { version: u32 } + text(1..=32);
///     client 2 => CStep { dx: i16 };
/// }
///
/// const NOT_LOGGED_IN: Kick = Kick::custom(1001, "not_logged_in");
/// const WRONG_VERSION: Kick = Kick::custom(1002, "wrong_version");
///
/// let rules = LoginRules::new(NOT_LOGGED_IN)
///     .packet_if::<CLogin>(|(login, _name)| (3..=4).contains(&login.version()), WRONG_VERSION);
/// let builder = Server::builder().login_rules(rules);
/// ```
pub struct LoginRules {
    not_logged_in: Kick,
    packets: Vec<LoginPacket>,
}

struct LoginPacket {
    id: u16,
    check: Box<Check>,
}

type Check = dyn Fn(Packet<'_>) -> Result<(), Kick> + Send + Sync;

impl LoginRules {
    /// An unadmitted session may send nothing: any packet ends it with this kick.
    #[must_use]
    pub fn new(not_logged_in: Kick) -> Self {
        Self {
            not_logged_in,
            packets: Vec::new(),
        }
    }

    /// An unadmitted session may send packets of this id.
    #[must_use]
    pub fn packet<P: IncomingPacket>(self) -> Self {
        self.add(P::ID, Box::new(|_| Ok(())))
    }

    /// An unadmitted session may send packets of this id whose body passes this check: of the version of the
    /// protocol, for example. Another body ends the session with this kick, and a payload that the id does not allow
    /// with [`Kick::BadPayload`].
    #[must_use]
    pub fn packet_if<P: IncomingPacket>(
        self,
        is_valid: impl Fn(P::Body<'_>) -> bool + Send + Sync + 'static,
        kick: Kick,
    ) -> Self {
        let check = move |packet: Packet<'_>| match is_valid(packet.decode::<P>()?) {
            true => Ok(()),
            false => Err(kick),
        };
        self.add(P::ID, Box::new(check))
    }

    fn add(mut self, id: u16, check: Box<Check>) -> Self {
        self.packets.push(LoginPacket { id, check });
        self
    }

    /// Checks a packet of an unadmitted session.
    ///
    /// # Errors
    /// The kick that ends the session.
    pub(crate) fn check(&self, packet: Packet<'_>) -> Result<(), Kick> {
        let mut rules = self
            .packets
            .iter()
            .filter(|rule| rule.id == packet.id())
            .peekable();
        if rules.peek().is_none() {
            return Err(self.not_logged_in);
        }
        rules.try_for_each(|rule| (rule.check)(packet))
    }
}

impl fmt::Debug for LoginRules {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ids = self.packets.iter().map(|rule| rule.id);
        f.debug_struct("LoginRules")
            .field("not_logged_in", &self.not_logged_in)
            .field("packets", &ids.collect::<Vec<_>>())
            .finish()
    }
}
