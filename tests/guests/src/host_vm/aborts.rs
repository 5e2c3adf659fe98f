//! Stage-2 aborts: emulated devices, missing pages, missing rights, injected aborts.

use hyp_abi::Hypercall as H;
use hyp_abi::run::{self, Exit, entry, exit_flags};

use super::code;
use super::cpu::{Cpu, DATA, Out, RWX};
use crate::host::{self, Vm, must, peek, poke};
use crate::{check, check_eq, try_insn};

const DEVICE: u64 = 0x0900_0000;
const READ_ONLY: u64 = 1;

pub fn run() {
    let cpu = Cpu::new(RWX);
    devices(&cpu);
    odd(&cpu);
    missing(&cpu);
    walk(&cpu);
    rights(&cpu);
    cpu.end();
}

/// Flags of an abort, without the size.
fn kind(out: Out) -> u64 {
    out.flags & !(3 << exit_flags::SIZE_SHIFT)
}

fn devices(cpu: &Cpu) {
    const GIVEN: u64 = 0xfedc_ba98_8765_9281;
    let loads = [
        ("LDRB W", 0, 0x81),
        ("LDRSB W", 0, 0xffff_ff81),
        ("LDRSB X", 0, 0xffff_ffff_ffff_ff81),
        ("LDRH W", 1, 0x9281),
        ("LDRSH W", 1, 0xffff_9281),
        ("LDRSH X", 1, 0xffff_ffff_ffff_9281),
        ("LDR W", 2, 0x8765_9281),
        ("LDRSW X", 2, 0xffff_ffff_8765_9281),
        ("LDR X", 3, GIVEN),
        ("LDR XZR", 3, GIVEN), // x1 keeps the last one's value
    ];
    let written = 0x1122_3344_5566_7788;
    let at = DEVICE + 0x18;
    let mut out = cpu.start(code::mmio(), &[(9, at), (1, ONES), (2, written)]);
    for (n, (name, size, expected)) in loads.into_iter().enumerate() {
        check_eq!(
            (out.exit, out.ipa, kind(out)),
            (Some(Exit::Abort), at, exit_flags::DECODED),
            "{name}: abort with the exact address"
        );
        check_eq!(out.flags >> exit_flags::SIZE_SHIFT & 3, size, "{name}: size");
        let pc = code::mmio() + 8 * n as u64;
        check_eq!(cpu.word(run::EXIT_PC), pc, "{name}: pc is at the instruction");
        let value = GIVEN & (ONES >> (64 - (8 << size)));
        out = cpu.complete(value);
        check_eq!((out.exit, cpu.args()[1]), (Some(Exit::Hvc), expected), "{name}: value");
        out = cpu.run(0);
    }
    let stores = [
        ("STRB", 0, written & 0xff),
        ("STRH", 1, written & 0xffff),
        ("STR W", 2, written & 0xffff_ffff),
        ("STR X", 3, written),
        ("STR XZR", 3, 0),
    ];
    for (name, size, expected) in stores {
        let flags = exit_flags::DECODED | exit_flags::WRITE;
        check_eq!(
            (out.exit, out.ipa, kind(out)),
            (Some(Exit::Abort), at, flags),
            "{name}: abort with the exact address"
        );
        check_eq!(out.flags >> exit_flags::SIZE_SHIFT & 3, size, "{name}: size");
        check_eq!(out.value & (ONES >> (64 - (8 << size))), expected, "{name}: value");
        out = cpu.complete(0);
        check_eq!(out.exit, Some(Exit::Hvc), "{name}: completed");
        check_eq!(cpu.args()[1..3], [GIVEN, written], "{name}: no register changed");
        if name != "STR XZR" {
            out = cpu.run(0);
        }
    }
    // The host may say more than the size holds; the guest must not see it.
    let out = cpu.start(code::mmio(), &[(9, at)]);
    check_eq!(out.exit, Some(Exit::Abort), "LDRB again");
    let out = cpu.complete(ONES);
    check_eq!((out.exit, cpu.args()[1]), (Some(Exit::Hvc), 0xff), "a value is cut to its size");
}

