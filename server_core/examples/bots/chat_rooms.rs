//! Clients of the chat rooms: they meet, part, and hear nothing from a room outside.

use crate::demo::{self, Verdict};
use crate::{CJoin, CLeave, CName, CSay, SJoined, SLeft, SSaid};
use server_core::{Context, Kick, Packet, Session};
use std::collections::{HashSet, VecDeque};
use std::time::Duration;

/// Greets each bot that enters its room, and leaves when it has met all bots of the room. The first bot of
/// each room is its host: it sends a farewell to the bots that have left, first in the room, where they must
/// not receive it, and then in the lobby, where they do. So they know that no packet can follow, and leave.
pub struct ChatBot {
    name: String,
    room: &'static str,
    is_host: bool,
    /// How many others belong in its room.
    others: usize,
    rooms: HashSet<String>,
    met: HashSet<String>,
    gone: usize,
    to_say: VecDeque<(&'static str, String)>,
    heard: u32,
    verdict: Verdict<u32>,
}

const LOBBY: &str = "lobby";
const ROOMS: [&str; 2] = ["red", "blue"];
/// From one line to the next: within the budget.
const PAUSE: Duration = Duration::from_millis(60);

impl ChatBot {
    pub fn new(verdict: Verdict<u32>) -> Self {
        let (bot, bots) = (usize::from(verdict.bot), usize::from(verdict.bots));
        let room = bot % ROOMS.len();
        Self {
            name: format!("bot {bot}"),
            room: ROOMS[room],
            is_host: bot < ROOMS.len(),
            others: (0..bots).skip(room).step_by(ROOMS.len()).count() - 1,
            rooms: HashSet::new(),
            met: HashSet::new(),
            gone: 0,
            to_say: VecDeque::new(),
            heard: 0,
            verdict,
        }
    }

    fn on_joined(&mut self, ctx: &mut Context<'_>, joined: &SJoined<'_>) -> Result<(), Kick> {
        if joined.who == self.name {
            self.rooms.insert(joined.room.to_owned());
        } else if joined.room == self.room {
            self.met.insert(joined.who.to_owned());
            self.say(ctx, self.room, format!("hi {}", joined.who));
        }
        self.must_be_in(joined.room)
    }

    fn on_said(&mut self, ctx: &mut Context<'_>, said: &SSaid<'_>) -> Result<(), Kick> {
        let SSaid { room, who, text } = said;
        if self.verdict.bot == 0 {
            demo::say(format_args!("bot 0 in {room:5}  {who}: {text}"));
        }
        self.must_be_in(room)?;
        self.heard += 1;
        if *room == self.room && *who != self.name {
            self.met.insert((*who).to_owned());
        }
        if *room == LOBBY && *text == format!("bye {}", self.name) {
            let is_out = !self.rooms.contains(self.room);
            self.verdict.check(is_out, "who leaves is told so first")?;
            self.verdict.passed(self.heard);
            ctx.close();
        }
        Ok(())
    }

    fn on_left(&mut self, ctx: &mut Context<'_>, left: &SLeft<'_>) -> Result<(), Kick> {
        self.must_be_in(left.room)?;
        if left.who == self.name {
            self.rooms.remove(left.room);
        } else if left.room == LOBBY {
            self.gone += usize::from(self.met.contains(left.who));
        } else if self.is_host {
            self.say(ctx, self.room, format!("bye {}", left.who));
            self.say(ctx, LOBBY, format!("bye {}", left.who));
        }
        Ok(())
    }

    fn must_be_in(&mut self, room: &str) -> Result<(), Kick> {
        let claim = "a bot hears of the rooms that it is in, and of no other";
        self.verdict.check(self.rooms.contains(room), claim)
    }

    fn say(&mut self, ctx: &mut Context<'_>, room: &'static str, text: String) {
        if self.to_say.is_empty() {
            ctx.set_timer(ctx.now() + PAUSE);
        }
        self.to_say.push_back((room, text));
    }

    fn leave_if_done(&mut self, ctx: &mut Context<'_>) {
        if self.met.len() < self.others || !self.to_say.is_empty() {
            return;
        }
        if !self.is_host {
            ctx.send_packet(&CLeave { room: self.room });
        } else if self.gone == self.others {
            self.verdict.passed(self.heard);
        }
    }
}

impl Session for ChatBot {
    fn on_connected(&mut self, ctx: &mut Context<'_>) {
        ctx.send_packet(&CName { name: &self.name });
        ctx.send_packet(&CJoin { room: LOBBY });
        ctx.send_packet(&CJoin { room: self.room });
    }

    fn on_packet(&mut self, ctx: &mut Context<'_>, packet: Packet<'_>) -> Result<(), Kick> {
        match packet.id() {
            SJoined::ID => self.on_joined(ctx, &packet.decode::<SJoined<'_>>()?)?,
            SLeft::ID => self.on_left(ctx, &packet.decode::<SLeft<'_>>()?)?,
            _ => self.on_said(ctx, &packet.decode::<SSaid<'_>>()?)?,
        }
        self.leave_if_done(ctx);
        Ok(())
    }

    fn on_timer(&mut self, ctx: &mut Context<'_>) {
        if let Some((room, text)) = self.to_say.pop_front() {
            ctx.send_packet(&CSay { room, text: &text });
        }
        if !self.to_say.is_empty() {
            ctx.set_timer(ctx.now() + PAUSE);
        }
        self.leave_if_done(ctx);
    }
}

pub fn sum_up(heard: Vec<u32>) -> Result<String, String> {
    let (bots, lines) = (heard.len(), heard.iter().sum::<u32>());
    Ok(format!(
        "{bots} bots met in their rooms and left; {lines} lines heard, none from a room outside"
    ))
}
