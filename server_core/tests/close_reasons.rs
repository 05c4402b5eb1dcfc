//! Reasons of the game: label in the metrics, code and text in the close message.

use server_core::testing::{DEADLINE, RawClient, RawPacket, packet};
use server_core::{
    Context, DisconnectReason, Kick, Packet, Peer, Server, ServerBuilder, Session, SessionId,
};
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, Sender, channel};

server_core::packets! {
    /// Ends the sender with this text.
    client 10 => CLogin + text;
    /// Ends another session with this text.
    client 11 => CVote { against: u64 } + text;
    /// Ends the sender by a kick with a text.
    client 12 => CCheat + text;
    server 1 => SWelcome;
    server 6 => SBye { code: u16 } + text;
}

const NAME_TAKEN: Kick = Kick::custom(1_001, "name_taken");
const VOTED_OUT: Kick = Kick::custom(1_002, "voted_out");
const CHEATS: Kick = Kick::custom(1_003, "cheats").with_text("not a step");

enum Event {
    Connected(SessionId),
    Disconnected(SessionId, DisconnectReason),
}

struct Player {
    events: Sender<Event>,
}

impl Session for Player {
    fn on_connected(&mut self, ctx: &mut Context<'_>) {
        let _ = self.events.send(Event::Connected(ctx.id()));
    }

    fn on_packet(&mut self, ctx: &mut Context<'_>, packet: Packet<'_>) -> Result<(), Kick> {
        if packet.id() == CVote::ID {
            let (vote, text) = packet.decode::<CVote>()?;
            let against = SessionId::from_u64(vote.against.get());
            ctx.close_session_with(against, VOTED_OUT, text);
        } else if packet.id() == CCheat::ID {
            ctx.send_packet(&SWelcome);
            return match packet.decode::<CCheat>()? {
                "" => Err(CHEATS),
                "in silence" => Err(Kick::BadPayload),
                text => Err(CHEATS.with_text(text.to_owned().leak())),
            };
        } else {
            ctx.send_packet(&SWelcome);
            ctx.close_with(NAME_TAKEN, packet.decode::<CLogin>()?);
        }
        Ok(())
    }

    fn on_disconnected(&mut self, ctx: &mut Context<'_>, reason: DisconnectReason) {
        let _ = self.events.send(Event::Disconnected(ctx.id(), reason));
    }
}

struct Running {
    server: Server,
    events: Receiver<Event>,
}

impl Running {
    fn start(builder: ServerBuilder) -> Self {
        let (sender, events) = channel();
        let sender = Mutex::new(sender);
        let player = move |_: Peer| Player {
            events: sender.lock().unwrap().clone(),
        };
        let builder = builder.workers(2).custom_labels([NAME_TAKEN.label()]);
        let server = builder.start("127.0.0.1:0", player).unwrap();
        Self { server, events }
    }

    fn with_text() -> Self {
        Self::start(Server::builder().close_message_with_text(|reason, text| {
            let code = reason.code()?.into();
            Some((SBye { code }, text.to_owned()))
        }))
    }

    fn connect(&self) -> (RawClient, SessionId) {
        let client = RawClient::connect(self.server.local_addr());
        match self.events.recv_timeout(DEADLINE).unwrap() {
            Event::Connected(id) => (client, id),
            Event::Disconnected(id, reason) => panic!("{id} left: {reason:?}"),
        }
    }

    fn expect_end(&self, id: SessionId, reason: impl Into<DisconnectReason>) {
        match self.events.recv_timeout(DEADLINE).unwrap() {
            Event::Disconnected(of, why) => assert_eq!((of, why), (id, reason.into())),
            Event::Connected(id) => panic!("{id} has connected"),
        }
    }

    fn count(&self, label: &str) -> u64 {
        let totals = self.server.handle().metrics().totals();
        let mut counts = totals.disconnects_by_label();
        counts.find(|(of, _)| *of == label).unwrap().1
    }
}

fn bye(code: u16, text: &str) -> RawPacket {
    RawPacket::new(SBye::ID, [&code.to_le_bytes(), text.as_bytes()].concat())
}

#[test]
fn session_that_closes_itself_has_label_code_and_text() {
    let running = Running::with_text();
    let (mut client, id) = running.connect();
    // In one write: the second login lies in the server's buffer when the first is handled.
    let logins = [packet(CLogin::ID, b"bob"), packet(CLogin::ID, b"eve")].concat();
    client.send(&logins);
    assert_eq!(client.next_packet(), RawPacket::new(SWelcome::ID, b""));
    assert_eq!(client.next_packet(), bye(1_001, "bob"));
    client.expect_eof();
    running.expect_end(id, NAME_TAKEN);
    let counts = ["name_taken", "closed", "custom"].map(|label| running.count(label));
    assert_eq!(counts, [1, 0, 0]);
}

