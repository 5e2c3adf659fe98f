//! The whole core on four CPUs of the fake machine, under schedules that shuttle chooses.
//!
//! Every lock of EL2 and every access of the fake machine is a place where another CPU may go on. What
//! the CPUs' calls answered must be what the specification answers to the same calls in some order,
//! and each model must fail when the locks of one rank exclude nobody any more.
//!
//! Nothing of it exists in plain builds: `cargo xtask shuttle` builds with `--cfg shuttle`.
//! `REDAN_SCHEDULES` is the number of schedules a model is tried with; `REDAN_SCHEDULE` one that
//! shuttle printed, to see it again.
#![cfg(shuttle)]

mod history;
mod machine;
#[cfg(test)]
mod models;

pub use history::History;
pub use machine::{CPUS, Machine};
