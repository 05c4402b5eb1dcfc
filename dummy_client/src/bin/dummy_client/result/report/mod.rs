//! The summary as one page: for a browser, without a network, without a script. What a peer has
//! said is text here, whatever it looks like: the template engine escapes it.

mod axis;
mod figures;
mod format;
mod plot;

use super::assertion::Asserted;
use super::output;
use super::summary::{Bye, Quantiles, Summary};
use super::verdict;
use crate::load::capacity::{Answer, Capacity, Step};
use crate::measure::groups::More;
use askama::Template;
use figures::{Figure, distributions, over_time};
use format::{digits, grouped, ms, shown};
use game_server::packets::label_of_code;
use plot::SIZE;
use server_core::host::human_bytes;

/// The page.
///
/// # Errors
/// One line for the user.
pub fn render(summary: &Summary) -> Result<String, String> {
    page(summary)?
        .render()
        .map_err(|error| format!("the report cannot be written: {error}"))
}

fn page(summary: &Summary) -> Result<Page<'_>, String> {
    Ok(Page {
        verdict: Verdict::of(summary),
        figures: key_figures(summary),
        settings: settings(summary),
        percentiles: percentiles(summary),
        over_time: over_time(summary)?,
        distributions: distributions(summary)?,
        capacity: capacity(summary),
        assertions: summary.assertions.iter().map(assertion).collect(),
        checks: checks(summary),
        losses: losses(summary),
        byes: byes(summary),
        client: client(summary),
        machine: machine(summary),
        plot_size: SIZE,
        version: env!("CARGO_PKG_VERSION"),
        json: script_json(summary)?,
        summary,
    })
}

/// The summary for a script element, which `</script` or `<!--` in a string must not end.
fn script_json(summary: &Summary) -> Result<String, String> {
    let json = output::to_json(summary, false)?;
    Ok(json
        .replace('&', "\\u0026")
        .replace('<', "\\u003c")
        .replace('>', "\\u003e"))
}

/// What the template shows. A list that is empty has no section on the page.
#[derive(Template)]
#[template(path = "report.html")]
struct Page<'a> {
    verdict: Verdict<'a>,
    figures: Vec<Fact>,
    settings: Vec<Fact>,
    percentiles: Vec<Percentiles>,
    over_time: Vec<Figure>,
    distributions: Vec<Figure>,
    /// The steps of a search for the capacity.
    capacity: Vec<Check>,
    /// What the command line demanded.
    assertions: Vec<Check>,
    /// What is demanded always.
    checks: Vec<Check>,
    losses: Groups,
    byes: Groups,
    /// This program itself.
    client: Vec<Fact>,
    /// What the machine allows.
    machine: Vec<Fact>,
    plot_size: (u32, u32),
    version: &'static str,
    summary: &'a Summary,
    /// The same, for programs that read the page.
    json: String,
}

struct Verdict<'a> {
    word: &'static str,
    says: String,
    reasons: Vec<&'a str>,
    /// A second thing to know.
    note: Option<Note<'a>>,
}

struct Note<'a> {
    says: &'static str,
    reasons: Vec<&'a str>,
}

/// One thing to know.
struct Fact {
    name: String,
    value: String,
    /// Small, below the value.
    more: String,
}

/// One thing that had to hold.
struct Check {
    what: String,
    value: String,
    holds: bool,
}

