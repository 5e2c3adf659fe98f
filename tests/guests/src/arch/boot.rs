//! The arm64 boot protocol: the state in which a kernel gets the machine.

use crate::{check, check_eq, machine, read, start};

pub fn run() {
    let e = start::entry_state();
    let m = machine::get();
    check_eq!(e.x[1..4], [0, 0, 0], "x1 to x3 are 0 at entry");
    check_eq!(e.daif, 0x3c0, "all exceptions are masked at entry");
    check_eq!(e.sctlr & 0b101, 0, "MMU and data cache are off at entry");
    check_eq!(read!("CurrentEL"), 1 << 2, "the kernel starts at EL1");
    check_eq!(e.spsel, 1, "EL1 starts on its own stack pointer");
    check!(e.x[0] != 0 && e.x[0].is_multiple_of(8), "x0 is an aligned device tree");
    check!(machine::tree().is_some(), "the device tree has magic and size");
    check!(m.dtb_size <= 2 << 20, "the device tree is at most 2 MiB");
    let (image, end) = start::image();
    check_eq!(image % (2 << 20), 0, "text_offset 0: the image is at a 2 MiB boundary");
    check!(m.dtb >= end || m.dtb + m.dtb_size <= image, "the device tree is outside the image");
    check!(m.ram.0 <= image && end <= m.ram.0 + m.ram.1, "the image is in the memory described");
    check!(
        m.ram.0 <= m.dtb && m.dtb + m.dtb_size <= m.ram.0 + m.ram.1,
        "the device tree is in the memory described"
    );
    check!(read!("cntfrq_el0") >= 1_000_000, "CNTFRQ is set");
    check_eq!(read!("mpidr_el1") & 0xff_00ff_ffff, m.cpu0, "MPIDR is the cpu node's reg");
    check!(read!("mpidr_el1") & 1 << 31 != 0, "MPIDR bit 31 is one");
    let timer = machine::tree().and_then(|t| {
        let node = t.find_compatible(&["arm,armv8-timer"])?;
        let cells = node.property("interrupts")?.value;
        Some([1, 4, 7, 10].map(|i| cells.get(i * 4 + 3).copied().unwrap_or(0)))
    });
    check_eq!(timer, Some([13, 14, 11, 10]), "the timer node names PPIs 13, 14, 11, 10");
    let enabled = machine::tree()
        .and_then(|t| t.cpus().next().map(|c| c.properties().any(|p| p.name == "enable-method")));
    // QEMU leaves the method out on a machine with one CPU.
    check!(m.reference || enabled == Some(true), "the cpu node has an enable-method (Redan)");
}
