//! A vCPU that moves between CPUs takes all its registers along, and leaves none behind.

use hyp_abi::run::Exit;

use super::crew;
use super::guest::{DATA, Guest, Program};
use crate::host::{peek, poke};
use crate::{check_eq, cpu, fp, read, write};

const ROUNDS: u64 = 4;
/// Two vCPUs take turns everywhere.
const TWO: usize = 2;

/// What vCPU `n` has in its FP registers.
fn pattern(n: usize) -> [u64; 64] {
    fp::pattern(0x90e5_7000 + n as u64)
}

/// Where vCPU `n` keeps it, in the data page; after it there is room for what it finds.
const fn store(n: usize) -> u64 {
    1024 * n as u64
}

/// x1 to x5 of vCPU `n`: a breakpoint, not enabled, MDSCR_EL1 with MDE, a deadline and TPIDR_EL0.
fn marks(n: usize) -> [u64; 5] {
    let n = n as u64;
    [0x4000_0100 + 64 * n, 0x1e2 | n << 16, 1 << 15, 0x7777_0000_0000 + n, 0xabcd_0000 + n]
}

/// The host's own registers on this CPU: the same kinds.
fn host_marks() -> [u64; 4] {
    [read!("dbgbvr0_el1"), read!("dbgbcr0_el1"), read!("mdscr_el1"), read!("tpidr_el0")]
}

/// Runs both vCPUs here; answers how much was not as it must be.
fn host(handle: u64) -> u64 {
    let guest = Guest::of(handle);
    let me = cpu::me() as u64;
    let mine = fp::pattern(0x1105_7000 + me);
    let mut wrong = 0;
    write!("dbgbvr0_el1", 0x4000_0000 + 4096 * me);
    write!("dbgbcr0_el1", 0x1e4 | me << 16);
    write!("mdscr_el1", 1 << 12);
    let before = host_marks();
    fp::load(&mine);
    for n in 0..TWO {
        wrong += u64::from(!turn(guest, n));
        // The second time round the guest's FP registers are in the CPU still, or the host's are.
        wrong += u64::from(n == 0 && fp::store() != mine);
    }
    wrong += u64::from(fp::store() != mine);
    wrong += u64::from(host_marks() != before);
    write!("dbgbcr0_el1", 0);
    write!("mdscr_el1", 0);
    wrong
}

/// Loads vCPU `n` here and lets it tell what it has.
fn turn(guest: Guest, n: usize) -> bool {
    let found = guest.data() + store(n) + 512;
    (0..64).for_each(|word| poke(found + 8 * word, 0));
    guest.load(n);
    let out = guest.run(n, || false);
    let [_, told @ .., number, _] = guest.heard(n);
    Guest::put();
    out.exit == Some(Exit::Hvc)
        && told == marks(n)
        && number == 1 << 31 | n as u64
        && core::array::from_fn(|word| peek(found + 8 * word as u64)) == pattern(n)
}

/// The part.
pub fn run() {
    let guest = Guest::new(TWO);
    for n in 0..TWO {
        let at = guest.data() + store(n);
        for (word, value) in pattern(n).into_iter().enumerate() {
            poke(at + 8 * word as u64, value);
        }
        guest.prepare(n, Program::Keep, DATA + store(n), None);
        guest.give(n, &marks(n));
        guest.load(n);
        let out = guest.run(n, || false);
        Guest::put();
        check_eq!(out.exit, Some(Exit::Hvc), "vCPU {n} has set its registers");
    }
    let mut wrong = 0;
    for _ in 0..ROUNDS {
        wrong += host(guest.handle);
        wrong += crew::others().map(|n| crew::on(n, host, guest.handle)).sum::<u64>();
    }
    check_eq!(wrong, 0, "two vCPUs go round all CPUs {ROUNDS} times, with all their registers");
    guest.end();
}
