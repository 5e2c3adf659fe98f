//! `sizes`: what the images weigh.

use std::process::ExitCode;

use anyhow::Result;

use crate::cmd::build::{self, HOST};
use crate::elf::{self, Sizes};
use crate::{paths, toolchain};

/// Print text, rodata, data and bss of the EL2 image and the host shim
#[derive(clap::Args)]
pub struct Args {}

pub fn run(_args: &Args) -> Result<ExitCode> {
    toolchain::ensure()?;
    build::all()?;
    println!(
        "{:<10} {:>9} {:>9} {:>9} {:>9} {:>9}",
        "image", "text", "rodata", "data", "bss", "sum"
    );
    for program in ["hyp", HOST] {
        let Sizes { text, rodata, data, bss } =
            elf::sizes(&paths::read(&build::elf_path(program)?)?)?;
        let sum = text + rodata + data + bss;
        println!("{program:<10} {text:>9} {rodata:>9} {data:>9} {bss:>9} {sum:>9}");
    }
    Ok(ExitCode::SUCCESS)
}
