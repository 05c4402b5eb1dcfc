//! The documents agree with the program and with the repository: flags, metrics, reason codes,
//! unsafe code, links.
use crate::util::{QUIET, REASONS, Server};
use game_server::packets::CHAT_FLOOD;
use server_core::{DisconnectReason, Kick};
use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};

const README: &str = include_str!("../README.md");
const PROTOCOL: &str = include_str!("../PROTOCOL.md");

#[test]
fn the_readme_has_every_flag_with_its_default() {
    let help = crate::pages::help(env!("CARGO_BIN_EXE_game_server"), &["--help"]);
    crate::pages::assert_flags_match(README, &help);
}

#[test]
fn the_readme_has_every_metric_with_its_type() {
    let server = Server::start(&[&QUIET[..], &["--metrics-addr", "127.0.0.1:0"]].concat());
    let line = server.wait_for_line("metrics on ");
    let mut stream = TcpStream::connect(line.rsplit_once(' ').unwrap().1).unwrap();
    stream
        .write_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n")
        .unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    let served: BTreeMap<&str, &str> = (text.lines())
        .filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '))
        .collect();
    let documented: BTreeMap<&str, &str> = (crate::pages::rows(README, "server_").into_iter())
        .map(|(name, row)| (name, row.split('|').nth(1).unwrap().trim()))
        .map(|(name, kind)| (name.split('{').next().unwrap(), kind))
        .collect();
    assert_eq!(documented, served);
}

#[test]
fn the_protocol_has_every_reason_with_its_code() {
    for label in REASONS {
        assert!(PROTOCOL.contains(&format!("`{label}`")), "{label}");
    }
    let kicks = [
        Kick::BadSize,
        Kick::TooLarge,
        Kick::UnknownId,
        Kick::BadPayload,
        Kick::PacketTimeout,
        Kick::SlowConsumer,
        Kick::RateLimit,
        CHAT_FLOOD,
    ];
    let others = [
        DisconnectReason::ServerFull,
        DisconnectReason::Shutdown,
        DisconnectReason::LoginTimeout,
        DisconnectReason::LoggedInElsewhere,
        DisconnectReason::KickedByOperator,
    ];
    for reason in kicks.map(DisconnectReason::from).into_iter().chain(others) {
        let row = format!("| {} | `{}` |", reason.code().unwrap(), reason.label());
        assert!(PROTOCOL.contains(&row), "{row}");
    }
}

/// The workspace denies `unsafe_code`, so a file with unsafe code has to name that lint.
#[test]
fn security_md_names_the_files_with_unsafe_code() {
    let security = fs::read_to_string(root().join("SECURITY.md")).unwrap();
    let (_, section) = security.split_once("\n## Unsafe code").unwrap();
    let mut named: Vec<_> = paths(section)
        .filter(|path| path.ends_with(".rs"))
        .collect();
    named.sort_unstable();
    let mut sources = Vec::new();
    for package in ["dummy_client", "game_server", "server_core"] {
        find_files(&root().join(package).join("src"), "rs", &mut sources);
    }
    sources.retain(|file| fs::read_to_string(file).unwrap().contains("unsafe_code"));
    sources.sort_unstable();
    assert_eq!(
        named
            .into_iter()
            .map(|path| root().join(path))
            .collect::<Vec<_>>(),
        sources
    );
}

#[test]
fn every_link_and_path_of_every_document_leads_somewhere() {
    let root = root();
    let mut documents = Vec::new();
    find_files(root, "md", &mut documents);
    let (mut found, mut broken) = (0, Vec::new());
    for document in documents {
        let text = fs::read_to_string(&document).unwrap();
        let mut check = |target: &str, leads_somewhere: bool| {
            found += 1;
            if !leads_somewhere {
                broken.push(format!("{}: {target}", document.display()));
            }
        };
        for target in links(&prose(&text)) {
            check(target, leads_somewhere(&document, target));
        }
        // A changelog names files that have gone since. `lecture_table.rs` checks the names of tests.
        if !document.ends_with("CHANGELOG.md") && !document.ends_with("tests/README.md") {
            for path in paths(&text) {
                check(path, root.join(path).exists());
            }
        }
    }
    assert!(found > 100, "only {found} links were found");
    assert!(broken.is_empty(), "{broken:#?}");
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

/// All files below `folder` with this ending, without what cargo has built and what is hidden.
fn find_files(folder: &Path, ending: &str, files: &mut Vec<PathBuf>) {
    if folder.join("CACHEDIR.TAG").exists() {
        return;
    }
    for entry in fs::read_dir(folder).unwrap() {
        let entry = entry.unwrap();
        let path = entry.path();
        if entry.file_name().to_string_lossy().starts_with('.') {
            continue;
        }
        if path.is_dir() {
            find_files(&path, ending, files);
        } else if path.extension().is_some_and(|end| end == ending) {
            files.push(path);
        }
    }
}

/// The text without its blocks of code.
fn prose(text: &str) -> String {
    let mut is_code = false;
    let lines = text.lines().filter(|line| {
        let is_fence = line.trim_start().starts_with("```");
        is_code ^= is_fence;
        !is_code && !is_fence
    });
    lines.map(|line| format!("{line}\n")).collect()
}

/// The targets of links, pictures and reference definitions.
fn links(prose: &str) -> Vec<&str> {
    let starts = [
        ("](", ')'),
        ("src=\"", '"'),
        ("srcset=\"", '"'),
        ("]: ", '\n'),
    ];
    let of = |(start, end): (&'static str, char)| {
        let after = prose.split(start).skip(1);
        after.filter_map(move |rest| Some(rest.split_once(end)?.0))
    };
    starts.into_iter().flat_map(of).collect()
}

/// Paths that begin at the root of the repository, in prose and in code.
fn paths(text: &str) -> impl Iterator<Item = &str> {
    let words = text.split(|c: char| !(c.is_alphanumeric() || "_-./".contains(c)));
    let paths = words.map(|word| word.trim_start_matches("./").trim_end_matches('.'));
    paths.filter(|path| {
        let tops = ["scripts/", "server_core/", "game_server/", "dummy_client/"];
        tops.iter().any(|top| path.starts_with(top))
    })
}

fn leads_somewhere(document: &Path, target: &str) -> bool {
    if ["https://", "http://", "mailto:"]
        .iter()
        .any(|scheme| target.starts_with(scheme))
    {
        return true;
    }
    let (path, anchor) = target.split_once('#').unwrap_or((target, ""));
    let file = match path {
        "" => document.to_owned(),
        path => document.with_file_name(path),
    };
    if anchor.is_empty() {
        return file.exists();
    }
    let text = fs::read_to_string(file).unwrap_or_default();
    let prose = prose(&text);
    let mut headings = prose.lines().filter(|line| line.starts_with('#'));
    headings.any(|heading| slug(heading.trim_start_matches('#').trim()) == anchor)
}

/// The anchor of a heading, as GitHub makes it.
fn slug(heading: &str) -> String {
    let kept = |c: &char| c.is_alphanumeric() || " -_".contains(*c);
    let lower = heading.to_lowercase();
    lower
        .chars()
        .filter(kept)
        .collect::<String>()
        .replace(' ', "-")
}
