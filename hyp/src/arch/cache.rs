//! Cache maintenance by virtual address (= physical), for ranges that EL2 has mapped Normal.

use core::arch::asm;

use super::sysreg::{ctr_el0, dsb_ish, dsb_sy, isb};

/// Calls `op` for each line of `start..start + size`; `field` is the log2 of a line in words.
fn lines(start: u64, size: u64, field: u64, op: impl Fn(u64)) {
    let line = 4_u64 << (field & 0xf);
    let end = start.saturating_add(size);
    let mut at = start & !(line - 1);
    while at < end {
        op(at);
        at = at.saturating_add(line);
    }
}

/// Cleans and invalidates data to the point of coherency, for whoever reads it past the caches: not
/// only what is in our shareability domain must find it there.
pub fn clean_to_poc(start: u64, size: u64) {
    lines(start, size, ctr_el0() >> 16, |at| {
        // SAFETY:
        // 1. Cleaning and invalidating changes no memory content that a coherent observer sees.
        // 2. An address that is not mapped would fault; callers pass RAM, which EL2 maps whole.
        unsafe { asm!("dc civac, {}", in(reg) at, options(nostack, preserves_flags)) }
    });
    dsb_sy();
}

/// Makes instructions just written visible to all CPUs' fetches (DDI0487 B2.4.4): data to the point
/// of unification, then instruction caches.
pub fn sync_icache(start: u64, size: u64) {
    let ctr = ctr_el0();
    const IDC: u64 = 1 << 28;
    const DIC: u64 = 1 << 29;
    const L1IP: u64 = 3 << 14;
    const PIPT: u64 = 3 << 14;
    if ctr & IDC == 0 {
        lines(start, size, ctr >> 16, |at| {
            // SAFETY: as in `clean_to_poc`.
            unsafe { asm!("dc cvau, {}", in(reg) at, options(nostack, preserves_flags)) }
        });
    }
    dsb_ish();
    if ctr & DIC == 0 {
        if ctr & L1IP == PIPT {
            lines(start, size, ctr, |at| {
                // SAFETY: as in `clean_to_poc`: an instruction cache holds no state but copies.
                unsafe { asm!("ic ivau, {}", in(reg) at, options(nostack, preserves_flags)) }
            });
        } else {
            // Whoever fetches does so by another address (an IPA, a VA of its own), and a cache
            // indexed by those may hold the line elsewhere: all of it goes (D7.5.10).
            // SAFETY: as above.
            unsafe { asm!("ic ialluis", options(nostack, preserves_flags)) };
        }
        dsb_ish();
    }
    isb();
}
