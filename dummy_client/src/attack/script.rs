//! What an attack is: a name, a number of attackers, and a script for each connection.

use crate::transport::Layer;
use fastrand::Rng;
use std::borrow::Cow;
use std::time::Duration;

/// One way in which clients bring a server down.
pub trait Attack: Send + Sync + 'static {
    /// The name of the attack, as the command line and the report have it.
    fn name(&self) -> &str;

    /// Attackers of a run that names no number of its own. Default: 20
    fn default_attackers(&self) -> usize {
        20
    }

    /// Connections that one attacker has at a time. Default: 1
    fn connections_per_attacker(&self) -> usize {
        1
    }

    /// Whether the attack takes the places of other sessions: then newcomers are measured. Default: `false`
    fn takes_places(&self) -> bool {
        false
    }

    /// Whether connecting is the attack: then a connection that the server refuses counts as an attack, too.
    /// Default: `false`
    fn targets_accept(&self) -> bool {
        false
    }

    /// Connections a second that all attackers begin together, evenly. Default: as many as the scripts allow
    fn connects_per_sec(&self) -> Option<u32> {
        None
    }

    /// What the bytes of its scripts go through. Default: the transport of the run, which carries packets
    fn layer(&self) -> Layer {
        Layer::Packets
    }

    /// The script of one connection. `number` counts the connections of the run from 0; `rng` has the seed
    /// of the run.
    fn script(&self, number: u64, rng: &mut Rng) -> AttackScript;
}

/// What an attacker does with one connection, and what the server must do.
#[derive(Clone, Debug)]
pub struct AttackScript {
    /// What is sent first.
    pub initial_bytes: Cow<'static, [u8]>,
    /// The initial bytes wait for the next multiple of this time since the start of the attack, so that all
    /// connections send at one moment. `None` and zero: the initial bytes are sent at once.
    pub aligned_to: Option<Duration>,
    /// What is sent again and again behind the initial bytes.
    pub repeat: Option<Repeat>,
    /// Whether the attacker reads.
    pub reads: bool,
    /// The size of the receive buffer, in bytes. `None` leaves it to the system.
    pub recv_buffer_bytes: Option<usize>,
    /// What the attacker does at the end.
    pub ending: Ending,
    /// What the server must do.
    pub expect: Expect,
    /// How long the server may take for it, from the connection on. An attack shorter than this has no result.
    pub timeout: Duration,
    /// From the end of this connection to the next one.
    pub pause: Duration,
}

/// Bytes that are sent again and again.
#[derive(Clone, Debug)]
pub struct Repeat {
    /// The bytes of each time. Without bytes nothing is repeated. Each time is one write to the socket: a flood puts
    /// many packets in it.
    pub bytes: Cow<'static, [u8]>,
    /// From one time to the next. Zero: as fast as the socket takes the bytes.
    pub every: Duration,
}

/// What the attacker does at the end of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// Waits for the server.
    Wait,
    /// Closes its write side when all bytes are sent, and waits for the server.
    CloseWrite,
    /// Closes its write side when all bytes are sent, and begins the next connection. This connection is
    /// closed when 100 more have left.
    Leave,
    /// Resets the connection after this time.
    Reset(Duration),
}

/// What the server must do with a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expect {
    /// End it with one of these reason codes.
    Reason(Cow<'static, [u16]>),
    /// End it, with or without a reason code.
    Close,
    /// Serve it, or end it.
    Any,
}

impl AttackScript {
    /// Sends these bytes, reads, and waits for the server, 3 s at the most. The next connection follows after
    /// 100 ms.
    #[must_use]
    pub fn new(initial_bytes: impl Into<Cow<'static, [u8]>>, expect: Expect) -> Self {
        Self {
            initial_bytes: initial_bytes.into(),
            aligned_to: None,
            repeat: None,
            reads: true,
            recv_buffer_bytes: None,
            ending: Ending::Wait,
            expect,
            timeout: Self::TIMEOUT,
            pause: Duration::from_millis(100),
        }
    }

    /// The timeout of [`new`](Self::new). A server finds an offence with its packet; on a busy machine that
    /// takes longer.
    pub const TIMEOUT: Duration = Duration::from_secs(3);

    /// How long the attack must last to have a result.
    pub(super) fn min_duration(&self) -> Duration {
        match self.expect {
            Expect::Any => Duration::ZERO,
            _ => self.timeout,
        }
    }
}
