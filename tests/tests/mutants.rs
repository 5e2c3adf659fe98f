//! tests/mutants.toml is true: each row fits the sources, and no barrier, invalidation, clean, zeroing or
//! count was forgotten. `cargo xtask mutants --sync` tries the rows.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use xtask::mutants::Table;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

#[test]
fn every_row_fits_the_sources() {
    let table = Table::read(&root()).unwrap();
    assert!(table.mutation.len() > 100, "only {} rows", table.mutation.len());
    let mut mutants = BTreeSet::new();
    for row in &table.mutation {
        let source = std::fs::read_to_string(root().join(&row.file)).unwrap();
        let mutant = row.apply(&source).unwrap_or_else(|e| panic!("{e:#}"));
        assert!(mutants.insert(mutant), "{}: another row does the same", row.what);
        row.test().unwrap();
    }
}

#[test]
fn every_operation_has_a_row() {
    let missing = Table::read(&root()).unwrap().without_row(&root()).unwrap();
    assert_eq!(missing, [""; 0], "operations without a row in tests/mutants.toml");
}

#[test]
fn an_operation_without_a_row_is_noticed() {
    let mut table = Table::read(&root()).unwrap();
    let gone = table.mutation.iter().position(|row| row.text == "machine.publish();").unwrap();
    let file = table.mutation.remove(gone).file;
    let missing = table.without_row(&root()).unwrap();
    assert!(missing.len() == 1 && missing[0].starts_with(&file), "{missing:?}");
}
