//! Home of the tests that belong to no single crate.
//!
//! `qemu.toml` is the registry of QEMU tests (`cargo xtask qemu-test`; its keys are explained in
//! xtask's `registry` module); `tests/` holds the host-side ones, `guests/` the programs that run
//! at EL1, `model/` the executable specification and `props/` what is compared with it.
