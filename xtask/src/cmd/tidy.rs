//! `tidy`: what must hold of the EL2 image itself.

use std::process::ExitCode;

use anyhow::Result;

use crate::cmd::build;
use crate::ui::say;
use crate::{panics, paths, toolchain};

/// Check that no hypercall or trap can make EL2 panic, in the release image's machine code
///
/// Prints each panic that can be reached, where it is in the source, and the calls that lead to it.
/// docs/assurance.md has the method and the panics that are allowed.
#[derive(clap::Args)]
pub struct Args {}

pub fn run(_args: &Args) -> Result<ExitCode> {
    toolchain::ensure()?;
    build::all()?;
    let found = panics::check(&paths::read(&build::elf_path("hyp")?)?)?;
    say(format!(
        "tidy: all is well: {} functions behind EL2's vectors, {} places that stop EL2 by design",
        found.functions, found.allowed
    ));
    Ok(ExitCode::SUCCESS)
}
