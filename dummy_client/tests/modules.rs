//! The modules of `src/` import each other without a cycle.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

/// Modules that are one: a bot is called with a context, and the context belongs to a session of a bot.
const ONE_MODULE: [(&str, &str); 1] = [("scenario", "context")];
/// Files that only the tests of the library have.
const TEST_FILES: [&str; 5] = [
    "tests.rs",
    "world.rs",
    "samples.rs",
    "testing.rs",
    "planted.rs",
];

type Imports = BTreeMap<String, BTreeSet<String>>;

#[test]
fn imports_make_no_cycle() {
    let mut imports = Imports::new();
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    for entry in fs::read_dir(&src).unwrap() {
        let path = entry.unwrap().path();
        let module = path.file_stem().unwrap().to_str().unwrap().to_owned();
        if !["lib", "bin"].contains(&module.as_str()) {
            add_imports(&path, &module, &mut imports);
        }
    }
    assert!(imports["output"].contains("report"), "{imports:?}");
    assert_eq!(cycle(&imports), None);
}

#[test]
fn cycle_is_found() {
    let with = |modules: &[(&str, &str)]| {
        let mut imports = Imports::new();
        for (module, source) in modules {
            let used = imports.entry((*module).into()).or_default();
            used.extend(imports_of(module, source));
        }
        cycle(&imports)
    };
    let direct = [
        ("report", "use crate::output::one_line;"),
        ("output", "use crate::report::Report;"),
    ];
    assert_eq!(with(&direct).unwrap(), ["output", "report", "output"]);
    let inline = [
        ("a", "fn f() { crate::b::go() }"),
        ("b", "use crate::{\n    c::Thing,\n    error::Error,\n};"),
        ("c", "use crate::a::Other;"),
    ];
    assert!(with(&inline).is_some());
    let harmless = [
        ("a", "/// [`Run`](crate::b::Run)\nuse crate::a::one;"),
        ("b", "use crate::a::Other;"),
        (
            "a",
            "fn f() {}\n#[cfg(test)]\nmod tests {\n    use crate::b::Run;\n}",
        ),
        ("scenario", "use crate::context::BotContext;"),
        ("context", "use crate::scenario::Bot;"),
    ];
    assert_eq!(with(&harmless), None);
}

/// The modules on a cycle; the first is the last again.
fn cycle(imports: &Imports) -> Option<Vec<String>> {
    fn visit(
        module: &str,
        imports: &Imports,
        path: &mut Vec<String>,
        done: &mut BTreeSet<String>,
    ) -> bool {
        if let Some(at) = path.iter().position(|one| one == module) {
            path.drain(..at);
            path.push(module.into());
            return true;
        }
        if !done.contains(module) {
            path.push(module.into());
            for used in imports.get(module).into_iter().flatten() {
                if visit(used, imports, path, done) {
                    return true;
                }
            }
            path.pop();
            done.insert(module.into());
        }
        false
    }
    let mut done = BTreeSet::new();
    let mut path = Vec::new();
    let found = imports
        .keys()
        .any(|module| visit(module, imports, &mut path, &mut done));
    found.then_some(path)
}

fn add_imports(path: &Path, module: &str, imports: &mut Imports) {
    if path.is_dir() {
        for entry in fs::read_dir(path).unwrap() {
            add_imports(&entry.unwrap().path(), module, imports);
        }
    } else {
        let name = path.file_name().unwrap().to_str().unwrap();
        if name.ends_with(".rs") && !TEST_FILES.contains(&name) {
            let source = fs::read_to_string(path).unwrap();
            let used = imports_of(module, &source);
            imports.entry(one(module).into()).or_default().extend(used);
        }
    }
}

/// The name of a module, or of the module that it is one with.
fn one(module: &str) -> &str {
    let same = ONE_MODULE.iter().find(|(_, part)| *part == module);
    same.map_or(module, |(whole, _)| whole)
}

/// The modules that the code names, without itself. A name of the root would hide its module.
fn imports_of(module: &str, source: &str) -> BTreeSet<String> {
    let code = source.split("#[cfg(test)]\nmod tests {").next().unwrap();
    let lines = code.lines().map(|line| line.split("//").next().unwrap());
    let code = lines.collect::<Vec<_>>().join(" ");
    let mut used = BTreeSet::new();
    for (at, root) in code.match_indices("crate::") {
        let behind = &code[at + root.len()..];
        let names = match behind.strip_prefix('{') {
            Some(group) => top_level(group),
            None => vec![behind],
        };
        for name in names {
            let is_end = |c: char| !c.is_alphanumeric() && c != '_';
            let name = name.trim().split(is_end).next().unwrap();
            let is_module = name.starts_with(|c: char| c.is_ascii_lowercase());
            assert!(
                name.is_empty() || is_module,
                "{module}: `crate::{name}` hides its module"
            );
            used.insert(one(name).to_owned());
        }
    }
    used.remove(one(module));
    used.remove("");
    used
}

/// The entries of a group of imports, without those of the groups in it.
fn top_level(group: &str) -> Vec<&str> {
    let (mut names, mut depth, mut from) = (Vec::new(), 0, 0);
    for (at, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => {
                names.push(&group[from..at]);
                break;
            }
            '}' => depth -= 1,
            ',' if depth == 0 => {
                names.push(&group[from..at]);
                from = at + 1;
            }
            _ => {}
        }
    }
    names
}
