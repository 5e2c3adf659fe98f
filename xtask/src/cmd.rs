//! The command line: one module per subcommand.

mod attack;
pub mod build;
mod check;
mod debug;
mod fetch;
mod flash;
mod fuzz;
mod image;
mod loom;
mod miri;
mod mutants;
mod qemu_test;
pub mod run;
mod setup;
mod shuttle;
mod sizes;
mod soak;
mod tidy;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

use crate::{child, ui};

/// Builds, runs and tests Redan. Start with `cargo xtask run`.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", disable_help_subcommand = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Run(run::Args),
    QemuTest(qemu_test::Args),
    Setup(setup::Args),
    Build(build::Args),
    Fetch(fetch::Args),
    Image(image::Args),
    Flash(flash::Args),
    Attack(attack::Args),
    Debug(debug::Args),
    Sizes(sizes::Args),
    Check(check::Args),
    Tidy(tidy::Args),
    Miri(miri::Args),
    Loom(loom::Args),
    Shuttle(shuttle::Args),
    Mutants(mutants::Args),
    Fuzz(fuzz::Args),
    Soak(soak::Args),
}

/// Parse the command line and do what it says.
#[must_use]
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    match child::end_children_on_signal().and_then(|()| dispatch(cli.command)) {
        Ok(code) => code,
        Err(error) => {
            ui::say(format!("error: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn dispatch(command: Command) -> Result<ExitCode> {
    match command {
        Command::Run(args) => run::run(&args),
        Command::QemuTest(args) => qemu_test::run(&args),
        Command::Setup(args) => setup::run(&args),
        Command::Build(args) => build::run(&args),
        Command::Fetch(args) => fetch::run(&args),
        Command::Image(args) => image::run(&args),
        Command::Flash(args) => flash::run(&args),
        Command::Attack(args) => attack::run(&args),
        Command::Debug(args) => debug::run(&args),
        Command::Sizes(args) => sizes::run(&args),
        Command::Check(args) => check::run(&args),
        Command::Tidy(args) => tidy::run(&args),
        Command::Miri(args) => miri::run(&args),
        Command::Loom(args) => loom::run(&args),
        Command::Shuttle(args) => shuttle::run(&args),
        Command::Mutants(args) => mutants::run(&args),
        Command::Fuzz(args) => fuzz::run(&args),
        Command::Soak(args) => soak::run(&args),
    }
}
