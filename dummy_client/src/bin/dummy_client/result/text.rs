//! The summary for people.

use super::summary::{Bye, Quantiles, Summary};
use crate::load::capacity::{Answer, Capacity};
use crate::measure::groups::More;
use dummy_client::attack::AttackReport;
use server_core::host::human_bytes;

impl Summary {
    /// For people.
    pub fn to_text(&self) -> String {
        let Self {
            sessions,
            packets,
            ticks,
            echoes,
            chats,
            ..
        } = self;
        let mut text = format!(
            "sessions  {} of {} connected, {} live at the end, {} lost, {} reconnected\n\
             packets   {} received ({}), {} malformed, {} with an unknown id\n\
             ticks     {} received, {} missing, {} repeated, {} out of order, {} with a wrong text\n",
            sessions.connected,
            sessions.asked,
            sessions.live,
            sessions.lost,
            sessions.came_back + sessions.came_back_late,
            packets.received,
            human_bytes(packets.bytes as f64),
            packets.malformed,
            packets.unknown_ids,
            ticks.received,
            ticks.missing,
            ticks.repeats,
            ticks.reordered,
            ticks.wrong_texts,
        );
        if ticks.skipped > 0 {
            text += &format!(
                "skipped   {} ticks; the longest gap is {:.0} ms\n",
                ticks.skipped, self.longest_tick_gap_ms
            );
        }
        if echoes.sent > 0 {
            text += &format!(
                "echoes    {} sent, {} answered, {} corrupted, {} lost\n",
                echoes.sent, echoes.answered, echoes.wrong, echoes.unanswered
            );
        }
        if chats.sent > 0 {
            text += &format!(
                "chats     {} sent, {} delivered, {} corrupted, {} lost\n",
                chats.sent, chats.heard, chats.wrong, chats.unheard
            );
        }
        let measured = [
            ("delay", &self.tick_delay_ms, "tick against the schedule"),
            ("spread", &self.tick_spread_ms, "one tick over the sessions"),
            ("rtt", &self.rtt_ms, "echo, from the due time to the answer"),
            (
                "chat",
                &self.chat_ms,
                "chat, from the due time to the delivery",
            ),
            ("connect", &self.connect_ms, ""),
        ];
        for (name, quantiles, what) in measured.into_iter().filter(|(_, q, _)| q.count > 0) {
            let Quantiles {
                p50,
                p90,
                p99,
                p999,
                max,
                ..
            } = quantiles;
            let line = format!(
                "{name:<9} p50 {p50:.2}  p90 {p90:.2}  p99 {p99:.2}  p99.9 {p999:.2}  max {max:.2} ms  {what}"
            );
            text += line.trim_end();
            text.push('\n');
        }
        for why in &self.client.reasons {
            text += &format!("client    {why}\n");
        }
        for (why, count) in &self.losses {
            text += &format!("loss      {count} x {why}\n");
        }
        text += &more_line("loss", self.losses_more);
        for Bye {
            code,
            text: why,
            count,
        } in &self.byes
        {
            text += &format!("bye       {count} x code {code} ({why:?})\n");
        }
        text += &more_line("bye", self.byes_more);
        if let Some(attack) = &self.attack {
            text += &attack_text(attack);
        }
        if let Some(capacity) = &self.capacity {
            text += &capacity_text(capacity);
        } else {
            for failure in &self.failures {
                text += &format!("failed    {failure}\n");
            }
        }
        for asserted in &self.assertions {
            let outcome = if asserted.holds { "holds " } else { "BROKEN" };
            text += &format!("assert    {outcome}  {asserted}\n");
        }
        text += &format!(
            "verdict   {} after {:.1} s\n",
            self.verdict.label(),
            self.elapsed_secs
        );
        text
    }
}

fn attack_text(attack: &AttackReport) -> String {
    let stats = &attack.stats;
    let kicked: Vec<String> = (stats.kicked.iter())
        .map(|(reason, count)| format!("{count} {reason}"))
        .collect();
    let kicked = if kicked.is_empty() {
        "none".into()
    } else {
        kicked.join(", ")
    };
    let neighbours = &attack.neighbours;
    let by_interval = neighbours.by_interval.iter();
    let lost: Vec<String> = by_interval
        .map(|group| format!("{} ms {}", group.read_interval_ms, group.lost))
        .collect();
    let newcomers = attack
        .newcomers
        .as_ref()
        .map_or(String::new(), |newcomers| {
            format!(
                "newcomers {} connected, {} not served, longest wait {:.0} ms\n",
                newcomers.tried,
                newcomers.not_served,
                newcomers.longest_wait_ms.unwrap_or(0.0),
            )
        });
    format!(
        "attack    {} by {} attackers for {:.1} s: {} connections, kicked {kicked}, {} closed without a \
         reason, {} refused, {} not kicked in time\n\
         healthy   tick delay p99 {:.2} ms before, {:.2} ms under the attack\n\
         neighbours {} of {} connected, {} lost, {} ticks missing; lost by read interval: {}\n\
         {newcomers}",
        attack.name,
        attack.attackers,
        attack.elapsed_secs,
        stats.connections,
        stats.closed_without_message,
        stats.refused,
        stats.not_kicked,
        attack.baseline.p99_ms,
        attack.during.p99_ms,
        neighbours.connected,
        neighbours.sessions,
        neighbours.lost,
        neighbours.missing_ticks,
        lost.join(", "),
    )
}

/// A step a line, with a bar as long as its sessions are many, and the answer.
fn capacity_text(capacity: &Capacity) -> String {
    let most = capacity.steps.iter().map(|step| step.sessions).max();
    let most = most.unwrap_or(1).max(1);
    let mut text = String::new();
    for step in &capacity.steps {
        let outcome = match (step.client_limited, step.holds) {
            (true, _) => "limited",
            (false, true) => "holds",
            (false, false) => "breaks",
        };
        let bar = "#".repeat((step.sessions * 30).div_ceil(most));
        text += &format!(
            "step      {:>8} sessions  {outcome:<8} p99 {:>8.2} ms  {:>9.0} packets/s  {:>9}/s  {bar}\n",
            step.sessions,
            step.tick_delay_p99_ms,
            step.packets_per_sec,
            human_bytes(step.bytes_per_sec),
        );
    }
    let largest = match capacity.largest {
        Some(sessions) => format!("{sessions} sessions"),
        None => "0 sessions".into(),
    };
    text += &match capacity.outcome {
        Answer::Found => format!("capacity  {largest}\n"),
        Answer::AtLeast => format!("capacity  at least {largest}: --count is reached\n"),
        Answer::None => "capacity  0 sessions: the smallest step breaks\n".into(),
        Answer::ClientLimited => format!(
            "capacity  unknown: the client is the bottleneck ({largest} held before); \
             use more --threads or a separate machine\n"
        ),
        Answer::Interrupted => format!("capacity  unknown: interrupted ({largest} held)\n"),
    };
    text
}

fn more_line(name: &str, more: More) -> String {
    match more {
        More { count: 0, .. } => String::new(),
        More {
            groups_at_least,
            count,
        } => format!("{name:<9} {count} x others, of at least {groups_at_least} more kinds\n"),
    }
}
