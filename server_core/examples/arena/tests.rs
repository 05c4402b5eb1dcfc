//! The arena in virtual time: each test runs a whole server, and takes milliseconds.

use crate::game::{
    Arena, CEnter, CLogin, CMove, NAME_TAKEN, NOT_LOGGED_IN, PERIOD, RESUME_TICKS, RESUMED, SBye,
    SSnapshot, SWelcome, SWorld, Spot, builder, game_loop,
};
use server_core::testing::{SimClient, SimServer, for_each_seed};
use server_core::{DisconnectReason, GamePlayer, Kick};
use std::time::Duration;

fn arena(seed: u64) -> SimServer<GamePlayer> {
    SimServer::start_game(seed, builder(), game_loop(), Arena::new(seed))
}

/// Logs in. Returns the number of the player and its token.
fn login(
    server: &mut SimServer<GamePlayer>,
    client: &mut SimClient,
    name: &str,
    token: u64,
) -> (u32, u64) {
    client.send_packet(&CLogin { name, token });
    server.advance(PERIOD * 2);
    let welcome = client.next_of(SWelcome::ID).expect("a welcome");
    let welcome = welcome.decode::<SWelcome>().expect("a welcome");
    (welcome.you(), welcome.token())
}

/// The number, tick and place of a player in the next snapshot.
fn spot_of(client: &mut SimClient, player: u32) -> Option<(u64, i16, i16)> {
    let packet = client.next_of(SSnapshot::ID)?;
    let snapshot = packet.decode::<SSnapshot<'_>>().expect("a snapshot");
    let spot = snapshot
        .players
        .iter()
        .find(|spot| spot.player() == player)?;
    Some((snapshot.tick, spot.x(), spot.y()))
}

/// The players of each snapshot that has come.
fn players_of_snapshots(client: &mut SimClient) -> Vec<Vec<u32>> {
    let packets = client.packets().into_iter();
    (packets.filter(|packet| packet.id == SSnapshot::ID))
        .map(|packet| {
            let snapshot = packet.decode::<SSnapshot<'_>>();
            let players = snapshot.expect("a snapshot").players.iter();
            players.map(Spot::player).collect()
        })
        .collect()
}

fn bye_code(client: &mut SimClient) -> u16 {
    bye(client).0
}

fn bye(client: &mut SimClient) -> (u16, String) {
    let bye = client.next_of(SBye::ID).expect("a last packet");
    let (head, text) = bye.decode::<SBye>().expect("a last packet");
    (head.code(), text.to_owned())
}

#[test]
fn player_gets_the_world_once_and_a_snapshot_each_tick() {
    for_each_seed(20, |seed| {
        let mut server = arena(seed).cut_bytes();
        let mut bob = server.connect();
        bob.send_packet(&CLogin {
            name: "bob",
            token: 0,
        });
        bob.send_packet(&CEnter::new(7));
        bob.send_packet(&CMove::new(3, -2));
        server.advance(PERIOD * 40);
        let (mut world, mut ticks, mut place) = (Vec::new(), Vec::new(), None);
        for packet in bob.packets() {
            match packet.id {
                SWorld::ID => world.extend(packet.payload),
                SSnapshot::ID => {
                    let snapshot = packet.decode::<SSnapshot<'_>>().expect("a snapshot");
                    ticks.push(snapshot.tick);
                    place = snapshot.players.first().map(|spot| (spot.x(), spot.y()));
                }
                id => assert_eq!(id, SWelcome::ID),
            }
        }
        assert!(world == Arena::new(seed).world, "{} bytes", world.len());
        assert_eq!(place, Some((503, 498)));
        assert!(ticks.iter().copied().eq(1..=40), "{ticks:?}");
    });
}

#[test]
fn name_is_taken_until_its_player_is_gone_for_too_long() {
    for_each_seed(10, |seed| {
        let mut server = arena(seed);
        let mut bob = server.connect();
        let (number, token) = login(&mut server, &mut bob, "bob", 0);
        bob.send_packet(&CEnter::new(1));
        bob.send_packet(&CMove::new(4, 4));
        server.advance(PERIOD * 2);
        drop(bob);
        server.advance(Duration::from_secs(20));

        let mut thief = server.connect();
        thief.send_packet(&CLogin {
            name: "bob",
            token: token ^ 1,
        });
        server.advance(PERIOD * 2);
        assert!(thief.is_closed());
        assert_eq!(
            bye(&mut thief),
            (1001, "another player has this name".to_owned())
        );

        let mut bob = server.connect();
        assert_eq!(login(&mut server, &mut bob, "bob", token), (number, token));
        server.advance(PERIOD * 2);
        let (_, x, y) = spot_of(&mut bob, number).expect("the room and the place are kept");
        assert_eq!((x, y), (504, 504));

        drop(bob);
        server.advance(PERIOD * (RESUME_TICKS as u32 + 2));
        let mut other = server.connect();
        let (other_number, other_token) = login(&mut server, &mut other, "bob", 0);
        assert!(other_number != number && other_token != token);
        let totals = server.handle().metrics().totals();
        assert_eq!(totals.disconnects_for(NAME_TAKEN), 1);
    });
}

