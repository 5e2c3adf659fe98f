//! What each fuzz target does with its input: a function of bytes that panics if something is wrong.
//!
//! The same functions run in two places. `cargo xtask fuzz` gives them to libFuzzer (tests/fuzz,
//! nightly); `cargo test` runs every committed seed, and some neighbours of each, on stable. None of
//! them is content with "no panic": each knows what must hold of whatever was accepted.
//!
//! Targets whose input is a sequence of actions read it from a [`Tape`], whose meaning never
//! changes: a seed that once found something must find it for ever.

#![expect(
    clippy::missing_panics_doc,
    reason = "every target panics, and only, when it has found something"
)]

mod bundle;
mod cmdline;
mod dtb;
mod hypercalls;
mod manifest;
mod power;
mod syndrome;
mod tape;
mod vgic;
mod vm;

pub use bundle::bundle;
pub use cmdline::cmdline;
pub use dtb::dtb;
pub use hypercalls::hypercalls;
pub use manifest::manifest;
pub use power::power;
pub use syndrome::syndrome;
pub use tape::Tape;
pub use vgic::vgic;
pub use vm::vm;

/// A target: its name, which is also that of its folder of seeds, and what it does.
pub type Target = (&'static str, fn(&[u8]));

/// All of them.
pub const TARGETS: [Target; 9] = [
    ("bundle", bundle),
    ("cmdline", cmdline),
    ("dtb", dtb),
    ("hypercalls", hypercalls),
    ("manifest", manifest),
    ("power", power),
    ("syndrome", syndrome),
    ("vgic", vgic),
    ("vm", vm),
];