struct Percentiles {
    name: &'static str,
    what: &'static str,
    /// Each with the head of its column.
    cells: [(&'static str, String); 6],
}

/// Equal things counted.
struct Groups {
    rows: Vec<(String, String)>,
    /// What the rows leave out.
    more: Option<(String, String)>,
}

impl Groups {
    /// The largest first.
    fn new(mut rows: Vec<(String, u64)>, more: More) -> Self {
        rows.sort_by_key(|&(_, count)| std::cmp::Reverse(count));
        let groups = grouped(more.groups_at_least);
        Self {
            rows: rows
                .into_iter()
                .map(|(what, count)| (what, grouped(count)))
                .collect(),
            more: (more.count > 0).then(|| {
                (
                    format!("and at least {groups} more groups"),
                    grouped(more.count),
                )
            }),
        }
    }
}

fn fact(name: &str, value: impl Into<String>, more: impl Into<String>) -> Fact {
    Fact {
        name: name.into(),
        value: value.into(),
        more: more.into(),
    }
}

// ---- the parts of the page ----------------------------------------------------------------------

impl<'a> Verdict<'a> {
    fn of(summary: &'a Summary) -> Self {
        let borrowed = |list: &'a [String]| list.iter().map(String::as_str).collect();
        let limits: Vec<_> = borrowed(&summary.client.reasons);
        let word = summary.verdict.label();
        let broken = summary.assertions.iter().filter(|asserted| !asserted.holds);
        let broken = broken.map(|asserted| asserted.expr.as_str());
        if let Some(capacity) = &summary.capacity {
            return Self {
                word,
                says: capacity_says(capacity),
                reasons: match capacity.outcome {
                    Answer::ClientLimited => limits,
                    _ => Vec::new(),
                },
                note: None,
            };
        }
        match summary.verdict {
            verdict::Verdict::ClientLimited => Self {
                word,
                says: "This client was the bottleneck: the server did nothing wrong, but the \
                       figures below say nothing about it."
                    .into(),
                reasons: limits,
                note: None,
            },
            verdict::Verdict::Ok => Self {
                word,
                says: "Every session connected, and nothing was lost, repeated or wrong.".into(),
                reasons: Vec::new(),
                note: None,
            },
            verdict::Verdict::Failed => Self {
                word,
                says: match summary.failures.is_empty() {
                    true => "Nothing was lost, but not every assertion held.",
                    false => "Not every session got what it should have.",
                }
                .into(),
                reasons: (summary.failures.iter().map(String::as_str))
                    .chain(broken)
                    .collect(),
                note: (!limits.is_empty()).then_some(Note {
                    says: "This client was a bottleneck, too: what is late below may be its own \
                           doing.",
                    reasons: limits,
                }),
            },
        }
    }
}

fn capacity_says(capacity: &Capacity) -> String {
    let largest = grouped(capacity.largest.unwrap_or(0) as u64);
    match capacity.outcome {
        Answer::Found => format!("{largest} sessions hold, and little more do not."),
        Answer::AtLeast => format!("{largest} sessions hold: --count is reached."),
        Answer::None => "Not even one session was served as it should be.".into(),
        Answer::ClientLimited => {
            format!("No answer: this client was the bottleneck. {largest} sessions held before.")
        }
        Answer::Interrupted => format!("No answer: ended too early. {largest} sessions held."),
    }
}

fn capacity(summary: &Summary) -> Vec<Check> {
    let steps = summary.capacity.iter().flat_map(|capacity| &capacity.steps);
    let row = |step: &Step| {
        let sessions = grouped(step.sessions as u64);
        let limited = if step.client_limited {
            ", limited by this client"
        } else {
            ""
        };
        Check {
            what: format!("{sessions} sessions{limited}"),
            value: format!("tick delay p99 {}", ms(step.tick_delay_p99_ms)),
            holds: step.holds,
        }
    };
    steps.map(row).collect()
}

fn assertion(asserted: &Asserted) -> Check {
    let text = asserted.to_string();
    let value = text.strip_prefix(&asserted.expr).unwrap_or(&text);
    Check {
        what: asserted.expr.clone(),
        value: value.trim_start_matches(": ").into(),
        holds: asserted.holds,
    }
}

fn machine(summary: &Summary) -> Vec<Fact> {
    let machine = &summary.machine;
    let number = |name, value: Option<u64>| Some(fact(name, grouped(value?), ""));
    let memory = machine.memory_total_bytes;
    let facts = [
        Some(fact("system", machine.system.clone(), "")),
        Some(fact("cores", machine.cores.to_string(), "")),
        memory.map(|bytes| fact("memory", human_bytes(bytes as f64), "")),
        number("open files", machine.fd_soft_limit),
        number("… at most", machine.fd_hard_limit),
        number("ports of one address", machine.ephemeral_ports),
        number("backlog (somaxconn)", machine.somaxconn),
    ];
    let known = facts.into_iter().flatten();
    known.filter(|fact| !fact.value.is_empty()).collect()
}

fn key_figures(summary: &Summary) -> Vec<Fact> {
    let Summary {
        sessions,
        packets,
        ticks,
        tick_delay_ms,
        tick_spread_ms,
        rtt_ms,
        ..
    } = summary;
    let per_sec = |count: u64| count as f64 / summary.elapsed_secs.max(1e-3);
    let quantiles = |name, of: &Quantiles| fact(name, ms(of.p99), format!("max {}", ms(of.max)));
    let asked = grouped(sessions.asked as u64);
    let mut figures = vec![
        fact(
            "connected",
            grouped(sessions.connected as u64),
            match sessions.live {
                live if live == sessions.connected => format!("of {asked} sessions"),
                live => format!("of {asked} sessions, {} at the end", grouped(live as u64)),
            },
        ),
        fact(
            "packets received",
            grouped(packets.received),
            format!(
                "{}/s, {}/s",
                grouped(per_sec(packets.received) as u64),
                human_bytes(per_sec(packets.bytes))
            ),
        ),
        fact(
            "ticks missing",
            grouped(ticks.missing),
            format!("of {}", grouped(ticks.received + ticks.missing)),
        ),
    ];
    if tick_delay_ms.count > 0 {
        figures.push(quantiles("tick delay, p99", tick_delay_ms));
        figures.push(quantiles("tick spread, p99", tick_spread_ms));
    }
    if rtt_ms.count > 0 {
        figures.push(quantiles("echo RTT, p99", rtt_ms));
    }
    figures
}

fn settings(summary: &Summary) -> Vec<Fact> {
    let settings = &summary.settings;
    let or = |value: f64, zero: &str, text: String| if value == 0.0 { zero.into() } else { text };
    let duration = match settings.duration_secs {
        Some(seconds) => format!("{seconds} s"),
        None => "until stopped".into(),
    };
    let (ramp, echo_hz) = (settings.ramp_per_sec, settings.echo_hz);
    let rows = [
        ("server", settings.addr.clone()),
        ("sessions", grouped(settings.count as u64)),
        ("duration", duration),
        (
            "ramp",
            or(
                ramp.into(),
                "as fast as it can",
                format!("{} a second", grouped(ramp.into())),
            ),
        ),
        (
            "echoes",
            or(
                echo_hz,
                "none",
                format!("{echo_hz} a second, {} bytes", settings.payload_bytes),
            ),
        ),
        (
            "chats",
            or(
                settings.chat_hz,
                "none",
                format!("{} a second", settings.chat_hz),
            ),
        ),
        (
            "churn",
            match &settings.churn_ms {
                Some(churn) => format!("after {churn} ms"),
                None => "none".into(),
            },
        ),
        (
            "stages",
            settings.stages.clone().unwrap_or_else(|| "none".into()),
        ),
        (
            "reconnect",
            if settings.reconnect { "yes" } else { "no" }.into(),
        ),
        ("event loops", settings.threads.to_string()),
        ("seed", settings.seed.to_string()),
        (
            "tick period",
            or(
                summary.tick_period_ms,
                "not known",
                ms(summary.tick_period_ms),
            ),
        ),
    ];
    rows.into_iter()
        .map(|(name, value)| fact(name, value, ""))
        .collect()
}

fn percentiles(summary: &Summary) -> Vec<Percentiles> {
    let rows = [
        (
            "tick delay",
            "against the server's own schedule",
            &summary.tick_delay_ms,
        ),
        (
            "tick spread",
            "one tick, from its first session to its last",
            &summary.tick_spread_ms,
        ),
        ("echo round trip", "from when it was due", &summary.rtt_ms),
        (
            "chat",
            "from when it was due until its sender heard it",
            &summary.chat_ms,
        ),
        (
            "connect",
            "from the call to the connection",
            &summary.connect_ms,
        ),
    ];
    let rows = rows.into_iter().filter(|(_, _, of)| of.count > 0);
    rows.map(|(name, what, of)| Percentiles {
        name,
        what,
        cells: [
            ("p50", digits(of.p50)),
            ("p90", digits(of.p90)),
            ("p99", digits(of.p99)),
            ("p99.9", digits(of.p999)),
            ("max", digits(of.max)),
            ("count", grouped(of.count)),
        ],
    })
    .collect()
}

fn checks(summary: &Summary) -> Vec<Check> {
    let Summary {
        sessions,
        packets,
        ticks,
        echoes,
        chats,
        ..
    } = summary;
    let counted = [
        (
            "sessions that never connected",
            sessions.never_connected as u64,
        ),
        (
            "sessions lost for good",
            sessions.lost.saturating_sub(sessions.came_back),
        ),
        ("sessions that did not reconnect", sessions.missing as u64),
        ("sessions without the newest tick", sessions.behind as u64),
        ("sessions that saw no tick", sessions.silent as u64),
        ("ticks missing", ticks.missing),
        ("ticks repeated", ticks.repeats),
        ("ticks out of order", ticks.reordered),
        ("hellos with a wrong text", ticks.wrong_texts),
        ("malformed packets", packets.malformed),
        ("packets with an unknown id", packets.unknown_ids),
        ("corrupted echoes", echoes.wrong),
        ("lost echoes", echoes.unanswered),
        ("corrupted chats", chats.wrong),
        ("chats that did not come back", chats.unheard),
    ];
    let mut checks: Vec<_> = counted
        .into_iter()
        .map(|(what, count)| Check {
            what: what.into(),
            value: grouped(count),
            holds: count == 0,
        })
        .collect();
    let silent = sessions.server_silent_secs;
    checks.push(Check {
        what: "seconds of silence at the end".into(),
        value: format!("{silent:.1}"),
        holds: silent == 0.0,
    });
    checks
}

fn losses(summary: &Summary) -> Groups {
    let rows = summary.losses.iter();
    let rows = rows.map(|(why, count)| (shown(why), *count)).collect();
    Groups::new(rows, summary.losses_more)
}

fn byes(summary: &Summary) -> Groups {
    let row = |bye: &Bye| {
        let label = label_of_code(bye.code).unwrap_or("unknown code");
        (
            format!("{} {label}: {}", bye.code, shown(&bye.text)),
            bye.count,
        )
    };
    let rows = summary.byes.iter().map(row).collect();
    Groups::new(rows, summary.byes_more)
}

fn client(summary: &Summary) -> Vec<Fact> {
    let client = &summary.client;
    vec![
        fact("longest stall", ms(client.worst_stall_ms), ""),
        fact("longest wait of a packet", ms(client.worst_loop_lag_ms), ""),
        fact("latest request sent", ms(client.worst_late_send_ms), ""),
        fact(
            "busiest event loop",
            format!("{:.0} %", client.busiest_loop * 100.0),
            "",
        ),
        fact(
            "CPU",
            format!("{:.2} cores", client.cpu_cores),
            format!("{:.1} µs a packet", client.cpu_us_per_packet),
        ),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measure::distribution::Bucket;
    use crate::measure::meter::Second;

    /// A run in which nothing has happened.
    fn empty() -> Summary {
        Summary::default()
    }

    /// A run in which there is something for each part of the page.
    fn full() -> Summary {
        let mut summary = empty();
        summary.elapsed_secs = 3.0;
        let quantiles = || Quantiles {
            count: 9,
            p50: 1.0,
            p90: 2.0,
            p99: 3.0,
            p999: 4.0,
            max: 50.0,
        };
        summary.tick_delay_ms = quantiles();
        summary.tick_spread_ms = quantiles();
        summary.rtt_ms = quantiles();
        summary.connect_ms = quantiles();
        let buckets = [(1.0, 5), (1.25, 0), (1.6, 4)];
        let buckets = buckets.map(|(up_to_ms, count)| Bucket { up_to_ms, count });
        summary.distributions.tick_delay = buckets.into();
        summary.distributions.tick_spread = buckets.into();
        summary.distributions.rtt = buckets.into();
        summary.timeline = [1.0, 2.0, 3.0]
            .map(|at_secs| Second {
                at_secs,
                sessions: 5,
                packets_per_sec: 20.0 * at_secs,
                tick_delay_p50_ms: 1.0,
                tick_delay_p99_ms: 3.0,
                tick_delay_max_ms: 50.0,
                rtt_p50_ms: 1.0,
                rtt_p99_ms: 3.0,
                // The second one stands alone.
                rtt_max_ms: if at_secs == 2.0 { 50.0 } else { 0.0 },
                ..Second::default()
            })
            .into();
        summary.losses.insert("peer_closed".into(), 3);
        summary.byes.push(Bye {
            code: 7,
            text: "too much".into(),
            count: 2,
        });
        summary
    }

    fn plots(html: &str) -> usize {
        html.matches("<svg class=\"plot\"").count()
    }

    #[test]
    fn a_run_without_data_is_a_page_without_plots() {
        let html = render(&empty()).unwrap();
        assert_eq!(plots(&html), 0);
        assert!(!html.contains("NaN") && !html.contains("inf"), "{html}");
        assert!(html.contains("What must not be"));
        assert!(!html.contains("Percentiles") && !html.contains("goodbyes"));
    }

    #[test]
    fn a_run_with_everything_has_all_plots_and_each_says_what_it_is() {
        let html = render(&full()).unwrap();
        assert_eq!(plots(&html), 7);
        for part in ["<title>", "<desc>", "role=\"img\""] {
            assert!(html.matches(part).count() >= 7, "{part}");
        }
        assert!(html.contains("7 rate_limit: too much"));
        assert!(html.contains("<td data-name=\"p99.9\">4.00</td>"));
    }

    #[test]
    fn one_second_is_enough_for_a_plot() {
        let mut summary = full();
        summary.timeline.truncate(1);
        summary.timeline[0].rtt_max_ms = 50.0;
        let html = render(&summary).unwrap();
        // The two areas, and the quantiles of ticks and of echoes.
        assert_eq!(html.matches("<circle").count(), 2 + 3 + 3);
        summary.timeline[0] = Second::default();
        assert!(render(&summary).is_ok());
    }

    #[test]
    fn every_colour_of_the_plots_is_one_of_the_page() {
        let html = render(&full()).unwrap();
        let mut found = 0;
        for attribute in ["stroke", "fill"] {
            for part in html.split(&format!(" {attribute}=\"#")).skip(1) {
                let colour = &part[..6];
                // Text is set as a whole.
                if (attribute, colour) == ("fill", "000000") {
                    continue;
                }
                let rule = format!(".plot [{attribute}=\"#{colour}\"]");
                assert!(html.contains(&rule), "{rule}");
                found += 1;
            }
        }
        assert!(found > 20, "{found}");
    }

    #[test]
    fn what_a_peer_says_is_text() {
        let attack = "</script><img src=x onerror=alert(1)>'\"&{{7*7}}\u{202e}\u{1b}[31m<!--";
        let mut summary = full();
        summary.byes[0].text = attack.into();
        summary.losses.insert(attack.into(), 1);
        summary.failures.push(attack.into());
        summary.client.reasons.push(attack.into());
        summary.verdict = verdict::Verdict::Failed;
        let html = render(&summary).unwrap();
        assert_eq!(html.matches("<script").count(), 1);
        assert_eq!(html.matches("</script").count(), 1);
        assert!(!html.contains("<img") && !html.contains("<!--"), "{html}");
        // In lists of groups, what cannot be seen is spelled out.
        assert!(html.contains(r"\u{202e}\u{1b}[31m"), "{html}");
        let (_, json) = html.split_once("id=\"summary\">").unwrap();
        let (json, _) = json.split_once("</script>").unwrap();
        assert!(!json.contains(['<', '\u{202e}', '\u{1b}']), "{json}");
        let read: serde_json::Value = serde_json::from_str(json).unwrap();
        assert_eq!(read["byes"][0]["text"], attack);
        assert_eq!(read, serde_json::to_value(&summary).unwrap());
    }

    #[test]
    fn the_page_asks_nobody_for_anything() {
        let html = render(&full()).unwrap();
        for part in [" src=", "url(", "@import", "<a ", "javascript", "https:"] {
            assert!(!html.contains(part), "{part}");
        }
        let namespaces = html.matches("xmlns=\"http://www.w3.org/2000/svg\"").count();
        assert_eq!(html.matches("http:").count(), namespaces);
        assert_eq!(
            html.matches(" href=").count(),
            html.matches("href=\"data:,\"").count()
        );
    }

    #[test]
    fn a_limited_client_blames_no_server() {
        let mut summary = full();
        summary.verdict = verdict::Verdict::ClientLimited;
        summary
            .client
            .reasons
            .push("this process was not run for 300 ms".into());
        let html = render(&summary).unwrap();
        assert!(html.contains("say nothing about it"));
        assert!(html.contains("not run for 300 ms"));
        // It failed and was limited: both are said.
        summary.verdict = verdict::Verdict::Failed;
        summary.failures.push("2 ticks were missing".into());
        let html = render(&summary).unwrap();
        assert!(html.contains("2 ticks were missing") && html.contains("not run for 300 ms"));
    }

    #[test]
    fn what_is_left_out_is_said() {
        let mut summary = full();
        summary.byes_more = More {
            groups_at_least: 951,
            count: 59_950,
        };
        let html = render(&summary).unwrap();
        assert!(
            html.contains("and at least 951 more groups</td><td>59,950"),
            "{html}"
        );
    }

    #[test]
    fn assertions_and_the_machine_are_shown() {
        let mut summary = full();
        summary.assertions.push(Asserted {
            expr: "tick_delay_p99<50ms".into(),
            metric: "tick_delay_ms.p99".into(),
            limit: 50.0,
            value: Some(60.25),
            holds: false,
            may_be_own_lag: false,
        });
        summary.machine.cores = 2;
        summary.verdict = verdict::Verdict::Failed;
        let html = render(&summary).unwrap();
        assert!(html.contains("tick_delay_p99&#60;50ms"), "{html}");
        assert!(html.contains("<b>60.250 ms</b>") && html.contains("class=\"broken\""));
        assert!(html.contains("This machine") && html.contains("not every assertion held"));
    }

    #[test]
    fn a_search_for_the_capacity_is_a_list_of_steps_and_an_answer() {
        let mut summary = full();
        let step = |sessions, holds| Step {
            sessions,
            holds,
            tick_delay_p99_ms: 12.0,
            ..Step::default()
        };
        summary.capacity = Some(Capacity {
            outcome: Answer::Found,
            largest: Some(1600),
            steps: vec![step(1600, true), step(3200, false)],
        });
        let html = render(&summary).unwrap();
        assert!(html.contains("1,600 sessions hold, and little more do not."));
        assert!(html.contains("3,200 sessions") && html.contains("tick delay p99 12.0 ms"));
    }
}
