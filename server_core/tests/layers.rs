//! The floors of the crate, read from its sources: imports go down only, and the lower floors
//! know no socket and no clock.
#![allow(clippy::unwrap_used)] // In a test, a panic is the report.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// Module and floor. The table in the doc of `lib.rs` must say the same.
const FLOORS: &[(usize, &[&str])] = &[
    (8, &["ticker"]),
    (7, &["server"]),
    (6, &["worker", "listener", "connector", "start"]),
    (5, &["shard"]),
    (4, &["connection", "router", "handlers", "content"]),
    (3, &["send_queue", "session", "list", "packets"]),
    (
        2,
        &[
            "framer",
            "send_buffer",
            "packet_writer",
            "groups",
            "admission",
        ],
    ),
    (
        1,
        &[
            "packet",
            "packet_reader",
            "metrics",
            "session_table",
            "timeout_queue",
            "departure_log",
            "config",
            "address_budgets",
            "snapshot",
            "mailbox",
            "accept_gate",
            "group_directory",
        ],
    ),
    (
        0,
        &[
            "id",
            "group_id",
            "reason",
            "wire",
            "tick",
            "recv_buffer",
            "rate_limiter",
            "backoff",
            "stopwatch",
            "sync",
            "outbox",
            "memory",
        ],
    ),
];

/// A module of several files.
struct Folder {
    name: &'static str,
    /// The lowest first.
    files: &'static [&'static str],
    /// What its files may take from their `mod.rs`.
    shared: &'static [&'static str],
}

const FOLDERS: &[Folder] = &[
    Folder {
        name: "send_buffer",
        files: &["chunk", "pool", "manager"],
        shared: &[],
    },
    Folder {
        name: "connection",
        files: &["output", "draining"],
        shared: &["Transport"],
    },
    Folder {
        name: "server",
        files: &["handle", "builder"],
        shared: &["Server", "EndWorkersOnDrop"],
    },
    // Parts of one machine, none of which names another.
    Folder {
        name: "shard",
        files: &[
            "arrivals",
            "effects",
            "input",
            "deadlines",
            "output",
            "leaving",
            "pacing",
            "memory",
            "unadmitted",
        ],
        shared: &["Shard", "Deferred", "guarded", "MIN_PACKET_COST", "STALL"],
    },
];

/// The highest floor that is free of sockets and clocks.
const HIGHEST_PURE_FLOOR: usize = 5;
const IMPURE: &[&str] = &[
    "Instant::now",
    ".elapsed(",
    "TcpStream",
    "TcpListener",
    "UdpSocket",
    "UnixStream",
    "mio::",
    "socket2",
    "thread::sleep",
];

/// The clock on the wall, which can be set back while something waits for it.
const WALL_CLOCK: &str = "SystemTime";

/// The only files with unsafe code: the chunk, and a call of the C library.
const UNSAFE_FILES: [&str; 2] = ["send_buffer/chunk.rs", "memory.rs"];

#[test]
fn every_module_lies_on_its_floor() {
    let mut offences = Vec::new();
    for (path, source) in sources() {
        offences.extend(offences_of(&path, &source));
    }
    assert!(offences.is_empty(), "\n{}", offences.join("\n"));
}

#[test]
fn every_file_has_a_floor_and_every_floor_its_files() {
    let mut files: Vec<String> = sources().into_keys().collect();
    files.retain(|path| path != "lib.rs");
    let mut expected = Vec::new();
    for module in FLOORS.iter().flat_map(|(_, modules)| *modules) {
        match folder_of(module) {
            Some(folder) => expected.extend(
                (folder.files.iter().chain(&["mod"])).map(|file| format!("{module}/{file}.rs")),
            ),
            None => expected.push(format!("{module}.rs")),
        }
    }
    files.sort();
    expected.sort();
    assert_eq!(
        files, expected,
        "src/ on the left, the floor table here on the right"
    );
}

