//! What several CPUs promise each other.
use crate::{check_eq, machine, start, timer};
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};
static HERE: AtomicU64 = AtomicU64::new(0);
fn main(arg: u64) {
    HERE.fetch_or(arg, Relaxed);
}
/// The payload.
pub fn run() {
    let n = machine::get().cpus.min(8) as usize;
    for cpu in 1..n {
        check_eq!(start::cpu_on(cpu, main, 1 << cpu), 0, "CPU {cpu} is switched on");
    }
    timer::wait(1000, || HERE.load(Relaxed) + 2 == 1 << n);
    check_eq!(HERE.load(Relaxed) + 2, 1 << n, "all CPUs have run");
}
