//! The folders of `src/` are the layers: imports go down only. That the layers below `runtime` name
//! no socket and no clock is Clippy's to say (`.clippy.toml`); here is seen that it is asked to.

use std::fs;
use std::path::Path;

/// The lowest first.
const LAYERS: [&str; 18] = [
    "base",
    "host",
    "protocol",
    "buffer",
    "groups",
    "interest",
    "session",
    "transport",
    "connection",
    "routing",
    "shard",
    "runtime",
    "server",
    "cluster",
    "admin",
    "game",
    "app",
    "testing",
];

/// It reads the machine, its clock included.
const HOST: &str = "host";
/// The lowest layer with sockets and clocks beside it.
const RUNTIME: &str = "runtime";
const PURE: &str =
    "#![cfg_attr(not(test), deny(clippy::disallowed_methods, clippy::disallowed_types))]";

#[test]
fn imports_go_down_only() {
    let mut offences = Vec::new();
    for (layer, path, source) in sources() {
        offences.extend(offences_of(&layer, &source).map(|offence| format!("{path}: {offence}")));
    }
    assert!(offences.is_empty(), "\n{}", offences.join("\n"));
}

#[test]
fn import_from_a_higher_layer_is_found() {
    let is_found = |layer, source| offences_of(layer, source).next().is_some();
    assert!(is_found("protocol", "use crate::session::Session;"));
    assert!(is_found("shard", "fn f() { crate::runtime::worker::go() }"));
    assert!(is_found("base", "use crate::{base::id, server::Server};"));
    assert!(is_found("base", "use crate::{\n    server::Server,\n};"));
    assert!(is_found("base", "use crate::Session;"));
    assert!(is_found("base", "    use super::super::server::Server;"));
    assert!(!is_found("shard", "use crate::{shard::table, base::id};"));
    assert!(!is_found(
        "base",
        "//! [`Server`](crate::server::Server)\npub(crate) fn f() {}"
    ));
    assert!(!is_found(
        "base",
        "fn f() {}\n#[cfg(test)]\nmod tests { use crate::server::Server; }"
    ));
}

#[test]
fn each_file_is_in_a_layer_and_the_documentation_names_the_layers_in_order() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut here: Vec<String> = (fs::read_dir(&src).unwrap())
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name != "lib.rs")
        .collect();
    here.sort();
    let mut layers = LAYERS;
    layers.sort_unstable();
    assert_eq!(here, layers);

    let lib = fs::read_to_string(src.join("lib.rs")).unwrap();
    let rows = lib.lines().filter_map(|line| {
        let name = line.strip_prefix("//! | `")?.split('`').next()?;
        LAYERS.contains(&name).then_some(name)
    });
    assert!(rows.eq(LAYERS.into_iter().rev()));
}

#[test]
fn clippy_forbids_sockets_and_clocks_below_the_runtime() {
    let below = LAYERS.into_iter().take_while(|layer| *layer != RUNTIME);
    for layer in below.filter(|layer| *layer != HOST) {
        let mut files = sources().into_iter().filter(|(of, ..)| of == layer);
        assert!(files.any(|(_, path, source)| path.ends_with("mod.rs") && source.contains(PURE)));
    }
    let allowed = |source: &str| source.contains("allow(clippy::disallowed");
    assert!(!sources().iter().any(|(_, _, source)| allowed(source)));
}

fn offences_of<'a>(layer: &'a str, source: &'a str) -> impl Iterator<Item = String> + 'a {
    let place = |name: &str| LAYERS.iter().position(|known| *known == name);
    let code = source.split("#[cfg(test)]\nmod tests").next().unwrap();
    let lines = code.lines().map(|line| line.split("//").next().unwrap());
    lines.flat_map(move |line| {
        let roots = line.match_indices("crate::").flat_map(move |(at, root)| {
            let behind = &line[at + root.len()..];
            let names: Vec<&str> = match behind.strip_prefix('{') {
                Some(group) if !group.contains('}') => vec!["group_over_several_lines"],
                Some(group) => group.split([',', '}']).map(str::trim).collect(),
                None => vec![behind],
            };
            names.into_iter().filter_map(move |name| {
                let is_macro = line[..at].ends_with('$');
                let first = name
                    .split(|c: char| !c.is_alphanumeric() && c != '_')
                    .next()?;
                let is_lower = place(first).is_some_and(|used| Some(used) <= place(layer));
                (!first.is_empty() && !is_lower && !is_macro).then(|| format!("uses `{first}`"))
            })
        });
        roots.chain(
            line.contains("super::super")
                .then(|| "leaves its module".to_owned()),
        )
    })
}

/// Layer, path and text of each file in a layer.
fn sources() -> Vec<(String, String, String)> {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut sources = Vec::new();
    for layer in LAYERS {
        for entry in fs::read_dir(src.join(layer)).unwrap() {
            let path = entry.unwrap().path();
            let source = fs::read_to_string(&path).unwrap();
            sources.push((layer.to_owned(), path.display().to_string(), source));
        }
    }
    sources
}
