//! `fetch`: stock guests ahead of time, or newer ones.

use std::process::ExitCode;

use anyhow::Result;

use crate::{stock, ui};

/// Fetch the stock Debian kernel and busybox for arm64, so that later runs need no network
///
/// Takes them from the Debian archive that this machine's apt is configured with, checks their
/// signatures, and keeps them in .redan/stock. Nothing is installed.
#[derive(clap::Args)]
pub struct Args {
    /// Suites, such as bookworm, trixie or bookworm-backports [default: this machine's release]
    #[arg(value_name = "SUITE")]
    suites: Vec<String>,

    /// Ask the archive for newer versions of what was fetched before
    #[arg(long)]
    update: bool,
}

pub fn run(args: &Args) -> Result<ExitCode> {
    if args.update {
        stock::forget()?;
    }
    let default = [stock::default_suite()];
    let suites = if args.suites.is_empty() { &default[..] } else { &args.suites };
    for suite in suites {
        ui::say(format!("kernel:  {}", stock::kernel(suite)?.display()));
        ui::say(format!("busybox: {}", stock::busybox(suite)?.display()));
    }
    Ok(ExitCode::SUCCESS)
}
