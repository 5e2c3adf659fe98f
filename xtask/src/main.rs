//! `cargo xtask`: the one door to building, running and testing Redan.

use std::process::ExitCode;

fn main() -> ExitCode {
    xtask::main()
}
