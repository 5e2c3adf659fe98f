//! A guest that uses 40 of its 256 MiB: the cost to the host must be about that, which the host's
//! own summary says.

use crate::{check, check_eq, machine, mmu, println, probe, start};

/// Pages to touch: 40 MiB.
const PAGES: u64 = 40 << 20 >> 12;

/// First page that nothing uses: beyond the image, at a 2 MiB boundary.
#[must_use]
pub fn free_start() -> u64 {
    (start::image().1 + 0x1f_ffff) & !0x1f_ffff
}

/// The payload.
pub fn run() {
    let m = machine::get();
    let first = free_start();
    check_eq!(m.ram.1 >> 20, 256, "the guest was given 256 MiB");
    let mut dirty = 0u64;
    let mut wrong = 0u64;
    for n in 0..PAGES {
        let at = first + (n << 12);
        dirty += u64::from(probe::load64(at) != Ok(0));
        wrong += u64::from(!mmu::touch(at + 8, at));
    }
    check_eq!(dirty, 0, "memory is zero when it is first read");
    check_eq!(wrong, 0, "and keeps what is written");
    let kept = (0..PAGES).all(|n| probe::load64(first + (n << 12) + 8) == Ok(first + (n << 12)));
    check!(kept, "each page is a page of its own");
    println!("touched {PAGES} pages, 40 MiB of {}", m.ram.1 >> 20);
}
