//! Everything behind `cargo xtask`, as a library so that tests can call the pieces.
//!
//! * `cmd` holds one file per subcommand; each reads like the list of what it does.
//! * The machine at hand: [`paths`], [`toolchain`], [`nightly`], [`qemu`], [`archive`], [`apt`], [`stock`], [`child`], [`ui`].
//! * What we make: [`elf`] and [`image`] (the flat `redan.img`), [`cpio`], [`initramfs`], [`bundle`];
//!   for boards [`rpi4`], a card's files and image, and [`disk`], which writes it to a card.
//! * How we judge a run: [`screen`], [`script`], [`keys`], [`console`], [`registry`], [`qtest`], [`hostile`], [`panics`], [`fuzzer`], [`mutants`].
//!
//! Two rules hold everywhere. No child process is waited for without a limit, and every failure
//! says what to do next or shows the last lines of the console it failed on.

pub mod apt;
pub mod archive;
pub mod bundle;
pub mod child;
pub mod choice;
mod cmd;
pub mod console;
pub mod cpio;
pub mod disk;
pub mod elf;
pub mod fuzzer;
pub mod hostile;
pub mod image;
pub mod initramfs;
pub mod keys;
pub mod licence;
mod models;
pub mod mutants;
pub mod nightly;
pub mod panics;
pub mod paths;
pub mod qemu;
pub mod qtest;
mod reference;
pub mod registry;
pub mod rpi4;
pub mod screen;
pub mod script;
pub mod stock;
pub mod suites;
pub mod tidy;
pub mod toolchain;
pub mod ui;
mod watch;

pub use cmd::main;
