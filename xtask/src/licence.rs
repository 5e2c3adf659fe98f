//! Which licences our dependencies may have.
//!
//! Reads SPDX expressions as far as crates use them: AND, OR, WITH, parentheses, and the old `/`.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

/// Compatible with MIT OR Apache-2.0 without conditions on our own files.
const ALLOWED: [&str; 12] = [
    "MIT",
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "ISC",
    "Zlib",
    "0BSD",
    "Unlicense",
    "CC0-1.0",
    "BSL-1.0",
    "Unicode-3.0",
];

/// By name, because the licence asks something: MPL-2.0 asks that changes to fdt's own files be
/// published, and we link it unchanged.
const EXCEPTIONS: [(&str, &str); 1] = [("fdt", "MPL-2.0")];

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
}

#[derive(Deserialize)]
struct Package {
    name: String,
    version: String,
    license: Option<String>,
    source: Option<String>,
}

/// Check the output of `cargo metadata`; returns how many dependencies have each licence.
pub fn check(metadata: &str) -> Result<BTreeMap<String, usize>> {
    let metadata: Metadata = serde_json::from_str(metadata).context("cargo metadata")?;
    let mut counts = BTreeMap::new();
    let mut bad = Vec::new();
    for package in metadata.packages.iter().filter(|p| p.source.is_some()) {
        let licence = package.license.clone().unwrap_or_else(|| "(none given)".to_owned());
        let excepted = EXCEPTIONS.contains(&(package.name.as_str(), licence.as_str()));
        if !excepted && !acceptable(&licence) {
            bad.push(format!("{} {}: {licence}", package.name, package.version));
        }
        *counts.entry(licence).or_insert(0) += 1;
    }
    ensure!(bad.is_empty(), "licences that are not on the list:\n    {}", bad.join("\n    "));
    Ok(counts)
}

/// Whether an expression can be met with allowed licences only.
fn acceptable(expression: &str) -> bool {
    let spaced = expression.replace('/', " OR ").replace('(', " ( ").replace(')', " ) ");
    let mut words = spaced.split_whitespace().peekable();
    let met = any_of(&mut words);
    met == Some(true) && words.next().is_none()
}

type Words<'a> = std::iter::Peekable<std::str::SplitWhitespace<'a>>;

fn any_of(words: &mut Words<'_>) -> Option<bool> {
    let mut met = all_of(words)?;
    while words.next_if_eq(&"OR").is_some() {
        met |= all_of(words)?;
    }
    Some(met)
}

fn all_of(words: &mut Words<'_>) -> Option<bool> {
    let mut met = one(words)?;
    while words.next_if_eq(&"AND").is_some() {
        met &= one(words)?;
    }
    Some(met)
}

fn one(words: &mut Words<'_>) -> Option<bool> {
    let word = words.next()?;
    if word == "(" {
        let met = any_of(words)?;
        return words.next_if_eq(&")").map(|_| met);
    }
    let mut name = word.to_owned();
    if words.next_if_eq(&"WITH").is_some() {
        name = format!("{name} WITH {}", words.next()?);
    }
    Some(ALLOWED.contains(&name.as_str()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_choice_is_met_by_one_and_a_sum_by_all() {
        for good in [
            "MIT",
            "MIT/Apache-2.0",
            "MIT OR GPL-3.0",
            "(MIT OR Apache-2.0) AND Unicode-3.0",
            "Apache-2.0 WITH LLVM-exception OR GPL-2.0",
        ] {
            assert!(acceptable(good), "{good}");
        }
        for bad in ["GPL-3.0", "MIT AND GPL-3.0", "(MIT", "MIT MIT", "", "MPL-2.0"] {
            assert!(!acceptable(bad), "{bad}");
        }
    }

    #[test]
    fn only_the_named_crate_has_the_exception() {
        let metadata = |name: &str| {
            format!(
                r#"{{"packages":[{{"name":"{name}","version":"1.0.0","license":"MPL-2.0","source":"x"}},
                    {{"name":"ours","version":"1.0.0","license":null,"source":null}}]}}"#
            )
        };
        assert_eq!(check(&metadata("fdt")).unwrap()["MPL-2.0"], 1);
        assert!(check(&metadata("other")).unwrap_err().to_string().contains("other 1.0.0"));
    }
}
