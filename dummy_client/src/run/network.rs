//! Sockets towards the server, and the address that they go to.

use crate::collector::{Collector, Stage, UserEvent};
use crate::transport::Transport;
use crate::users::{Endpoint, own_limit};
use server_core::host::{Addresses, SourceAddresses};
use server_core::{DisconnectReason, ServerHandle, SessionId, start};
use std::io::{self, ErrorKind};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The sockets of the users.
pub(super) struct Network {
    server: ServerHandle,
    targets: Targets,
    users: usize,
    ports: Option<u64>,
    sources: SourceAddresses,
    transport: Transport,
    /// Why handshakes fail, from the first that has failed on.
    handshake_error: Option<String>,
    collector: Arc<Collector>,
}

/// The addresses of the server. As long as no user has connected, a failed connect moves on to the next address.
#[derive(Debug)]
struct Targets {
    addrs: Vec<SocketAddr>,
    current: usize,
    /// The address that each user tried last; empty if there is only one.
    tried: Vec<usize>,
    /// A user has connected.
    is_chosen: bool,
}

/// The longest wait for one address of several.
const MAX_CONNECT_TIME: Duration = Duration::from_secs(3);

const MAX_PROBE_TIME: Duration = Duration::from_secs(1);

/// The error of a handshake, for the user.
fn explained(error: &io::Error) -> String {
    let text = error.to_string();
    // The words of rustls for a certificate that no trusted certificate has signed. The second: one of the same name.
    let is_unknown = ["UnknownIssuer", "BadSignature"]
        .iter()
        .any(|word| text.contains(word));
    let hint = match is_unknown {
        true => ": no certificate of --ca has signed it",
        false => "",
    };
    format!("the handshake failed: {text}{hint}")
}

/// Moves the first address that accepts a connection to the front, if the server has several addresses. If no
/// address accepts a connection, the order stays: the run counts what fails.
pub(super) fn prefer_accepting(addrs: &mut Addresses) {
    if !addrs.are_several() {
        return;
    }
    let accepting = start::first_of("cannot connect to", addrs.all().iter().copied(), |addr| {
        TcpStream::connect_timeout(&addr, MAX_CONNECT_TIME).map(|_| addr)
    });
    match accepting {
        Ok(addr) => {
            log::info!("took {addr} of {addrs}");
            addrs.prefer(addr);
        }
        Err(error) => log::error!("no address of {addrs} accepts a connection: {error}"),
    }
}

impl Network {
    /// `ports`: of one source address, if the system tells.
    pub fn new(
        server: ServerHandle,
        addrs: &Addresses,
        users: usize,
        ports: Option<u64>,
        transport: Transport,
        collector: Arc<Collector>,
    ) -> Self {
        let targets = Targets::new(addrs.all().to_vec(), users);
        Self {
            server,
            users,
            ports,
            sources: SourceAddresses::plan(targets.addr().ip(), users, ports),
            targets,
            transport,
            handshake_error: None,
            collector,
        }
    }

    pub fn server(&self) -> &ServerHandle {
        &self.server
    }

    /// The address of the server.
    pub fn addr(&self) -> SocketAddr {
        self.targets.addr()
    }

    /// The first user that connects chooses the address; until then, one that fails moves on to the next.
    pub fn choose_address(&mut self, event: &UserEvent) {
        let before = self.targets.addr();
        self.targets.on_event(event);
        self.plan_sources(before);
    }

    /// Puts the reason into the event of a handshake that has failed. The event has none: a connection of its own
    /// finds the reason, once in a run, within 1 s.
    pub fn explain(&mut self, event: UserEvent) -> UserEvent {
        match event {
            UserEvent::Failed(user, why, Stage::Connect)
                if why == DisconnectReason::Handshake.to_string() =>
            {
                let (transport, addr) = (&self.transport, self.targets.addr());
                let error = self.handshake_error.get_or_insert_with(|| {
                    let opened = transport.open(addr, MAX_PROBE_TIME);
                    opened.map_or_else(|error| explained(&error), |_| why)
                });
                UserEvent::Failed(user, error.clone(), Stage::Connect)
            }
            event => event,
        }
    }

    fn plan_sources(&mut self, before: SocketAddr) {
        let addr = self.targets.addr();
        if addr != before {
            self.sources = SourceAddresses::plan(addr.ip(), self.users, self.ports);
        }
    }

    /// From a source address that has a free port. An address that should have one may have none: ports of earlier
    /// connections wait in TIME_WAIT, others belong to other programs.
    fn connect_to(&mut self, addr: SocketAddr, user: usize) -> io::Result<()> {
        let mut tries = 0;
        loop {
            let source = self.sources.source(user);
            let begun = self.server.connect_from(source, addr, user as u64);
            match begun.as_ref().map_err(io::Error::kind) {
                Err(ErrorKind::AddrNotAvailable | ErrorKind::AddrInUse) => tries += 1,
                _ => return begun,
            }
            if self.sources.rotate() <= tries {
                return begun;
            }
        }
    }
}