#[test]
fn the_table_in_the_doc_of_lib_rs_is_the_same() {
    let lib = &sources()["lib.rs"];
    let mut in_doc: Vec<(usize, Vec<String>)> = Vec::new();
    for line in lib.lines() {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        let ["//!", floor, modules, ""] = cells[..] else {
            continue;
        };
        if let Ok(floor) = floor.parse() {
            // What stands in backticks is a module, or a path outside this crate.
            let mut names: Vec<String> = modules
                .split('`')
                .skip(1)
                .step_by(2)
                .filter(|name| !name.contains("::"))
                .map(str::to_owned)
                .collect();
            names.sort();
            in_doc.push((floor, names));
        }
    }
    let mut here: Vec<(usize, Vec<String>)> = FLOORS
        .iter()
        .map(|(floor, modules)| {
            let mut names: Vec<String> = modules.iter().map(|name| (*name).to_owned()).collect();
            names.sort();
            (*floor, names)
        })
        .collect();
    in_doc.sort();
    here.sort();
    assert_eq!(
        in_doc, here,
        "lib.rs on the left, tests/layers.rs on the right"
    );
}

#[test]
fn the_checker_bites() {
    let bites = |path: &str, source: &str| !offences_of(path, source).is_empty();
    // Upwards, sideways, by each way of writing it.
    assert!(bites("framer.rs", "use crate::session::Session;"));
    assert!(
        bites("framer.rs", "use crate::send_buffer::SendBuffer;"),
        "same floor"
    );
    assert!(bites(
        "framer.rs",
        "use crate::{packet::Packet, server::{Server, A}};"
    ));
    assert!(bites("framer.rs", "fn f() { crate::worker::go() }"));
    assert!(bites("framer.rs", "fn f() { crate :: worker::go() }"));
    assert!(bites("framer.rs", "use crate as c;"));
    assert!(
        bites("framer.rs", "use crate::Session;"),
        "round the corner, by the root"
    );
    assert!(bites(
        "framer.rs",
        "macro_rules! m { () => { $crate::server::go() } }"
    ));
    assert!(bites("framer.rs", "use super::worker;"));
    assert!(bites("send_buffer/chunk.rs", "use super::pool::ChunkPool;"));
    assert!(bites(
        "send_buffer/pool.rs",
        "use crate::send_buffer::SendBufferManager;"
    ));
    assert!(bites(
        "send_buffer/pool.rs",
        "use crate::send_buffer::manager::SendBufferManager;"
    ));
    assert!(bites(
        "connection/draining.rs",
        "use super::{Transport, Connection};"
    ));
    assert!(bites(
        "shard/input.rs",
        "use super::{Shard, leaving::reap_now};"
    ));
    // Sockets and clocks.
    assert!(bites(
        "tick.rs",
        "fn f() { let now = std::time::Instant::now(); }"
    ));
    assert!(bites("shard/mod.rs", "use mio::Token;"));
    assert!(bites(
        "shard/input.rs",
        "use std::net::{SocketAddr, TcpStream};"
    ));
    assert!(bites("mailbox.rs", "fn f() { thread::sleep(D); }"));
    assert!(bites("worker.rs", "use std::time::SystemTime;"));
    // Unsafe, also in tests.
    assert!(bites("id.rs", "fn f() { unsafe { g() } }"));
    assert!(bites("id.rs", "#![allow(unsafe_code)]"));
    assert!(bites(
        "id.rs",
        "#[cfg(test)] mod tests { fn f() { unsafe { g() } } }"
    ));
    // Strings and comments do not hide what follows them.
    assert!(bites(
        "framer.rs",
        "const A: &str = \"//\"; use crate::server::Server;"
    ));
    assert!(bites(
        "framer.rs",
        "const A: char = '\"'; use crate::server::Server; // \""
    ));
    assert!(bites(
        "framer.rs",
        "#[cfg(test)] mod tests { const A: char = '}'; } use crate::server::Server;"
    ));
    assert!(bites("unheard_of.rs", ""));

    let passes = |path: &str, source: &str| {
        assert_eq!(offences_of(path, source), Vec::<String>::new(), "{source}");
    };
    passes(
        "framer.rs",
        "use crate::packet::Packet; use crate::{wire::U16Le, reason::Kick};",
    );
    passes(
        "framer.rs",
        "// use crate::server::Server;\n/* Instant::now() /* unsafe */ mio:: */",
    );
    passes(
        "framer.rs",
        "/// Instant::now()\nconst A: &str = \"unsafe \\\" use crate::server\";",
    );
    passes(
        "framer.rs",
        "#[cfg(test)]\nmod tests { use crate::server::A; fn f<'a>() { Instant::now(); } }",
    );
    passes(
        "packets.rs",
        "macro_rules! m { () => { $crate::__n! { $crate::wire::U16Le } } }",
    );
    passes("worker.rs", "use mio::Poll; fn f() { Instant::now(); }");
    passes(
        "send_buffer/manager.rs",
        "use super::pool::ChunkPool; use super::chunk::Block;",
    );
    passes(
        "connection/draining.rs",
        "use super::Transport; use super::output::{Flushed, regauge};",
    );
    passes("shard/input.rs", "use super::{Shard, guarded};");
    passes(
        "send_buffer/chunk.rs",
        "#![allow(unsafe_code)] fn f() { unsafe { g() } }",
    );
}

