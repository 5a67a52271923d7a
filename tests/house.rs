//! The rules of the house, held to the sources: who may import whom, and that the map is whole.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// A module of the crate, and the other modules that it and its submodules may import.
///
/// The rooms (receive, decode, resolve, count) know the words and not each other; the corridor
/// (worker) joins them; nothing on the path knows the control plane.
const MAY_IMPORT: &[(&str, &[&str])] = &[
    // The words.
    ("ixp", &[]),
    ("loss", &["ixp"]),
    ("clock", &[]),
    // The rooms.
    ("receive", &["ixp", "loss", "clock"]),
    ("decode", &["ixp", "loss", "clock"]),
    ("resolve", &["ixp", "loss", "clock"]),
    ("count", &["ixp", "loss", "clock"]),
    // What joins them.
    ("agent", &["ixp", "loss", "clock", "decode", "resolve"]),
    ("state", &["ixp", "loss", "clock", "agent"]),
    (
        "worker",
        &["ixp", "loss", "clock", "receive", "decode", "resolve", "count", "agent", "state"],
    ),
    ("flush", &["ixp", "loss", "clock", "resolve", "count", "worker"]),
    ("sink", &["ixp", "loss", "clock", "resolve", "count", "flush", "state"]),
    (
        "pipeline",
        &[
            "ixp", "loss", "clock", "receive", "resolve", "count", "agent", "state", "worker",
            "flush", "sink",
        ],
    ),
    // Around the path: settings speak of policies and sinks, a fabric of samples and pairs.
    ("control", &["ixp", "loss", "clock", "resolve", "agent", "sink", "state"]),
    ("simulate", &["ixp", "loss", "clock", "receive", "decode", "resolve", "count", "flush"]),
];

/// What a command may import: everything.
const COMMAND: &str = "command";

/// Modules of the path, in which nothing may wait for anything but a socket.
const PATH: &[&str] = &["receive", "decode", "resolve", "count", "worker", "flush"];

/// Crates that have no place on the path: runtimes, and what takes a lock for every sample.
const NOT_ON_THE_PATH: &[&str] = &["tokio", "reqwest", "axum", "dashmap"];

fn source_folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

/// Every source file, by its path below src without the suffix, as `sink/librrd`.
fn sources() -> Vec<(String, String)> {
    fn walk(folder: &Path, at: &Path, out: &mut Vec<(String, String)>) {
        for entry in fs::read_dir(at).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(folder, &path, out);
            } else if path.extension().is_some_and(|suffix| suffix == "rs") {
                let name = path.strip_prefix(folder).unwrap().with_extension("");
                out.push((name.display().to_string(), fs::read_to_string(&path).unwrap()));
            }
        }
    }
    let mut out = Vec::new();
    walk(&source_folder(), &source_folder(), &mut out);
    out.sort();
    out
}

/// The code of a file without comments and without its tests, which are last.
fn code(text: &str) -> String {
    let text = text.split("#[cfg(test)]\nmod tests").next().unwrap_or_default();
    let lines = text.lines().filter(|line| !line.trim_start().starts_with("//"));
    lines.map(|line| format!("{line}\n")).collect()
}

fn is_word(character: char) -> bool {
    character.is_alphanumeric() || character == '_'
}

/// Whether `text` has `word` as a path's first component.
fn names_crate(text: &str, word: &str) -> bool {
    text.match_indices(&format!("{word}::")).any(|(at, _)| {
        let before = text[..at].chars().next_back();
        before.is_none_or(|before| !is_word(before) && before != ':')
    })
}

/// The modules of the crate that a file imports, by `crate::` and, at the top, by `super::`.
fn imports(name: &str, text: &str) -> BTreeSet<String> {
    let mut modules = BTreeSet::new();
    let code = code(text);
    let roots = if name.contains('/') { &["crate::"][..] } else { &["crate::", "super::"] };
    for root in roots {
        for (at, _) in code.match_indices(root) {
            let behind = &code[at + root.len()..];
            if let Some(list) = behind.strip_prefix('{') {
                // Only the first component of each member of the list.
                let mut depth = 1;
                let mut word = String::new();
                let mut first = true;
                for character in list.chars() {
                    match character {
                        '{' => depth += 1,
                        '}' => depth -= 1,
                        _ if first && is_word(character) => word.push(character),
                        _ => first = first && character.is_whitespace() && word.is_empty(),
                    }
                    if depth == 0 || depth == 1 && character == ',' {
                        modules.insert(std::mem::take(&mut word));
                        first = true;
                    }
                    if depth == 0 {
                        break;
                    }
                }
            } else {
                modules.insert(behind.chars().take_while(|&c| is_word(c)).collect());
            }
        }
    }
    modules.remove("");
    modules
}

