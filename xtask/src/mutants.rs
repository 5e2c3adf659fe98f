//! The table of tests/mutants.toml: each barrier, invalidation, clean, publication, zeroing and count on
//! which memory's separation rests, and the test that fails without it.
//!
//! Knows texts only. Must not know how a test is run.

use std::fs;
use std::ops::Range;
use std::path::Path;

use anyhow::{Context, Result, bail};
use regex::Regex;
use serde::Deserialize;

/// Where the table is.
pub const TABLE: &str = "tests/mutants.toml";

/// The table.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Table {
    /// What needs a row.
    pub operation: Vec<Operation>,
    /// The rows.
    pub mutation: Vec<Mutation>,
}

/// Calls that need a row each.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Operation {
    /// What they are for.
    pub what: String,
    /// Source files, or folders of them; fakes and tests in them do not count.
    pub files: Vec<String>,
    /// How the calls look: regular expressions.
    pub calls: Vec<String>,
}

/// One thing taken away.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mutation {
    /// What goes wrong then.
    pub what: String,
    /// The source.
    pub file: String,
    /// A text that is in the source once.
    pub at: String,
    /// The first such text behind `at`, and in the same function, is what goes.
    pub text: String,
    /// What comes instead.
    #[serde(default)]
    pub put: String,
    /// The test that must fail: `package test` for one of a package's own, `package/target test` for one
    /// in its tests folder.
    pub test: String,
}

impl Table {
    /// Reads the table of the repository at `root`.
    ///
    /// # Errors
    /// It cannot be read, or is none.
    pub fn read(root: &Path) -> Result<Self> {
        let text = fs::read_to_string(root.join(TABLE)).context(TABLE)?;
        toml::from_str(&text).context(TABLE)
    }

    /// Calls in the sources that need a row and have none, as `file:line: text`.
    ///
    /// # Errors
    /// A source cannot be read, or a row does not fit it.
    pub fn without_row(&self, root: &Path) -> Result<Vec<String>> {
        let mut missing = Vec::new();
        for operation in &self.operation {
            let calls = operation.calls.iter().map(|call| Regex::new(call));
            let calls = calls.collect::<Result<Vec<_>, _>>().context(operation.what.clone())?;
            for name in &operation.files {
                let mut files = Vec::new();
                sources(root, name, &mut files)?;
                for file in files {
                    missing.extend(self.without_row_in(root, &file, &calls)?);
                }
            }
        }
        Ok(missing)
    }

    fn without_row_in(&self, root: &Path, file: &str, calls: &[Regex]) -> Result<Vec<String>> {
        let text = fs::read_to_string(root.join(file)).with_context(|| file.to_owned())?;
        let rows = self.mutation.iter().filter(|row| row.file == file);
        let rows = rows.map(|row| row.place(&text)).collect::<Result<Vec<_>>>()?;
        let product = text.split("\n#[cfg(test)]").next().unwrap_or_default();
        let mut missing = Vec::new();
        let mut start = 0;
        for (number, line) in (1..).zip(product.split_inclusive('\n')) {
            let found = calls.iter().filter_map(|call| call.find(line));
            let code = found.filter(|_| !line.trim_start().starts_with("//"));
            for call in code {
                let (from, to) = (start + call.start(), start + call.end());
                if !rows.iter().any(|row| row.start <= from && to <= row.end) {
                    missing.push(format!("{file}:{number}: {}", call.as_str()));
                }
            }
            start += line.len();
        }
        Ok(missing)
    }
}

impl Mutation {
    /// Where in the source is what goes.
    ///
    /// # Errors
    /// The source has changed: the row must follow.
    pub fn place(&self, source: &str) -> Result<Range<usize>> {
        let Self { what, file, at, text, .. } = self;
        let count = source.matches(at.as_str()).count();
        if count != 1 {
            bail!("{TABLE}, {what}: {file} has `{at}` {count} times")
        }
        let behind = source.find(at.as_str()).unwrap_or_default() + at.len();
        let (_, rest) = source.split_at(behind);
        let found = rest.find(text.as_str());
        let found = found.with_context(|| format!("{TABLE}, {what}: no `{text}` in {file}"))?;
        let (between, _) = rest.split_at(found);
        if [" fn ", "\nfn "].iter().any(|head| between.contains(head)) {
            bail!("{TABLE}, {what}: `{text}` is not in the function of {file} that `{at}` is in")
        }
        Ok(behind + found..behind + found + text.len())
    }

    /// The source with the mutation.
    ///
    /// # Errors
    /// As [`Mutation::place`].
    pub fn apply(&self, source: &str) -> Result<String> {
        let mut mutant = source.to_owned();
        mutant.replace_range(self.place(source)?, &self.put);
        if mutant == source {
            bail!("{TABLE}, {}: nothing changes", self.what)
        }
        Ok(mutant)
    }

    /// Package, target in its tests folder, and name of the test.
    ///
    /// # Errors
    /// It is not of that form.
    pub fn test(&self) -> Result<(&str, Option<&str>, &str)> {
        let (place, name) = self.test.split_once(' ').context("a test is `package name`")?;
        Ok(match place.split_once('/') {
            Some((package, target)) => (package, Some(target), name),
            None => (place, None, name),
        })
    }
}

/// All sources under a folder, or the one file; neither fakes nor tests.
fn sources(root: &Path, name: &str, found: &mut Vec<String>) -> Result<()> {
    let last = name.rsplit('/').next().unwrap_or(name).trim_end_matches(".rs");
    if matches!(last, "fake" | "tests" | "models") {
        return Ok(());
    }
    if name.ends_with(".rs") {
        found.push(name.to_owned());
        return Ok(());
    }
    let folder = root.join(name);
    if folder.is_dir() {
        for entry in fs::read_dir(&folder)? {
            let entry = entry?.file_name();
            sources(root, &format!("{name}/{}", entry.to_string_lossy()), found)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOURCE: &str = "fn a() {\n    go();\n}\n\nfn b() {\n    stay();\n    go();\n}\n";

    fn row(at: &str, text: &str) -> Mutation {
        let (at, text) = (at.to_owned(), text.to_owned());
        let [what, file, put, test] = ["w", "f", "", "hyp-s2 t"].map(str::to_owned);
        Mutation { what, file, at, text, put, test }
    }

    #[test]
    fn the_text_behind_the_anchor_goes() {
        let mutant = row("fn b(", "go();").apply(SOURCE).unwrap();
        assert_eq!(mutant, "fn a() {\n    go();\n}\n\nfn b() {\n    stay();\n    \n}\n");
    }

    #[test]
    fn a_row_that_does_not_fit_is_an_error() {
        for (at, text) in [("fn c(", "go();"), ("()", "go"), ("fn a(", "stay();"), ("fn b(", "x")] {
            assert!(row(at, text).place(SOURCE).is_err(), "{at} {text}");
        }
        assert!(row("fn b(", "").apply(SOURCE).is_err());
    }

    #[test]
    fn tests_have_a_package_and_perhaps_a_target() {
        let test = |test: &str| {
            let row = Mutation { test: test.to_owned(), ..row("", "") };
            row.test().map(|(p, t, n)| format!("{p} {t:?} {n}")).ok()
        };
        assert_eq!(test("hyp-s2 a::b").as_deref(), Some("hyp-s2 None a::b"));
        assert_eq!(test("tests/barriers b").as_deref(), Some("tests Some(\"barriers\") b"));
        assert_eq!(test("b"), None);
    }
}
