//! Fuzzes the link of a node with any events of its broker and any messages of other nodes, between requests of the
//! game. The link must not panic, must hold no more than its bounds, and must answer each login once.
#![no_main]

use libfuzzer_sys::fuzz_target;
use server_core::cluster::broker::{Channel, Reply};
use server_core::cluster::envelope::{Envelope, Incarnation, VERSION};
use server_core::cluster::link::{Command, Event, Link, LinkConfig, Output};
use server_core::cluster::logins::Login;
use server_core::routing::link::Audience;
use server_core::{GroupId, SessionId};
use server_core_fuzz::{Result, Unstructured, bytes, each_step, number};
use std::collections::HashSet;
use std::time::{Duration, Instant};

const OWN: Incarnation = Incarnation(1 << 32 | 1);

fuzz_target!(|data: &[u8]| {
    // Bytes that are missing at the end of the input count as zeros, so `run` does not fail.
    let _ = run(&mut Unstructured::new(data));
});

fn run(input: &mut Unstructured<'_>) -> Result<()> {
    let mut now = Instant::now();
    let config = LinkConfig {
        name: "fuzz".into(),
        incarnation: OWN,
        seed: 1,
    };
    let mut link = Link::new(config, Default::default(), now);
    let (mut connection, mut unanswered) = (0, HashSet::new());
    each_step(input, |which, input| {
        let group = |input: &mut Unstructured<'_>| {
            Ok(GroupId::new(1, u32::from(input.arbitrary::<u8>()? % 4)))
        };
        let session = |input: &mut Unstructured<'_>| {
            Ok(SessionId::new(
                1,
                0,
                u32::from(input.arbitrary::<u8>()? % 8),
            ))
        };
        match which % 12 {
            0 => {
                now += Duration::from_millis(number(input)? as u64);
                link.tick(now);
            }
            1 => link.handle(connection, Event::Connected, now),
            2 => link.handle(connection, Event::Lost, now),
            3 => {
                let reply = match input.arbitrary::<u8>()? % 6 {
                    0 => Reply::Done,
                    1 => Reply::Value(bytes(input)?),
                    2 => Reply::Values(vec![Some(bytes(input)?), None, Some(bytes(input)?)]),
                    3 => {
                        // A login of another node.
                        let (stamp, session) = (input.arbitrary()?, session(input)?);
                        let login = Login {
                            stamp,
                            node: Incarnation(2),
                            session,
                        }
                        .encode();
                        Reply::Values(vec![Some(login.clone()), Some(login)])
                    }
                    4 => Reply::Count(u64::from(input.arbitrary::<u8>()? % 2)),
                    _ => Reply::Error,
                };
                link.handle(connection, Event::Reply(reply), now);
            }
            4 => link.handle(
                connection,
                Event::Message(&bytes(input)?, &bytes(input)?),
                now,
            ),
            5 | 6 => {
                // A message with a valid head.
                let channel = match input.arbitrary::<u8>()? % 4 {
                    0 => Channel::Nodes,
                    1 => Channel::Everybody,
                    2 => Channel::Group(group(input)?),
                    _ => Channel::Node(OWN),
                };
                let mut message = vec![VERSION, input.arbitrary::<u8>()? % 9];
                message.extend(u64::from(input.arbitrary::<u8>()?).to_le_bytes());
                message.extend(input.arbitrary::<u64>()?.to_le_bytes());
                message.extend(bytes(input)?);
                if let Ok(envelope) = Envelope::decode(&message) {
                    // What is understood is written again in the same form.
                    assert_eq!(Envelope::decode(&envelope.encode()), Ok(envelope));
                }
                link.handle(
                    connection,
                    Event::Message(channel.to_string().as_bytes(), &message),
                    now,
                );
            }
            7 => {
                let packet = [4, 0, 7, 0];
                let audience = if input.arbitrary()? {
                    Audience::All
                } else {
                    Audience::Group(group(input)?)
                };
                link.publish(audience, &packet, now);
            }
            8 => {
                let session = session(input)?;
                unanswered.insert(session);
                link.login(
                    session,
                    ["ada", "bob"][usize::from(input.arbitrary::<bool>()?)],
                    5,
                    now,
                );
            }
            9 => {
                let session = session(input)?;
                unanswered.remove(&session);
                link.end_session(session);
            }
            10 => link.change_members(group(input)?, input.arbitrary()?, now),
            _ => {
                link.tell("ada", &[4, 0, 7, 0]);
                link.kick("bob");
            }
        }
        for command in link.take_commands() {
            if let Command::Connect(number) = command {
                connection = number;
            }
        }
        for output in link.take_outputs() {
            match output {
                Output::Answer(session, _) => {
                    assert!(unanswered.remove(&session), "{session} has two answers")
                }
                Output::Close(session, _) => {
                    unanswered.remove(&session);
                }
                _ => {}
            }
        }
        let [logins, doubtful, ended, _] = link.held();
        assert!(logins <= 2 && doubtful <= 2 && ended <= 2, "two accounts");
        assert!(link.accounts_to_compare() <= 2 * logins);
        assert!(link.queued_bytes() <= (4 << 20) + (256 << 10) + (64 << 10));
        Ok(())
    })
}
