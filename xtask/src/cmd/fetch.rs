//! `fetch`: stock guests ahead of time, or newer ones.

use std::process::ExitCode;

use anyhow::Result;

use crate::{rpi4, stock, ui};

/// Fetch what others have made, the stock Debian kernel first, so that later runs need no network
///
/// The arm64 kernel and busybox; with `--board rpi4` also the device trees, TF-A and the board's own
/// firmware. Takes them from the Debian archive that this machine's apt is configured with, checks their
/// signatures, and keeps them in .redan/stock. Nothing is installed.
#[derive(clap::Args)]
pub struct Args {
    /// Suites, such as bookworm, trixie or bookworm-backports [default: this machine's release]
    #[arg(value_name = "SUITE")]
    suites: Vec<String>,

    /// And what a card for this board needs
    #[arg(long, value_name = "BOARD", value_parser = ["rpi4"])]
    board: Option<String>,

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
        if args.board.is_some() {
            for folder in rpi4::fetch_all(suite)? {
                ui::say(format!("board:   {}", folder.display()));
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}