#[test]
fn the_rules_have_something_to_look_at() {
    let sources = sources();
    for path in UNSAFE_FILES {
        assert!(code_of(&sources[path]).contains("unsafe {"));
    }
    assert!(code_of(&sources["worker.rs"]).contains("Instant::now"));
    assert!(paths_from_root(&without_tests(&code_of(&sources["shard/mod.rs"]))).len() > 10);
}

// ---- the checker --------------------------------------------------------------------------------

/// What is wrong in the file at `path` below `src/`.
fn offences_of(path: &str, source: &str) -> Vec<String> {
    let mut offences = Vec::new();
    let everything = code_of(source);
    let code = without_tests(&everything);
    if !UNSAFE_FILES.contains(&path) && words(&everything).any(|word| word.starts_with("unsafe")) {
        offences.push(format!("{path}: unsafe code belongs into {UNSAFE_FILES:?}"));
    }
    if words(&code).any(|word| word == WALL_CLOCK) {
        offences.push(format!(
            "{path}: `{WALL_CLOCK}` jumps; measure with `Instant`"
        ));
    }
    if path == "lib.rs" {
        return offences;
    }
    let module = path.trim_end_matches(".rs").split('/').next().unwrap();
    let Some(floor) = floor_of(module) else {
        offences.push(format!(
            "{path}: has no floor; give it one in lib.rs and here"
        ));
        return offences;
    };
    if floor <= HIGHEST_PURE_FLOOR {
        for impure in IMPURE.iter().filter(|impure| code.contains(**impure)) {
            offences.push(format!(
                "{path}: `{impure}` on floor {floor}: take it as an argument"
            ));
        }
    }
    for used in paths_from_root(&code) {
        match floor_of(&used) {
            Some(below) if below < floor => {}
            Some(other) => {
                offences.push(format!(
                    "{path}: on floor {floor}, uses {used} of floor {other}"
                ));
            }
            None => offences.push(format!("{path}: `crate::{used}`: name the module it is in")),
        }
    }
    for used in paths_after("super", &code) {
        let is_lower = folder_of(module).is_some_and(|folder| {
            let place = |file: &str| folder.files.iter().position(|known| *known == file);
            let own = path.rsplit('/').next().unwrap().trim_end_matches(".rs");
            let is_below =
                place(&used).is_some_and(|used| place(own).is_some_and(|own| used < own));
            is_below || folder.shared.contains(&used.as_str())
        });
        if !is_lower {
            offences.push(format!("{path}: `super::{used}` is no lower floor"));
        }
    }
    offences
}

fn floor_of(module: &str) -> Option<usize> {
    FLOORS
        .iter()
        .find(|(_, modules)| modules.contains(&module))
        .map(|(floor, _)| *floor)
}

fn folder_of(module: &str) -> Option<&'static Folder> {
    FOLDERS.iter().find(|folder| folder.name == module)
}

fn paths_from_root(code: &str) -> Vec<String> {
    paths_after("crate", code)
}

