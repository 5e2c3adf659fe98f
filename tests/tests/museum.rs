//! docs/museum.md is true: no row is missing or empty, and each test that it names exists.

use std::collections::BTreeSet;
use std::fs::read_to_string;
use std::path::{Path, PathBuf};

/// Rows of each section, as the reference counts them.
const SECTIONS: [(u32, u32); 4] = [(12, 12), (15, 36), (16, 19), (17, 22)];

struct Row {
    id: String,
    tests: Vec<String>,
    reason: String,
    waits: String,
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn text(path: &Path) -> String {
    read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn rows() -> Vec<Row> {
    let page = text(&root().join("docs/museum.md"));
    let lines = page.lines().filter(|l| l.starts_with("| 1"));
    let row = |line: &str| {
        let cells: Vec<_> = line.split('|').map(str::trim).collect();
        let [_, id, what, tests, reason, waits, _] = cells[..] else {
            panic!("not five cells: {line}")
        };
        assert!(!what.is_empty(), "row {id} says nothing");
        // Names stand between backticks, and nothing else stands in that cell.
        let (names, between): (Vec<_>, Vec<_>) =
            tests.split('`').enumerate().partition(|(n, _)| n % 2 == 1);
        assert!(between.iter().all(|(_, t)| matches!(t.trim(), "" | ",")), "row {id}: {tests}");
        let tests = names.into_iter().map(|(_, name)| name.to_string()).collect();
        Row { id: id.into(), tests, reason: reason.into(), waits: waits.into() }
    };
    lines.map(row).collect()
}

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).expect("a folder").map(|e| e.expect("an entry").path()) {
        if entry.is_dir() {
            sources(&entry, found);
        } else if entry.extension().is_some_and(|e| e == "rs") {
            found.push(entry);
        }
    }
}

/// Every host-side test, as the parts of its file's path and its name.
fn host_tests() -> BTreeSet<(Vec<String>, String)> {
    let mut files = vec![];
    for folder in ["hyp", "el1-host", "tests"] {
        sources(&root().join(folder), &mut files);
    }
    let mut found = BTreeSet::new();
    for file in files {
        let parts = file.with_extension("");
        let parts: Vec<_> = parts.iter().map(|p| p.to_string_lossy().into_owned()).collect();
        let mut marked = false;
        for line in text(&file).lines().map(str::trim) {
            let name = line.strip_prefix("fn ").and_then(|rest| rest.split('(').next());
            match name {
                Some(name) if marked => drop(found.insert((parts.clone(), name.to_string()))),
                _ => marked &= line.starts_with("#[") || line.starts_with("//"),
            }
            marked = (marked && name.is_none()) || line == "#[test]";
        }
    }
    found
}

/// Whether `parts`, in this order, are among those of a path.
fn lies_in(path: &[String], parts: &[&str]) -> bool {
    let mut path = path.iter();
    parts.iter().all(|part| path.any(|p| p == part))
}

/// The program that a row of tests/qemu.toml runs, if it is one of tests/guests.
fn qemu_row(name: &str) -> Option<Option<String>> {
    let registry = text(&root().join("tests/qemu.toml"));
    let line = format!("\nname = \"{name}\"\n");
    let row = registry.split("[[test]]").find(|row| row.contains(&line))?.to_string();
    let program = |key: &str| {
        let (_, rest) = row.split_once(key)?;
        rest.split('"').next().map(str::to_string)
    };
    Some(program("\npayload = \"").or_else(|| program("\nguest = [\"")))
}

/// `qemu:ROW` or `qemu:ROW/FUNCTION`, a function of the program that the row runs.
fn qemu_test_exists(name: &str) -> bool {
    let (row, function) = name.split_once('/').map_or((name, None), |(r, f)| (r, Some(f)));
    match (qemu_row(row), function) {
        (None, _) | (Some(None), Some(_)) => false,
        (Some(_), None) => true,
        (Some(Some(program)), Some(function)) => {
            let mut files = vec![];
            sources(&root().join("tests/guests/src"), &mut files);
            let part_of = |file: &Path| {
                let file = file.with_extension("");
                let file = file.strip_prefix(root().join("tests/guests/src")).expect("a source");
                file.starts_with(&program)
            };
            let head = format!("fn {function}(");
            files.iter().filter(|f| part_of(f)).any(|f| text(f).contains(&head))
        }
    }
}

#[test]
fn the_museum_has_every_row_once_and_in_order() {
    let expected = SECTIONS.iter().flat_map(|(s, n)| (1..=*n).map(move |row| format!("{s}.{row}")));
    let found: Vec<_> = rows().into_iter().map(|row| row.id).collect();
    assert_eq!(found, expected.collect::<Vec<_>>());
}

#[test]
fn no_row_of_the_museum_is_empty() {
    for row in rows() {
        let said = [&row.reason, &row.waits].into_iter().filter(|s| !s.is_empty());
        for sentence in said.clone() {
            let words = sentence.split_whitespace().count();
            assert!(words >= 5 && sentence.ends_with('.'), "row {}: {sentence}", row.id);
        }
        assert!(!row.tests.is_empty() || said.count() > 0, "row {} is empty", row.id);
    }
}

#[test]
fn every_test_that_the_museum_names_exists() {
    let host = host_tests();
    assert!(host.len() > 300, "only {} tests were found", host.len());
    let mut missing = vec![];
    for row in rows() {
        for name in row.tests {
            let exists = if let Some(qemu) = name.strip_prefix("qemu:") {
                qemu_test_exists(qemu)
            } else {
                let mut parts: Vec<_> = name.split("::").collect();
                let function = parts.pop().unwrap_or_default();
                host.iter().any(|(path, f)| f == function && lies_in(path, &parts))
            };
            if !exists {
                missing.push(format!("{}: {name}", row.id));
            }
        }
    }
    assert_eq!(missing, [""; 0], "rows that name tests which are not there");
    // The search itself can fail.
    assert!(!qemu_test_exists("host-vm/no_such_part") && !qemu_test_exists("no-such-row"));
}

#[test]
fn every_test_written_for_the_museum_is_in_it() {
    let named: BTreeSet<_> = rows().into_iter().flat_map(|row| row.tests).collect();
    for file in ["museum", "museum_races"] {
        let ours = host_tests().into_iter().filter(|(path, _)| lies_in(path, &["props", file]));
        let mut count = 0;
        for (_, test) in ours {
            count += 1;
            let name = format!("props::{file}::{test}");
            assert!(named.contains(&name), "{name} is in no row");
        }
        assert!(count > 0, "{file} has no tests");
    }
}