const ONES: u64 = u64::MAX;

fn odd(cpu: &Cpu) {
    let out = cpu.start(code::mmio_odd(), &[(9, DEVICE)]);
    check_eq!(
        (out.exit, kind(out)),
        (Some(Exit::Abort), 0),
        "LDP: abort whose syndrome describes no register"
    );
    check_eq!(out.ipa & !0xfff, DEVICE, "LDP: the page is known");
    let out = cpu.run(entry::INJECT_ABORT);
    let args = cpu.args();
    check_eq!(
        (out.exit, args[0]),
        (Some(Exit::Hvc), 0xe004),
        "INJECT_ABORT: at the guest's vector"
    );
    check_eq!((args[1] >> 26, args[1] & 0x3f), (0x25, 0x10), "INJECT_ABORT: external abort");
    check_eq!(args[1] >> 6 & 3, 0, "INJECT_ABORT: no write, no walk");
    check_eq!(args[2], DEVICE, "INJECT_ABORT: FAR");
    check_eq!(args[3], code::mmio_odd(), "INJECT_ABORT: ELR is the instruction");
    let out = cpu.start(code::store(), &[(9, DEVICE + 4)]);
    check_eq!(out.exit, Some(Exit::Abort), "a store");
    let out = cpu.run(entry::INJECT_ABORT);
    let args = cpu.args();
    check_eq!(out.exit, Some(Exit::Hvc), "INJECT_ABORT: after a store");
    check_eq!((args[1] >> 26, args[1] & 0x7f), (0x25, 0x50), "INJECT_ABORT: with WnR");
    check_eq!(args[2], DEVICE + 4, "INJECT_ABORT: and its FAR");
}

fn missing(cpu: &Cpu) {
    let hole = DATA + 0x10_0ff8;
    let out = cpu.start(code::load(), &[(9, hole)]);
    check_eq!((out.exit, out.ipa), (Some(Exit::Abort), hole), "a load from an unmapped gfn");
    check_eq!(
        out.flags & (exit_flags::WRITE | exit_flags::PERMISSION | exit_flags::FETCH),
        0,
        "is a read of nothing"
    );
    // The host maps the page, and the guest tries again by itself.
    let page = host::pages(1);
    poke(page + 0xff8, 0xabcd);
    Vm::map(page >> 12, hole >> 12, RWX);
    let out = cpu.run(0);
    check_eq!((out.exit, cpu.args()[1]), (Some(Exit::Hvc), 0xabcd), "mapped, the load succeeds");
    let out = cpu.start(code::store(), &[(9, hole + 0x1000), (2, 9)]);
    check_eq!(
        (out.exit, out.ipa, out.flags & exit_flags::WRITE),
        (Some(Exit::Abort), hole + 0x1000, exit_flags::WRITE),
        "a store to an unmapped gfn"
    );
    let out = cpu.start(code::jump(), &[(9, 0xdea_d000)]);
    check_eq!((out.exit, out.ipa), (Some(Exit::Abort), 0xdea_d000), "a jump to 0xdead000");
    check_eq!(out.flags & exit_flags::FETCH, exit_flags::FETCH, "is a fetch");
    check_eq!(cpu.word(run::EXIT_PC), 0xdea_d000, "pc is there");
    let out = cpu.run(entry::INJECT_ABORT);
    let args = cpu.args();
    check_eq!((out.exit, args[0]), (Some(Exit::Hvc), 0xe004), "its abort arrives at the vector");
    check_eq!((args[1] >> 26, args[1] & 0x3f), (0x21, 0x10), "as an instruction abort");
    check_eq!((args[2], args[3]), (0xdea_d000, 0xdea_d000), "with FAR and ELR");
    // Taken away while the guest has it in its TLB.
    let out = cpu.start(code::load(), &[(9, hole)]);
    check_eq!(out.exit, Some(Exit::Hvc), "the page is there");
    must(H::UnshareGuest, [cpu.vm.handle, hole >> 12, 1, 0]);
    let out = cpu.start(code::load(), &[(9, hole)]);
    check_eq!((out.exit, out.ipa), (Some(Exit::Abort), hole), "unshared, it is gone at once");
    check_eq!(peek(page + 0xff8), 0xabcd, "and the host has it, with its contents");
    // Beyond the IPA space and high addresses.
    for at in [1 << 32, (1 << 40) - 8, 1 << 40, 1 << 44, 1 << 47, 1 << 55, ONES & !7] {
        let out = cpu.start(code::load(), &[(9, at)]);
        let aborted = out.exit == Some(Exit::Abort) && out.ipa == at;
        let itself = out.exit == Some(Exit::Hvc) && cpu.args()[0] == 0xe004;
        check!(aborted || itself, "a load from {at:#x} goes to the host or to the guest's vector");
    }
}

