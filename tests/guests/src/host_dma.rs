//! A host on QEMU's `virt` under `redan.dma=strict`: no register of a device that can move data by itself is
//! within its reach, and what it needs to live still is.

use crate::host::digest;
use crate::host_memory::trespass;
use crate::mmu::{self, Attr};
use crate::probe;
use crate::{check, check_eq, gic, machine};

/// Devices of QEMU's `virt`, with the last page of each.
const MASTERS: [(&str, u64, u64); 6] = [
    ("flash", 0, 0x07ff_f000),
    ("fw_cfg", 0x0902_0000, 0x0902_0000),
    ("virtio", 0x0a00_0000, 0x0a00_3000),
    ("PCI memory", 0x1000_0000, 0x3efe_f000),
    ("PCI configuration space", 0x40_1000_0000, 0x40_1fff_f000),
    ("PCI memory above all RAM", 0x80_0000_0000, 0xff_ffff_f000),
];
/// Pages where nothing is, between and beside devices.
const NOTHING: [u64; 4] = [0x0902_1000, 0x0a00_4000, 0x0c00_0000, 0x0f00_0000];

/// The payload.
pub fn run() {
    let clean = digest(&[]);
    let mut wrong = 0;
    for (name, first, last) in MASTERS {
        for at in [first, last] {
            check_eq!(out_of_reach(at), 0, "{name} at {at:#x} is out of reach");
        }
    }
    for at in NOTHING {
        wrong += out_of_reach(at);
    }
    check_eq!(wrong, 0, "what no device tree names is out of reach as well");
    let m = machine::get();
    check!(probe::load32(m.uart + 0xfe0) == Ok(0x11), "the UART is the host's");
    check!(probe::load32(gic::get().dist() + 4).is_ok(), "the GIC distributor too");
    check!(probe::load32(gic::get().local() + 4).is_ok(), "and its part for this CPU");
    check!(probe::load32(0x0901_0000).is_ok(), "and the clock");
    check_eq!(digest(&[]), clean, "after all that every page is whose it was");
}

/// Whatever the host's own tables call it; answers how many accesses did not abort as they must.
fn out_of_reach(at: u64) -> u64 {
    let as_memory = trespass(mmu::window(at, Attr::Normal) + 0x10);
    let device = mmu::window(at, Attr::Device);
    let open = probe::load32(device).is_ok() || probe::store32(device, 0).is_ok();
    as_memory + u64::from(open)
}
