//! The unsafe allow-list: where `unsafe` may stand at all (house style, "Unsafe").
//!
//! The compiler forbids it crate by crate; this looks at every file, so that a new crate or a
//! moved module cannot slip through.

use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};

/// Files and folders that may contain `unsafe`: what touches registers, memory and entry points.
const ALLOWED: [&str; 11] = [
    "hyp/src/arch",
    "hyp/src/machine",
    "hyp/src/panic",
    "hyp/src/console",
    "hyp/src/heap",
    "hyp/sync",
    "el1-host/src/arch",
    "el1-host/src/heap",
    "el1-host/src/panic",
    "tests/guests",
    "tests/fuzz",
];

/// What the walk found.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Count {
    /// Files that were read.
    pub files: usize,
    /// `unsafe` where it may stand.
    pub allowed: usize,
}

/// Read every Rust file under `root`.
pub fn check_unsafe(root: &Path) -> Result<Count> {
    let mut files = Vec::new();
    for top in ["hyp", "el1-host", "tests", "xtask"] {
        rust_files(&root.join(top), &mut files)?;
    }
    let mut count = Count::default();
    let mut bad = Vec::new();
    for file in files {
        let text = std::fs::read_to_string(&file)?;
        let lines = unsafe_lines(&text);
        let name = file.strip_prefix(root).unwrap_or(&file).display().to_string();
        count.files += 1;
        if is_allowed(&name) {
            count.allowed += lines.len();
        } else {
            bad.extend(lines.iter().map(|line| format!("{name}:{line}")));
        }
    }
    ensure!(bad.is_empty(), "`unsafe` outside the allow-list:\n    {}", bad.join("\n    "));
    Ok(count)
}

fn is_allowed(name: &str) -> bool {
    ALLOWED.iter().any(|allowed| {
        let rest = name.strip_prefix(allowed);
        rest.is_some_and(|rest| rest.starts_with('/') || rest == ".rs")
    })
}

fn rust_files(dir: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    let mut entries: Vec<PathBuf> =
        std::fs::read_dir(dir)?.map(|e| e.map(|e| e.path())).collect::<Result<_, _>>()?;
    entries.sort();
    for path in entries {
        if path.is_dir() && !path.ends_with("target") {
            rust_files(&path, files)?;
        } else if path.extension().is_some_and(|e| e == "rs") {
            files.push(path);
        }
    }
    Ok(())
}

/// Lines on which the word `unsafe` stands in code, not in a comment or a string.
fn unsafe_lines(text: &str) -> Vec<usize> {
    let code = code_only(text);
    let word = |line: &str| {
        let parts = line.split(|c: char| !(c.is_alphanumeric() || c == '_'));
        parts.into_iter().any(|part| part == "unsafe")
    };
    code.lines().enumerate().filter(|(_, line)| word(line)).map(|(n, _)| n + 1).collect()
}

/// `text` with comments and strings blanked, lines kept. Knows line and nested block comments,
/// plain, byte and raw strings, and character literals against lifetimes.
fn code_only(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let skipped = skip(rest, out.chars().next_back());
        if skipped == 0 {
            out.push(c);
            rest = &rest[c.len_utf8()..];
            continue;
        }
        let (gone, left) = rest.split_at(skipped);
        out.push(' ');
        out.extend(gone.chars().filter(|c| *c == '\n'));
        rest = left;
    }
    out
}

/// How many bytes at the start of `text` are a comment or a literal.
fn skip(text: &str, before: Option<char>) -> usize {
    if text.starts_with("//") {
        return text.find('\n').unwrap_or(text.len());
    }
    if text.starts_with("/*") {
        return block_comment(text);
    }
    let in_word = before.is_some_and(|c| c.is_alphanumeric() || c == '_');
    let raw = text.strip_prefix('b').unwrap_or(text);
    if !in_word && raw.starts_with('r') {
        let hashes = raw[1..].bytes().take_while(|b| *b == b'#').count();
        if raw[1 + hashes..].starts_with('"') {
            let start = text.len() - raw.len() + hashes + 2;
            let close = format!("\"{}", "#".repeat(hashes));
            return text[start..].find(&close).map_or(text.len(), |at| start + at + close.len());
        }
    }
    if text.starts_with('"') {
        return quoted(text, '"');
    }
    let mut chars = text.chars();
    // 'x' and '\n' are literals, 'x without a second quote is a lifetime.
    if chars.next() == Some('\'') && (chars.next() == Some('\\') || chars.next() == Some('\'')) {
        return quoted(text, '\'');
    }
    0
}

fn quoted(text: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        if c == quote && !escaped {
            return at + c.len_utf8();
        }
        escaped = c == '\\' && !escaped;
    }
    text.len()
}

fn block_comment(text: &str) -> usize {
    let mut depth = 0_usize;
    let mut at = 0;
    while let Some(rest) = text.get(at..) {
        let step = if rest.starts_with("/*") {
            depth += 1;
            2
        } else if rest.starts_with("*/") {
            depth -= 1;
            2
        } else {
            rest.chars().next().map_or(1, char::len_utf8)
        };
        at += step;
        if depth == 0 || at >= text.len() {
            return at.min(text.len());
        }
    }
    text.len()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::paths;

    #[test]
    fn the_word_counts_in_code_only() {
        let text = "fn a() { let x = \"unsafe\"; } // unsafe\n/* unsafe\n /* unsafe */ */\nunsafe fn b() {}\n#![forbid(unsafe_code)]\n#[unsafe(naked)]\n";
        assert_eq!(unsafe_lines(text), [4, 6]);
    }

    #[test]
    fn quotes_and_lifetimes_do_not_hide_code() {
        assert_eq!(unsafe_lines("fn f<'a>(x: &'a str) { unsafe { g('\\'', '\"') } }"), [1]);
        assert_eq!(unsafe_lines("let s = r#\"\"unsafe\"#; unsafe {}"), [1]);
        assert_eq!(unsafe_lines("let s = \"\\\"unsafe\";\n"), Vec::<usize>::new());
    }

    #[test]
    fn a_folder_is_allowed_and_its_namesake_is_not() {
        assert!(is_allowed("hyp/src/arch/mmu.rs"));
        assert!(is_allowed("hyp/src/panic.rs"));
        assert!(!is_allowed("hyp/src/arch2.rs"));
        assert!(!is_allowed("hyp/core/src/lib.rs"));
    }

    #[test]
    fn this_repository_keeps_to_the_list() {
        assert!(check_unsafe(paths::root()).unwrap().files > 20);
    }
}