fn top(name: &str) -> &str {
    name.split('/').next().unwrap_or_default()
}

#[test]
fn imports_go_one_way() {
    let mut faults = Vec::new();
    let mut seen = BTreeSet::new();
    for (name, text) in sources() {
        let module = top(&name).to_owned();
        if [COMMAND, "lib", "main"].contains(&&*module) {
            continue;
        }
        let Some((_, allowed)) = MAY_IMPORT.iter().find(|(listed, _)| *listed == module) else {
            panic!("src/{name}.rs: give the module {module} a line in MAY_IMPORT");
        };
        seen.insert(module.clone());
        for import in imports(&name, &text) {
            if import != module && !allowed.contains(&&*import) {
                faults.push(format!("src/{name}.rs imports {import}"));
            }
        }
    }
    assert_eq!(faults, [""; 0]);
    for (module, _) in MAY_IMPORT {
        assert!(seen.contains(*module), "{module} has a line in MAY_IMPORT and is no module");
    }
}

#[test]
fn the_rule_is_read_as_it_is_meant() {
    // The table itself: what the house says in words.
    let allowed = |module: &str| {
        let line = MAY_IMPORT.iter().find(|(listed, _)| *listed == module);
        line.unwrap().1.iter().copied().collect::<BTreeSet<_>>()
    };
    let rooms = ["receive", "decode", "resolve", "count"];
    for room in rooms {
        assert!(rooms.iter().all(|other| !allowed(room).contains(other)), "{room}");
    }
    assert!(rooms.iter().all(|room| allowed("worker").contains(room)));
    assert!(!allowed("flush").contains("sink"));
    for (module, allowed) in MAY_IMPORT {
        assert!(!allowed.contains(&COMMAND), "{module}");
        assert!(!allowed.contains(&"control"), "{module}");
    }
    // The reader of sources.
    let text = "use crate::ixp::Mac;\nuse crate::{\n    count::{Hit, Ledger}, loss,\n};\n\
                // crate::nowhere::X\nfn f() { crate::sink::g(super::state::h()) }\n";
    let expected = ["count", "ixp", "loss", "sink", "state"];
    assert_eq!(imports("worker", text).iter().collect::<Vec<_>>(), expected);
    assert!(names_crate("use tokio::time;", "tokio") && names_crate("(tokio::spawn", "tokio"));
    assert!(!names_crate("a::tokio::b my_tokio::c", "tokio"));
}

#[test]
fn no_runtime_and_no_shared_map_on_the_path() {
    for (name, text) in sources() {
        if PATH.contains(&top(&name)) {
            for crate_name in NOT_ON_THE_PATH {
                assert!(!names_crate(&code(&text), crate_name), "src/{name}.rs: {crate_name}");
            }
        }
    }
}

#[test]
fn every_module_is_on_the_map() {
    let map = fs::read_to_string(source_folder().join("lib.rs")).unwrap();
    let map: String = map.lines().filter(|line| line.starts_with("//!")).collect();
    let parts: Vec<_> = sources().into_iter().map(|(name, _)| name).collect();
    for name in parts.iter().filter(|name| !name.contains('/')) {
        if !["lib", "main"].contains(&&**name) {
            assert!(map.contains(&format!("[`{name}`]")), "src/{name}.rs is not on the map");
        }
    }
    // What the map names is there.
    for named in map.split("[`").skip(1).filter_map(|rest| rest.split("`]").next()) {
        let file = named.replace("::", "/");
        let last_is_item = named.rsplit("::").next().unwrap().starts_with(char::is_uppercase);
        let file = match file.rsplit_once('/') {
            Some((module, _)) if last_is_item => module.to_owned(),
            _ => file,
        };
        assert!(parts.contains(&file), "the map names {named}");
    }
}