/// The first names behind each `root::`, those of a group included. A root without a path counts
/// as the name "".
fn paths_after(root: &str, code: &str) -> Vec<String> {
    let mut names = Vec::new();
    for (at, _) in code.match_indices(root) {
        let is_word = |c: char| c.is_alphanumeric() || c == '_';
        let before = code[..at].trim_end();
        let behind = &code[at + root.len()..];
        if code[..at].ends_with(is_word) || behind.starts_with(is_word) {
            continue;
        }
        // `pub(crate)`, `pub(super)` and `#[attribute(crate = "..")]` name no path.
        if before.ends_with('(') && behind.trim_start().starts_with([')', '=']) {
            continue;
        }
        let Some(path) = behind.trim_start().strip_prefix("::") else {
            names.push(String::new());
            continue;
        };
        let path = path.trim_start();
        // An exported macro stands at the root, whatever its file; what it expands to is looked at.
        if path.trim_start_matches(is_word).starts_with('!') {
            continue;
        }
        let first_word = |text: &str| {
            text.trim_start()
                .split(|c| !is_word(c))
                .next()
                .unwrap()
                .to_owned()
        };
        let Some(group) = path.strip_prefix('{') else {
            names.push(first_word(path));
            continue;
        };
        let (mut depth, mut begin) = (0_i32, 0);
        for (end, c) in group.char_indices() {
            match c {
                '{' => depth += 1,
                ',' | '}' if depth == 0 => {
                    if !group[begin..end].trim().is_empty() {
                        names.push(first_word(&group[begin..end]));
                    }
                    begin = end + 1;
                    if c == '}' {
                        break;
                    }
                }
                '}' => depth -= 1,
                _ => {}
            }
        }
    }
    names
}

fn words(code: &str) -> impl Iterator<Item = &str> {
    code.split(|c: char| !c.is_alphanumeric() && c != '_')
}

/// The source without comments, and with empty literals.
fn code_of(source: &str) -> String {
    let chars: Vec<char> = source.chars().collect();
    let at = |i: usize| chars.get(i).copied().unwrap_or('\0');
    let (mut code, mut i) = (String::new(), 0);
    while i < chars.len() {
        match (at(i), at(i + 1)) {
            ('/', '/') => {
                while i < chars.len() && at(i) != '\n' {
                    i += 1;
                }
            }
            ('/', '*') => {
                let mut depth = 0;
                loop {
                    match (at(i), at(i + 1)) {
                        ('/', '*') => (depth, i) = (depth + 1, i + 2),
                        ('*', '/') => (depth, i) = (depth - 1, i + 2),
                        _ => i += 1,
                    }
                    if depth == 0 || i >= chars.len() {
                        break;
                    }
                }
                code.push(' ');
            }
            ('r', '"' | '#') if !code.ends_with(|c: char| c.is_alphanumeric() || c == '_') => {
                let hashes = (i + 1..).take_while(|&k| at(k) == '#').count();
                if at(i + 1 + hashes) != '"' {
                    code.push('r');
                    i += 1;
                    continue;
                }
                i += hashes + 2;
                while i < chars.len() && !(at(i) == '"' && (1..=hashes).all(|k| at(i + k) == '#')) {
                    i += 1;
                }
                i += hashes + 1;
                code.push_str("\"\"");
            }
            ('"', _) => {
                i += 1;
                while i < chars.len() && at(i) != '"' {
                    i += if at(i) == '\\' { 2 } else { 1 };
                }
                i += 1;
                code.push_str("\"\"");
            }
            ('\'', '\\') => {
                i += 3;
                while i < chars.len() && at(i) != '\'' {
                    i += 1;
                }
                i += 1;
                code.push_str("' '");
            }
            ('\'', _) if at(i + 2) == '\'' => {
                i += 3;
                code.push_str("' '");
            }
            (c, _) => {
                code.push(c);
                i += 1;
            }
        }
    }
    code
}

/// The code without its `#[cfg(test)]` modules.
fn without_tests(code: &str) -> String {
    let mut rest = code;
    let mut kept = String::new();
    while let Some(at) = rest.find("#[cfg(test)]") {
        kept.push_str(&rest[..at]);
        let block = &rest[at..];
        let mut depth = 0;
        let end = block.char_indices().find_map(|(i, c)| {
            match c {
                '{' => depth += 1,
                '}' => depth -= 1,
                _ => {}
            }
            (depth == 0 && (c == '}' || c == ';')).then_some(i + 1)
        });
        rest = &block[end.unwrap_or(block.len())..];
    }
    kept + rest
}

/// Every file below `src/`, by its path there.
fn sources() -> BTreeMap<String, String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut folders: Vec<PathBuf> = vec![root.clone()];
    let mut sources = BTreeMap::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|ending| ending == "rs") {
                let name = path.strip_prefix(&root).unwrap().to_str().unwrap();
                sources.insert(name.to_owned(), fs::read_to_string(&path).unwrap());
            }
        }
    }
    assert!(sources.len() > 20, "the sources are where this test looks");
    sources
}
