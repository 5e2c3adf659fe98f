//! The reference of the host's hypercalls in docs/hypercalls.md, generated from the table in
//! `hyp-abi` so that the page and the code cannot differ.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use hyp_abi::{Hypercall, hcall};

const BEGIN: &str = "<!-- host-hypercalls:begin (written by xtask, do not edit) -->\n";
const END: &str = "<!-- host-hypercalls:end -->\n";

fn page(root: &Path) -> PathBuf {
    root.join("docs/hypercalls.md")
}

/// Whether the page says what the table says.
///
/// # Errors
/// It does not, or cannot be read.
pub fn check(root: &Path) -> Result<()> {
    let path = page(root);
    let text = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    if renewed(&text)? != text {
        bail!(
            "docs/hypercalls.md is older than hyp/abi/src/hcall.rs: run `cargo xtask check --fix`"
        );
    }
    Ok(())
}

/// Writes the table into the page.
///
/// # Errors
/// The page has no place for it, or cannot be read or written.
pub fn write(root: &Path) -> Result<()> {
    let path = page(root);
    let text = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    std::fs::write(&path, renewed(&text)?).with_context(|| path.display().to_string())
}

/// The page with its generated part made anew.
fn renewed(text: &str) -> Result<String> {
    let parts = text.split_once(BEGIN).and_then(|(before, rest)| {
        let (_, after) = rest.split_once(END)?;
        Some((before, after))
    });
    let (before, after) = parts.context("docs/hypercalls.md lacks the host-hypercalls marks")?;
    Ok(format!("{before}{BEGIN}{}{END}{after}", table()))
}

fn table() -> String {
    let mut out = format!(
        "\nw0 = {:#x} + number. x0 answers the SMCCC status: 0, or -1 for a number that is not here; x1..x5\n\
         the result, where a negative x1 is a refusal and nothing has changed.\n",
        hcall::BASE
    );
    for call in Hypercall::ALL {
        let args: Vec<_> = call.args().iter().zip(1..).map(|(a, n)| format!("x{n} {a}")).collect();
        let args = if args.is_empty() { "none".to_owned() } else { args.join(", ") };
        // Writing to a String cannot fail.
        let _ = write!(
            out,
            "\n### {} `{}`\n\nArguments: {args}. Answer: {}.\n\n",
            *call as u32,
            call.name(),
            call.answer()
        );
        for line in call.doc().lines() {
            let _ = writeln!(out, "{}", line.trim());
        }
    }
    out.push('\n');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_marked_part_of_the_page_changes() {
        let page = format!("before\n{BEGIN}STALE\n{END}after\n");
        let new = renewed(&page).unwrap();
        assert!(new.starts_with("before\n") && new.ends_with("after\n") && !new.contains("STALE"));
        for call in Hypercall::ALL {
            assert!(new.contains(&format!("### {} `{}`", *call as u32, call.name())));
        }
        assert_eq!(renewed(&new).unwrap(), new);
        assert!(renewed("no marks").is_err());
    }
}