#[test]
fn any_session_is_closed_with_a_reason_by_a_callback_and_by_a_handle() {
    let running = Running::with_text();
    let (mut voter, voter_id) = running.connect();
    // On both workers.
    for _ in 0..4 {
        let (mut client, id) = running.connect();
        voter.send_packet(
            CVote::ID,
            [&id.to_u64().to_le_bytes()[..], b"cheats"].concat(),
        );
        assert_eq!(client.next_packet(), bye(1_002, "cheats"));
        running.expect_end(id, VOTED_OUT);
    }
    assert_eq!(running.count("custom"), 4, "this label is not declared");
    let handle = running.server.handle();
    let long = "é".repeat(1_000);
    handle.close_with(voter_id, NAME_TAKEN, &long);
    handle.close_with(voter_id, VOTED_OUT, "the first reason wins");
    assert_eq!(voter.next_packet(), bye(1_001, &long[..1_024]));
    voter.expect_eof();
    running.expect_end(voter_id, NAME_TAKEN);
    let (mut client, id) = running.connect();
    handle.close_with(id, Kick::RateLimit, "");
    assert_eq!(client.next_packet(), bye(7, ""));
    handle.close_with(voter_id, NAME_TAKEN, "an ended session");
    handle.close_with(SessionId::from_u64(u64::MAX), NAME_TAKEN, "no session");
    running.expect_end(id, Kick::RateLimit);
    assert_eq!(running.count("name_taken"), 1);
}

#[test]
fn kick_that_a_callback_returns_brings_its_text_behind_the_answers() {
    let running = Running::with_text();
    let long = "é".repeat(1_000);
    let words = DisconnectReason::from(Kick::BadPayload).to_string();
    for (cheat, kick, text) in [
        ("", CHEATS, "not a step"),
        (&long, CHEATS, &long[..1_024]),
        ("in silence", Kick::BadPayload, &words),
    ] {
        let (mut client, id) = running.connect();
        // The second packet lies in the server's buffer when the first is handled.
        let cheats = [packet(CCheat::ID, cheat), packet(CCheat::ID, "dropped")].concat();
        client.send(&cheats);
        assert_eq!(client.next_packet(), RawPacket::new(SWelcome::ID, b""));
        assert_eq!(client.next_packet(), bye(kick.code(), text));
        client.expect_eof();
        running.expect_end(id, kick);
    }
    assert_eq!(running.count("custom"), 2, "this label is not declared");
}

#[test]
fn end_without_a_text_has_the_reason_in_words() {
    let running = Running::with_text();
    let (mut client, _) = running.connect();
    client.send_packet(CLogin::ID, b"\xff");
    let words = DisconnectReason::from(Kick::BadPayload).to_string();
    assert_eq!(client.next_packet(), RawPacket::new(SWelcome::ID, b""));
    assert_eq!(client.next_packet(), bye(4, &words));
}

#[test]
fn close_message_by_the_reason_alone_has_the_code() {
    let running = Running::start(Server::builder().close_message(|reason| {
        let code = reason.code()?.into();
        Some((SBye { code }, reason.label()))
    }));
    let (mut client, _) = running.connect();
    client.send_packet(CLogin::ID, b"bob");
    assert_eq!(client.next_packet(), RawPacket::new(SWelcome::ID, b""));
    assert_eq!(client.next_packet(), bye(1_001, "name_taken"));
}

#[test]
fn each_kick_of_close_with_reaches_the_peer_unless_the_peer_does_not_read() {
    let running = Running::with_text();
    let handle = running.server.handle();
    for kick in [
        Kick::BadSize,
        Kick::TooLarge,
        Kick::UnknownId,
        Kick::BadPayload,
        Kick::PacketTimeout,
        Kick::RateLimit,
        NAME_TAKEN,
    ] {
        let (mut client, id) = running.connect();
        handle.close_with(id, kick, "a text");
        assert_eq!(client.next_packet(), bye(kick.code(), "a text"));
        client.expect_eof();
        running.expect_end(id, kick);
    }
    let (mut client, id) = running.connect();
    handle.close_with(id, Kick::SlowConsumer, "a text");
    client.expect_eof();
    running.expect_end(id, Kick::SlowConsumer);
}