#[test]
fn player_that_comes_back_before_its_old_connection_ends_takes_over() {
    for_each_seed(10, |seed| {
        let mut server = arena(seed).cut_bytes();
        let (mut old, mut new) = (server.connect(), server.connect());
        let (number, token) = login(&mut server, &mut old, "bob", 0);
        old.send_packet(&CEnter::new(1));
        server.advance(PERIOD * 2);
        assert_eq!(login(&mut server, &mut new, "bob", token), (number, token));
        server.advance(PERIOD * 2);
        assert!(old.is_closed() && spot_of(&mut new, number).is_some());
        assert_eq!(bye_code(&mut old), RESUMED.code());
    });
}

#[test]
fn rooms_hear_nothing_of_each_other() {
    for_each_seed(10, |seed| {
        let mut server = arena(seed);
        let (mut one, mut two) = (server.connect(), server.connect());
        let (first, _) = login(&mut server, &mut one, "one", 0);
        let (second, _) = login(&mut server, &mut two, "two", 0);
        one.send_packet(&CEnter::new(1));
        two.send_packet(&CEnter::new(2));
        server.advance(PERIOD * 3);
        for (client, here) in [(&mut one, first), (&mut two, second)] {
            let snapshots = players_of_snapshots(client);
            assert!(!snapshots.is_empty());
            assert!(snapshots.iter().all(|players| players == &[here]));
        }
        two.send_packet(&CEnter::new(1));
        server.advance(PERIOD * 3);
        let snapshots = players_of_snapshots(&mut one);
        assert!(snapshots.iter().any(|players| players.contains(&second)));
    });
}

#[test]
fn offences_end_a_session_with_their_own_reasons() {
    let cases: [(&[u8], Kick); 3] = [
        (&[6, 0, 3, 0, 1, 1], NOT_LOGGED_IN),
        (
            &[
                15, 0, 1, 0, 1, 0, b'a', 0, 0, 0, 0, 0, 0, 0, 0, 6, 0, 3, 0, 5, 0,
            ],
            Kick::BadPayload,
        ),
        (
            &[15, 0, 1, 0, 1, 0, b'a', 0, 0, 0, 0, 0, 0, 0, 0, 4, 0, 9, 0],
            Kick::UnknownId,
        ),
    ];
    for (bytes, kick) in cases {
        let mut server = arena(1);
        let mut client = server.connect();
        client.send_bytes(bytes);
        server.advance(PERIOD * 2);
        assert!(client.is_closed(), "{kick}");
        assert_eq!(bye_code(&mut client), kick.code());
        assert_eq!(server.handle().metrics().totals().disconnects_for(kick), 1);
    }
}

#[test]
fn silent_client_ends_by_its_login_timeout() {
    let mut server = arena(1);
    let silent = server.connect();
    server.advance(Duration::from_secs(9));
    assert!(!silent.is_closed());
    server.advance(Duration::from_secs(2));
    assert!(silent.is_closed());
}

#[test]
fn storm_of_logins_loses_no_snapshot_and_no_byte_and_the_end_is_in_order() {
    let mut server = arena(5).cut_bytes();
    let mut players: Vec<SimClient> = (0..200).map(|_| server.connect()).collect();
    for (player, number) in players.iter().zip(0_u16..) {
        player.send_packet(&CLogin {
            name: &format!("player {number}"),
            token: 0,
        });
        player.send_packet(&CEnter::new(number % 4));
    }
    server.advance(Duration::from_secs(5));
    server.handle().shutdown(Duration::from_secs(1));
    server.advance(Duration::from_secs(2));
    assert!(server.handle().has_ended());
    for player in &mut players {
        let packets = player.packets();
        let bytes = packets.iter().filter(|packet| packet.id == SWorld::ID);
        assert_eq!(
            bytes.map(|packet| packet.payload.len()).sum::<usize>(),
            300_000
        );
        let snapshots = packets
            .iter()
            .filter(|packet| packet.id == SSnapshot::ID)
            .count();
        assert_eq!(snapshots, 100);
        let last = packets.last().expect("packets have come");
        let (bye, _) = last.decode::<SBye>().expect("a last packet");
        assert_eq!(Some(bye.code()), DisconnectReason::Shutdown.code());
    }
}
