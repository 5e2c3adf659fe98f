//! Whether docs/boards/rpi4.md tells of every message that a person may see on the serial cable, and of none
//! that there is not.
//!
//! The messages are literals of the sources; in the document `…` stands for what is filled in.

use std::collections::BTreeSet;

use regex::Regex;

use crate::paths;

/// Where EL2 says something to a person.
const SOURCES: [&str; 8] = [
    "hyp/src/el2.rs",
    "hyp/src/smp.rs",
    "hyp/src/survey.rs",
    "hyp/src/payload.rs",
    "hyp/src/panic.rs",
    "hyp/core/src/plan.rs",
    "hyp/core/src/speculation.rs",
    "hyp/dtb/src/error.rs",
];
/// Around the document's list.
const FENCE: &str = "```messages\n";

/// The literals, without those that are nothing but what is filled in.
fn said() -> BTreeSet<String> {
    let call =
        r#"(?:log::(?:info|warn|error)!\(|write(?:ln)?!\(\s*(?:f|Raw),)\s*"((?:[^"\\]|\\.)*)""#;
    let (call, hole) = (Regex::new(call).unwrap(), Regex::new(r"\{[^}]*\}").unwrap());
    let mut said = BTreeSet::new();
    for file in SOURCES {
        let text = std::fs::read_to_string(paths::root().join(file)).unwrap();
        let code = text.split("#[cfg(test)]").next().unwrap_or_default();
        for found in call.captures_iter(code) {
            let plain = found[1].replace("\\n", "").replace("[EL2] ", "");
            let message = hole.replace_all(&plain, "…").into_owned();
            if message.chars().any(char::is_alphabetic) {
                said.insert(message);
            }
        }
    }
    said
}

#[test]
fn the_document_tells_of_every_message_and_of_no_other() {
    let document = std::fs::read_to_string(paths::root().join("docs/boards/rpi4.md")).unwrap();
    let mut told = BTreeSet::new();
    for block in document.split(FENCE).skip(1) {
        let block = block.split("```").next().unwrap_or_default();
        told.extend(block.lines().map(|line| line.trim().to_owned()));
    }
    let said = said();
    assert!(said.len() > 40, "the sources are read wrongly: {said:?}");
    let missing: Vec<_> = said.difference(&told).collect();
    let gone: Vec<_> = told.difference(&said).collect();
    assert!(missing.is_empty() && gone.is_empty(), "not told: {missing:#?}\nnever said: {gone:#?}");
}
