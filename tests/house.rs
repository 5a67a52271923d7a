//! The map of src/lib.rs, held against the sources: which room may import which, and what each
//! must be free of.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// A module, and the modules of the crate that it may import besides itself.
const ROOMS: &[(&str, &[&str])] = &[
    ("ixp", &[]),
    ("loss", &[]),
    ("finding", &[]),
    ("clock", &[]),
    ("table", &[]),
    ("receive", &["clock"]),
    ("decode", &["ixp", "loss"]),
    ("resolve", &["ixp", "loss", "table"]),
    ("count", &["ixp"]),
    ("agent", &["count", "decode", "finding", "loss", "resolve", "table"]),
    ("sightings", &["decode", "finding", "ixp", "resolve"]),
    ("state", &["agent", "finding", "loss", "sightings"]),
    (
        "worker",
        &["agent", "count", "decode", "ixp", "loss", "receive", "resolve", "sightings", "state"],
    ),
    ("flush", &["count", "ixp", "resolve", "state", "worker"]),
    ("sink", &["count", "finding", "flush", "ixp", "state"]),
    ("pipeline", &["flush", "receive", "resolve", "sink", "state", "worker"]),
    (
        "control",
        &[
            "agent", "clock", "count", "finding", "flush", "ixp", "loss", "receive", "resolve",
            "sink", "state", "worker",
        ],
    ),
    ("simulate", &["clock", "count", "flush", "ixp", "loss", "receive"]),
];

/// Crates that the data path must be free of, up to the flush.
const NOT_ON_THE_PATH: &[&str] = &["tokio", "reqwest", "axum", "dashmap"];
const PATH: &[&str] = &["receive", "decode", "resolve", "count", "worker", "flush"];

fn sources(below: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(below).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// The text of every module, without its tests.
fn modules() -> BTreeMap<String, String> {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut paths = Vec::new();
    sources(&src, &mut paths);
    let mut modules: BTreeMap<String, String> = BTreeMap::new();
    for path in paths {
        let below = path.strip_prefix(&src).unwrap().with_extension("");
        let module = below.iter().next().unwrap().to_str().unwrap().to_owned();
        let text = fs::read_to_string(&path).unwrap();
        let code = text.split("#[cfg(test)]").next().unwrap_or_default();
        let code: String = code
            .lines()
            .filter(|line| !line.trim_start().starts_with("//"))
            .flat_map(|line| [line, "\n"])
            .collect();
        modules.entry(module).or_default().push_str(&code);
    }
    modules
}

#[test]
fn rooms_import_only_what_stands_before_them() {
    let modules = modules();
    let names: Vec<&str> = modules.keys().map(String::as_str).collect();
    for (room, allowed) in ROOMS {
        let code = &modules[*room];
        // Which the search below would not see.
        assert!(!code.contains("crate::{"), "src/{room}.rs imports several modules in one line");
        for name in &names {
            let imports = code.contains(&format!("crate::{name}::"))
                || code.contains(&format!("crate::{name};"));
            assert!(
                !imports || name == room || allowed.contains(name),
                "src/{room}.rs imports {name}, which the map does not allow"
            );
        }
        for name in *allowed {
            assert!(code.contains(&format!("crate::{name}::")), "{room} does not need {name}");
        }
    }
    let rooms: Vec<&str> = ROOMS.iter().map(|(room, _)| *room).collect();
    let others = names.into_iter().filter(|name| !rooms.contains(name));
    assert_eq!(others.collect::<Vec<_>>(), ["command", "lib", "main"], "a module without a rule");
}

#[test]
fn the_path_is_free_of_the_control_planes_crates() {
    let modules = modules();
    for room in PATH {
        for name in NOT_ON_THE_PATH {
            let uses = modules[*room].contains(&format!("{name}::"));
            assert!(!uses, "src/{room}.rs uses {name}");
        }
    }
}

#[test]
fn the_map_names_every_module() {
    let map = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("src/lib.rs")).unwrap();
    for module in modules().keys().filter(|name| !["lib", "main"].contains(&name.as_str())) {
        assert!(map.contains(&format!("//! - [`{module}`]")), "{module} is not on the map");
        assert!(map.contains(&format!("pub mod {module};")), "{module} is not declared");
    }
}
