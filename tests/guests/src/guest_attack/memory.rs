//! What must not change: canaries, memory that nobody writes, the code.

use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::{machine, probe, report, start};

/// Pages with canaries.
const CANARIES: (u64, u64) = (0x4200_0000, 1024);
/// Pages that nobody writes.
const BLANK: (u64, u64) = (0x4280_0000, 1024);
/// RAM that this payload needs.
const END: u64 = 0x4300_0000;
const ODD: u64 = 0x9e37_79b9_7f4a_7c15;

static CODE: AtomicU64 = AtomicU64::new(0);

unsafe extern "C" {
    static guest_rela_start: u8;
}

fn canary(at: u64) -> u64 {
    (at ^ 0x5a5a).wrapping_mul(ODD)
}

fn word(at: u64) -> u64 {
    probe::load64(at).unwrap_or(!0)
}

/// Fills in the canaries. Nothing of the loader's may lie where they, or scratch memory, are.
pub fn prepare() {
    let m = machine::get();
    let free = super::cell::SCRATCH..END;
    let apart = start::image().1 <= free.start && !free.contains(&m.dtb);
    if !apart || m.ram.0 + m.ram.1 < END {
        crate::println!("this machine is laid out in another way than foreseen");
        report::abandon();
    }
    for at in (CANARIES.0..CANARIES.0 + (CANARIES.1 << 12)).step_by(8) {
        let _ = probe::store64(at, canary(at));
    }
    CODE.store(code(), Relaxed);
}

fn code() -> u64 {
    let words = (start::image().0..&raw const guest_rela_start as u64).step_by(8);
    words.fold(0, |sum: u64, at| (sum.rotate_left(7) ^ word(at)).wrapping_mul(ODD))
}

/// Code and constants are what they were.
pub fn code_is_whole() -> bool {
    code() == CODE.load(Relaxed)
}

/// One page of the canaries, any number.
pub fn page_is_whole(n: u64) -> bool {
    let page = CANARIES.0 + ((n % CANARIES.1) << 12);
    (page..page + 4096).step_by(8).all(|at| word(at) == canary(at))
}

/// All of them.
pub fn is_whole() -> bool {
    (0..CANARIES.1).all(page_is_whole)
}

/// One page that nobody writes.
pub fn page_is_zero(n: u64) -> bool {
    let page = BLANK.0 + ((n % BLANK.1) << 12);
    (page..page + 4096).step_by(8).all(|at| word(at) == 0)
}

/// All of them.
pub fn rest_is_zero() -> bool {
    (0..BLANK.1).all(page_is_zero)
}
