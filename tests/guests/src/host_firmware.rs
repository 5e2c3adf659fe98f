//! A host on a machine whose device tree reserves memory for firmware: 64 KiB in the reservation block
//! and 64 KiB of `no-map` behind it. Neither is the host's to reach.

use hyp_abi::PageState;

use crate::host::{self, digest};
use crate::host_memory::trespass;
use crate::machine;
use crate::mmu::{self, Attr};
use crate::probe;
use crate::{check, check_eq};

/// As the test's device tree has it.
const FIRMWARE: u64 = 0x4600_0000;
const PIECE: u64 = 0x1_0000;
const PAGE: u64 = 0x1000;

/// The payload.
pub fn run() {
    let clean = digest(&[]);
    let reserved = FIRMWARE..FIRMWARE + PIECE;
    let unmapped = reserved.end..reserved.end + PIECE;
    let state = |at: u64| host::page_state(at >> 12).map(|r| r.host);
    let mut wrong = 0;
    for at in reserved.clone().step_by(PAGE as usize) {
        wrong += u64::from(state(at) != Some(PageState::NoPage));
    }
    check_eq!(wrong, 0, "reserved memory is not the host's in the ownership table");
    let (start, size) = machine::get().ram;
    check!((start..start + size).contains(&FIRMWARE), "that is in the middle of RAM");
    let next = |at| state(at) == Some(PageState::Owned);
    check!(next(FIRMWARE - PAGE), "the page before is the host's");
    check!(next(unmapped.end), "the page after both is the host's");
    for at in reserved.chain(unmapped.clone()).step_by(PAGE as usize) {
        wrong += trespass(mmu::window(at, Attr::Normal) + (at >> 9 & 0xff8));
        let device = mmu::window(at, Attr::Device);
        wrong += u64::from(probe::load32(device).is_ok() || probe::store32(device, 0).is_ok());
    }
    check_eq!(wrong, 0, "no load, store or fetch of the host reaches either piece");
    let neighbours = [FIRMWARE - PAGE, unmapped.end];
    let open = neighbours.iter().all(|at| probe::load64(mmu::window(*at, Attr::Normal)).is_ok());
    check!(open, "its neighbours are open");
    check_eq!(digest(&[]), clean, "after all that every page is whose it was");
}
