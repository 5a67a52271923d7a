//! The documents against the code, and against each other.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use ixflow::command::check::all_findings;
use ixflow::loss::Loss;
use ixflow::simulate::Fabric;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The documents for users, with their text.
fn documents() -> Vec<(PathBuf, String)> {
    let mut paths = vec![root().join("README.md"), root().join("CHANGELOG.md")];
    let docs = fs::read_dir(root().join("docs")).unwrap().map(|entry| entry.unwrap().path());
    paths.extend(docs.filter(|path| path.extension().is_some_and(|extension| extension == "md")));
    assert!(paths.len() > 5, "{paths:?}");
    paths.into_iter().map(|path| (path.clone(), fs::read_to_string(path).unwrap())).collect()
}

/// The text without its blocks of code.
fn prose(text: &str) -> String {
    let mut fenced = false;
    text.lines()
        .filter(|line| {
            let fence = line.starts_with("```");
            fenced ^= fence;
            !(fenced || fence || line.starts_with("    "))
        })
        .collect::<Vec<_>>()
        .join("\n")
}

/// The anchors of the headings, as GitHub makes them.
fn anchors(text: &str) -> BTreeSet<String> {
    let headings = prose(text);
    let headings = headings.lines().filter(|line| line.starts_with('#'));
    headings
        .map(|line| {
            let title = line.trim_start_matches('#').trim().to_lowercase();
            let kept = |c: &char| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_');
            title.chars().filter(kept).map(|c| if c == ' ' { '-' } else { c }).collect()
        })
        .collect()
}

#[test]
fn relative_links_lead_somewhere() {
    let mut links = 0;
    for (path, text) in documents() {
        for link in prose(&text).split("](").skip(1) {
            let link = link.split(')').next().unwrap();
            if link.contains("://") {
                continue;
            }
            let (file, anchor) = link.split_once('#').unwrap_or((link, ""));
            let target = match file {
                "" => path.clone(),
                file => path.parent().unwrap().join(file),
            };
            assert!(target.exists(), "{}: {link}", path.display());
            if !anchor.is_empty() {
                let anchors = anchors(&fs::read_to_string(&target).unwrap());
                assert!(anchors.contains(anchor), "{}: {link}: {anchors:?}", path.display());
            }
            links += 1;
        }
    }
    assert!(links > 20, "{links}");
}

#[test]
fn every_loss_is_in_the_table_of_losses() {
    let text = fs::read_to_string(root().join("docs/operations.md")).unwrap();
    let (_, section) = text.split_once("\n## Losses\n").unwrap();
    let section = section.split("\n## ").next().unwrap();
    let rows: Vec<Vec<&str>> = section
        .lines()
        .filter(|line| line.starts_with("| `"))
        .map(|line| line.trim_matches('|').split('|').map(str::trim).collect())
        .collect();
    let names: Vec<_> = rows.iter().map(|row| row[0].trim_matches('`')).collect();
    let expected: Vec<_> = Loss::ALL.iter().map(|loss| loss.name()).collect();
    assert_eq!(names, expected, "the reasons, in the order of Loss::ALL");
    for row in rows {
        assert!(row.len() == 3 && row.iter().all(|cell| !cell.is_empty()), "{row:?}");
    }
}

#[test]
fn the_fabrics_of_the_documents_are_fabrics() {
    let text = fs::read_to_string(root().join("docs/simulation.md")).unwrap();
    let blocks: Vec<_> = text.split("```toml\n").skip(1).collect();
    assert!(!blocks.is_empty());
    for block in blocks {
        let toml = block.split("```").next().unwrap();
        Fabric::from_toml(toml).unwrap();
    }
}

/// The rows of the tables of a document that have a column of findings: the first cell, and the
/// names in that column.
fn rows_with_findings(text: &str) -> Vec<(String, Vec<String>)> {
    let cells = |line: &str| -> Vec<String> {
        line.trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect()
    };
    let mut rows = Vec::new();
    let mut column = None;
    let mut in_table = false;
    for line in prose(text).lines() {
        if !line.starts_with('|') {
            in_table = false;
            continue;
        }
        let cells = cells(line);
        if !in_table {
            in_table = true;
            column = cells.iter().position(|cell| cell == "finding" || cell == "findings");
        } else if let Some(column) = column
            && !line.starts_with("|---")
        {
            let names = cells[column].split('`').skip(1).step_by(2).map(str::to_owned).collect();
            rows.push((cells[0].clone(), names));
        }
    }
    rows
}

#[test]
fn every_finding_is_in_the_tables_of_troubleshooting_and_no_other() {
    let text = fs::read_to_string(root().join("docs/troubleshooting.md")).unwrap();
    let rows = rows_with_findings(&text);
    let named: BTreeSet<&str> = rows.iter().flat_map(|row| &row.1).map(String::as_str).collect();
    let known: BTreeSet<&str> = all_findings().collect();
    let missing: Vec<_> = known.difference(&named).collect();
    let unknown: Vec<_> = named.difference(&known).collect();
    assert!(missing.is_empty() && unknown.is_empty(), "not told {missing:?}, no such {unknown:?}");
    assert_eq!(known.len(), all_findings().count(), "each name once");
}

/// Findings whose names are not in the lists would be in no document.
#[test]
fn every_finding_of_the_sources_is_in_the_lists() {
    let known: BTreeSet<&str> = all_findings().collect();
    let mut names = BTreeSet::new();
    let mut directories = vec![root().join("src")];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                directories.push(path);
                continue;
            }
            let text = fs::read_to_string(&path).unwrap();
            let code = text.split("#[cfg(test)]").next().unwrap_or_default();
            // Wherever this checkout is: that may be below a directory of the same name.
            let below = path.strip_prefix(root()).unwrap();
            let of_check = below.components().any(|part| part.as_os_str() == "check")
                || below.ends_with("command/check.rs");
            let mut marks = Vec::new();
            if of_check {
                marks.extend([
                    "const NAME: &str = \"",
                    ".ok(\"",
                    "Level::Warn, \"",
                    "Level::Fail, \"",
                ]);
            }
            if code.contains("Finding {") {
                marks.extend(["name: \"", "const NAME: &str = \""]);
            }
            for mark in marks {
                names.extend(
                    code.split(mark).skip(1).map(|rest| rest.split('"').next().unwrap().to_owned()),
                );
            }
        }
    }
    assert!(names.len() > 30, "{names:?}");
    let unknown: Vec<_> = names.iter().filter(|name| !known.contains(name.as_str())).collect();
    assert!(unknown.is_empty(), "{unknown:?}");
}

#[test]
fn each_item_of_ixp_managers_own_list_has_its_findings() {
    let text = fs::read_to_string(root().join("docs/troubleshooting.md")).unwrap();
    let (_, list) = text.split_once("| to be looked at | findings |").unwrap();
    let list = format!("| to be looked at | findings |{}", list.split("\n## ").next().unwrap());
    let rows = rows_with_findings(&list);
    let items = [
        ("MAC table", "api"),
        ("types", "vli_without_mac"),
        ("core ports", "core_port"),
        ("ingress", "egress_samples"),
        ("LAG", "lag"),
        ("disk", "disk_speed"),
        ("5 %", "sampling_quality"),
        ("throttle", "sampling_quality"),
    ];
    assert_eq!(rows.len(), items.len(), "{rows:?}");
    for ((row, names), (item, finding)) in rows.iter().zip(items) {
        assert!(row.contains(item), "{row}: {item}");
        assert!(names.iter().any(|name| name == finding), "{row}: {names:?}");
    }
}
