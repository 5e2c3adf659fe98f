//! `loom`: every interleaving of a few CPUs at the locks of EL2 and of the mirror.

use std::process::ExitCode;

use anyhow::Result;

use crate::models::Models;
use crate::ui::say;

/// The crates with models.
const MODELLED: [&str; 2] = ["hyp-sync", "host-mirror"];

/// Explore every interleaving of a few CPUs at each lock, with loom
///
/// Builds hyp-sync and host-mirror with locks that loom can see and runs their models. Each model
/// also runs with its lock broken or removed, and must fail then.
#[derive(clap::Args)]
pub struct Args {
    /// Only these crates
    #[arg(value_name = "CRATE")]
    crates: Vec<String>,
}

pub fn run(args: &Args) -> Result<ExitCode> {
    let wanted = |name: &&str| args.crates.is_empty() || args.crates.iter().any(|c| c == name);
    let packages: Vec<_> = MODELLED.into_iter().filter(wanted).collect();
    Models { explorer: "loom", packages: &packages }.run(|_| {})?;
    say("loom found nothing, and noticed every broken lock");
    Ok(ExitCode::SUCCESS)
}