fn walk(cpu: &Cpu) {
    let table = DATA + 0x20_0000;
    let tcr = 25 | 5 << 32;
    let regs = [(9, table), (10, tcr), (11, 0x30d0_0801)];
    let out = cpu.start(code::walk(), &regs);
    check_eq!(out.exit, Some(Exit::Abort), "a stage-1 table on an unmapped gfn");
    check_eq!(out.flags & exit_flags::S1PTW, exit_flags::S1PTW, "is said to be a walk");
    check_eq!(out.ipa & !0xfff, table, "with the table's page");
    // An identity block for the first 2 GiB: the guest goes on.
    let page = host::pages(1);
    poke(page, 0x401);
    poke(page + 8, 0x4000_0401);
    Vm::map(page >> 12, table >> 12, RWX);
    let out = cpu.run(0);
    check_eq!(out.exit, Some(Exit::Hvc), "mapped, the walk succeeds");
}

fn rights(cpu: &Cpu) {
    let at = DATA + 0x30_0000;
    let page = host::pages(1);
    Vm::map(page >> 12, at >> 12, READ_ONLY);
    let out = cpu.start(code::load(), &[(9, at)]);
    check_eq!(out.exit, Some(Exit::Hvc), "a read-only page can be read");
    let out = cpu.start(code::store(), &[(9, at + 8), (2, 0x77)]);
    check_eq!((out.exit, out.ipa), (Some(Exit::Abort), at + 8), "but not written: abort");
    let both = exit_flags::PERMISSION | exit_flags::WRITE;
    check_eq!(out.flags & both, both, "for want of permission");
    check_eq!(peek(page + 8), 0, "and nothing was written");
    must(H::RelaxPerms, [at >> 12, 3, 0, 0]);
    let out = cpu.run(0);
    check_eq!((out.exit, peek(page + 8)), (Some(Exit::Hvc), 0x77), "relaxed, the store succeeds");
    poke(page, 0xd400_0002); // hvc #0
    let _ = try_insn!("dsb ish\nic iallu\ndsb ish\nisb");
    let out = cpu.start(code::jump(), &[(9, at)]);
    check_eq!((out.exit, out.ipa), (Some(Exit::Abort), at), "a page without X cannot be executed");
    let both = exit_flags::PERMISSION | exit_flags::FETCH;
    check_eq!(out.flags & both, both, "for want of permission");
    must(H::RelaxPerms, [at >> 12, 13, 0, 0]);
    let out = cpu.run(0);
    check_eq!(out.exit, Some(Exit::Hvc), "relaxed, it executes");
    let out = cpu.start(code::store(), &[(9, at + 8), (2, 0x78)]);
    check_eq!((out.exit, peek(page + 8)), (Some(Exit::Hvc), 0x78), "relaxing takes nothing away");
}
