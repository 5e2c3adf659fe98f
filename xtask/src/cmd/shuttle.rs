//! `shuttle`: the whole core on four CPUs, under many schedules.

use std::process::ExitCode;

use anyhow::Result;

use crate::models::Models;
use crate::ui::say;

/// Run the whole core on four CPUs under many schedules, with shuttle
///
/// Builds hyp-core and its fake machine with locks that shuttle can see and runs the models of
/// tests/shuttle: mapping, unmapping, teardown, loads and runs at once. What the CPUs' calls answered must be
/// what the specification answers in some order. Each model also runs with the locks of one rank open,
/// and must fail then.
#[derive(clap::Args)]
pub struct Args {
    /// So many random schedules for each model, and as many with few preemptions
    #[arg(long, value_name = "N", default_value_t = 300, value_parser = clap::value_parser!(u32).range(1..))]
    schedules: u32,

    /// A seed, which gives the same schedules again [default: another one each time]
    #[arg(long, value_name = "S")]
    seed: Option<u64>,

    /// Only models whose name contains this
    #[arg(value_name = "FILTER")]
    filter: Option<String>,
}

pub fn run(args: &Args) -> Result<ExitCode> {
    Models { explorer: "shuttle", packages: &["schedules"] }.run(|cmd| {
        cmd.env("REDAN_SCHEDULES", args.schedules.to_string());
        if let Some(seed) = args.seed {
            cmd.env("SHUTTLE_RANDOM_SEED", seed.to_string());
        }
        cmd.args(args.filter.iter());
    })?;
    say("shuttle found nothing, and noticed every open lock");
    Ok(ExitCode::SUCCESS)
}
