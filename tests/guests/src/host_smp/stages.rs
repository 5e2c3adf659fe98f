//! Translations that one CPU changes are changed on all: the host's own, and a guest's.

use core::sync::atomic::{AtomicU64, Ordering::Acquire, Ordering::Release};

use hyp_abi::Hypercall as H;
use hyp_abi::run::{Exit, exit_flags};

use super::crew;
use super::guest::{CODE, DATA, Guest, Program, RWX, TWIN};
use crate::host::{self, must, peek, poke};
use crate::{check, check_eq, probe, timer};

const ROUNDS: u64 = 8;

/// Set when the page is EL2's.
static GONE: AtomicU64 = AtomicU64::new(0);

/// Reads a page until it faults; answers how often it could still be read after it was gone.
fn reads(page: u64) -> u64 {
    let mut after = 0;
    crew::together();
    loop {
        let gone = GONE.load(Acquire) == page;
        match probe::load64(page) {
            Ok(_) if gone => after += 1,
            Ok(_) => {}
            Err(_) => return after,
        }
        if after > 100 {
            return after;
        }
    }
}

/// A page that becomes EL2's disappears on every CPU before the call returns.
fn donation() {
    let page = host::pages(1);
    let (mut good, mut data) = (0, 0);
    for round in 0..ROUNDS {
        let guest = Guest::new(1);
        poke(page, round + 1);
        GONE.store(0, Release);
        crew::others().for_each(|n| crew::begin(n, reads, page));
        guest.load(0);
        crew::together();
        timer::wait(1, || false);
        must(H::MemcacheTopup, [page >> 12, 0, 0, 0]);
        GONE.store(page, Release);
        let late: u64 = crew::others().map(crew::end).sum();
        good += u64::from(late == 0 && probe::load64(page).is_err());
        Guest::put();
        guest.end();
        data += u64::from(peek(page) == 0);
    }
    check_eq!(good, ROUNDS, "a page given to EL2 is gone on every CPU, {ROUNDS} times");
    check_eq!(data, ROUNDS, "and is zero when it comes back");
}

/// vCPU 1 of the guest counts on this CPU until something happens: 1 for an abort at its data page,
/// 2 if that was for want of permission.
fn count(handle: u64) -> u64 {
    let guest = Guest::of(handle);
    guest.load(1);
    guest.prepare(1, Program::Count, DATA, None);
    let out = guest.run(1, || false);
    Guest::put();
    let here = out.exit == Some(Exit::Abort) && out.ipa & !0xfff == DATA;
    match out.flags & exit_flags::PERMISSION {
        _ if !here => 0,
        0 => 1,
        _ => 2,
    }
}

/// Waits until the guest has counted on; whether it does.
fn counts(guest: Guest) -> bool {
    let before = peek(guest.data());
    timer::wait(20_000, || peek(guest.data()) != before)
}

/// Whether the guest's page stays as it is.
fn stays(guest: Guest) -> bool {
    let before = peek(guest.data());
    !timer::wait(3, || peek(guest.data()) != before)
}