impl Endpoint for Network {
    fn connect(&mut self, user: usize, now: Instant) -> io::Result<()> {
        self.collector.begin_connect(user, now);
        let addr = self.targets.begin(user);
        let begun = self.connect_to(addr, user);
        if let Err(error) = &begun {
            self.targets.on_error(user, error);
            self.plan_sources(addr);
        }
        begun
    }

    fn close(&mut self, id: SessionId) {
        self.server.close(id);
    }
}

impl Targets {
    fn new(addrs: Vec<SocketAddr>, users: usize) -> Self {
        let tried = if addrs.len() > 1 { users } else { 0 };
        Self {
            addrs,
            current: 0,
            tried: vec![0; tried],
            is_chosen: false,
        }
    }

    fn addr(&self) -> SocketAddr {
        self.addrs[self.current]
    }

    /// A user connects to this address.
    fn begin(&mut self, user: usize) -> SocketAddr {
        if let Some(tried) = self.tried.get_mut(user) {
            *tried = self.current;
        }
        self.addr()
    }

    fn on_event(&mut self, event: &UserEvent) {
        match *event {
            UserEvent::Connected(user, _) if !self.is_chosen => {
                self.is_chosen = true;
                self.current = self.tried.get(user).copied().unwrap_or(self.current);
            }
            UserEvent::Failed(user, ..) => self.leave(user),
            _ => {}
        }
    }

    /// The connect of a user could not begin. An address without a route fails so.
    fn on_error(&mut self, user: usize, error: &io::Error) {
        if own_limit(error).is_none() {
            self.leave(user);
        }
    }

    /// Of many users that fail at one address, the first moves on.
    fn leave(&mut self, user: usize) {
        if !self.is_chosen && self.tried.get(user) == Some(&self.current) {
            self.current = (self.current + 1) % self.addrs.len();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use server_core::host::parse_addrs;
    use server_core::testing::refusing_port;
    use std::net::TcpListener;

    /// These two addresses of a server, in this order.
    fn addresses(one: SocketAddr, two: SocketAddr) -> Addresses {
        let mut addrs = parse_addrs(&two.to_string()).expect("an address");
        addrs.prefer(one);
        addrs
    }

    #[test]
    fn of_several_addresses_the_first_that_accepts_is_taken() {
        let (_port, one) = refusing_port();
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let two = listener.local_addr().expect("an address");
        let mut addrs = addresses(one, two);
        prefer_accepting(&mut addrs);
        assert_eq!(addrs.all(), [two, one]);
        prefer_accepting(&mut addrs);
        assert_eq!(addrs.first(), two, "the order changes no more");
    }

    #[test]
    fn where_none_accepts_the_first_is_taken() {
        let [(_port, one), (_other_port, two)] = [refusing_port(), refusing_port()];
        let mut addrs = addresses(one, two);
        prefer_accepting(&mut addrs);
        assert_eq!(addrs.all(), [one, two]);
    }

    fn failed(user: usize) -> UserEvent {
        UserEvent::Failed(user, "connection refused".into(), Stage::Connect)
    }

    /// Three users wait for a server that is not there yet, with three addresses.
    #[test]
    fn each_address_is_tried_until_one_accepts() {
        let addrs: Vec<SocketAddr> = (1..=3).map(|port| ([192, 0, 2, 1], port).into()).collect();
        let mut targets = Targets::new(addrs.clone(), 3);
        for round in 0..4 {
            for user in 0..3 {
                assert_eq!(targets.begin(user), addrs[round % 3], "round {round}");
            }
            (0..3).for_each(|user| targets.on_event(&failed(user)));
            assert_eq!(targets.addr(), addrs[(round + 1) % 3], "one step a round");
        }
        targets.begin(0);
        targets.on_event(&failed(1));
        targets.on_event(&failed(0));
        assert_eq!(targets.begin(1), addrs[2]);
        // The address that has accepted stays, though another was next.
        let id = SessionId::new(1, 0, 0);
        targets.on_event(&UserEvent::Connected(0, id));
        assert_eq!(targets.begin(2), addrs[1]);
        targets.on_event(&failed(2));
        assert_eq!(targets.begin(2), addrs[1], "the address is chosen");
    }

    /// The first address has no route: its connects end at once. A port that this machine lacks says nothing of the
    /// address.
    #[test]
    fn address_whose_connects_cannot_begin_is_left() {
        let addrs: Vec<SocketAddr> = (1..=2).map(|port| ([192, 0, 2, 1], port).into()).collect();
        let mut targets = Targets::new(addrs.clone(), 2);
        targets.begin(0);
        targets.on_error(0, &ErrorKind::AddrNotAvailable.into());
        assert_eq!(targets.begin(0), addrs[0]);
        targets.on_error(0, &ErrorKind::NetworkUnreachable.into());
        assert_eq!(targets.begin(0), addrs[1]);
    }

    #[test]
    fn only_address_stays() {
        let addr = SocketAddr::from(([192, 0, 2, 1], 1));
        let mut targets = Targets::new(vec![addr], 2);
        assert_eq!(targets.begin(1), addr);
        targets.on_event(&failed(1));
        targets.on_event(&UserEvent::Connected(1, SessionId::new(1, 0, 0)));
        assert_eq!(targets.addr(), addr);
    }
}