/// What is taken from a guest is taken from the CPU that runs it.
fn guest() {
    let Some(other) = crew::others().next() else { return };
    let guest = Guest::new(2);
    let h = guest.handle;
    let (mut taken, mut protected) = (0, 0);
    for _ in 0..ROUNDS {
        crew::begin(other, count, h);
        let ran = counts(guest);
        must(H::Wrprotect, [h, DATA >> 12, 1, 0]);
        must(H::TlbFlushVmid, [h, 0, 0, 0]);
        let still = stays(guest);
        protected += u64::from(ran && still && crew::end(other) == 2);
        guest.load(0);
        must(H::RelaxPerms, [DATA >> 12, RWX, 0, 0]);

        crew::begin(other, count, h);
        let ran = counts(guest);
        must(H::UnshareGuest, [h, DATA >> 12, 1, 0]);
        let still = stays(guest);
        taken += u64::from(ran && still && crew::end(other) == 1);
        must(H::ShareGuest, [guest.data() >> 12, DATA >> 12, 1, RWX]);
        Guest::put();
    }
    check_eq!(protected, ROUNDS, "a guest that runs stops writing when it must, {ROUNDS} times");
    check_eq!(taken, ROUNDS, "a page taken from it is not written any more, {ROUNDS} times");
    // Without a flush a vCPU that is inside keeps its right; nobody who enters has it.
    crew::begin(other, count, h);
    let ran = counts(guest);
    must(H::Wrprotect, [h, DATA >> 12, 1, 0]);
    guest.load(0);
    guest.prepare(0, Program::Count, DATA, None);
    let mut turns = 0;
    let out = guest.run(0, || {
        turns += 1;
        turns > 100
    });
    let refused = out.exit == Some(Exit::Abort) && out.flags & exit_flags::PERMISSION != 0;
    check!(ran && refused, "a vCPU that enters after the protection cannot write");
    check!(stays(guest), "nor can the one that was inside already, from then on");
    check_eq!(crew::end(other), 2, "and it is told");
    Guest::put();
    guest.end();
}

/// Two vCPUs of one VM on one CPU, with the same ASID and other tables: each has its own memory.
///
/// QEMU forgets all translations when the VMID changes, as it does between two runs, so here the
/// flush of `vcpu_load` cannot be missed: the fake machine shows that it is needed (hyp-core,
/// `another_vcpu_of_the_vm_on_a_cpu_gets_a_clean_tlb`), and this, that it does no harm.
fn same_asid(handle: u64) -> u64 {
    let guest = Guest::of(handle);
    let mut good = 0;
    for round in 0..2 * ROUNDS {
        let n = (round % 2) as usize;
        guest.load(n);
        let out = guest.run(n, || false);
        Guest::put();
        good += u64::from(out.exit == Some(Exit::Hvc) && guest.told(n) == 0x1111 * (1 + round % 2));
    }
    good
}

/// Where both vCPUs look: the ninth GiB, which the one maps to the second and the other to the third.
const WINDOW: u64 = 8 << 30;

fn twins() {
    let guest = Guest::new(2);
    let twin = host::pages(1);
    let tables = host::pages(2);
    // Blocks of 1 GiB, 39-bit addresses: code at its own place, and the window.
    let block = |pa: u64| pa | 1 << 10 | 3 << 8 | 1;
    for (n, target) in [(0, DATA), (1, TWIN)] {
        let table = tables + 4096 * n;
        poke(table + 8 * (CODE >> 30), block(CODE));
        poke(table + 8 * (WINDOW >> 30), block(target & !((1 << 30) - 1)));
        guest.load(0);
        guest.map(table, table_ipa(n), RWX);
        Guest::put();
    }
    guest.load(0);
    guest.map(twin, TWIN, RWX);
    Guest::put();
    poke(guest.data(), 0x1111);
    poke(twin, 0x2222);
    // T0SZ = 25, write-back and inner shareable walks, no TTBR1, 40 bits; attribute 0 is Normal.
    let tcr = 25 | 1 << 8 | 1 << 10 | 3 << 12 | 1 << 23 | 2 << 32;
    for n in 0..2 {
        let stage1 = [table_ipa(n as u64), tcr, 0xff];
        guest.prepare(n, Program::Look, WINDOW + (DATA & 0xf_ffff), Some(stage1));
    }
    // One CPU after the other: a vCPU is on one only.
    for n in crew::others().chain([0]) {
        let good =
            if n == 0 { same_asid(guest.handle) } else { crew::on(n, same_asid, guest.handle) };
        check_eq!(good, 2 * ROUNDS, "CPU {n}: two vCPUs with one ASID see their own memory");
    }
    guest.end();
}

fn table_ipa(n: u64) -> u64 {
    0x4002_0000 + 4096 * n
}

/// The part.
pub fn run() {
    donation();
    guest();
    twins();
}
