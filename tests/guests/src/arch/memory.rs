//! RAM keeps its contents; addresses without a device abort, at once and at the right vector.

use crate::mmu::{self, Attr};
use crate::trap::{self, ALIGNMENT, EXTERNAL, ec};
use crate::{check, check_eq, fp, machine, probe, read, start, timer, try_insn, write};

/// Nothing lives here in a Redan VM or on QEMU `virt`.
const NOWHERE: u64 = 0x0f80_0000;

pub fn run() {
    let m = machine::get();
    let end = m.ram.0 + m.ram.1;
    for (name, at) in [("first", m.ram.0 + 0x800), ("last", end - 8)] {
        // The image may begin there: put back what it was.
        let old = probe::load64(at);
        check!(mmu::touch(at, 0x1122_3344_5566_7788), "the {name} page of RAM is writable");
        let _ = probe::store64(at, old.unwrap_or(0));
    }
    let at = (start::image().1 + 0xffff) & !0xffff;
    check!(mmu::touch(at + 0xffd, 0x0123_4567_89ab_cdef), "an unaligned store may cross pages");
    check_eq!(probe::load8s(at + 0x1000 + 0xffd), Ok(0), "untouched RAM reads as zero");
    absent("a hole among the devices", NOWHERE, Attr::Device);
    absent("the address after the last RAM page", end, Attr::Normal);
    absent("a high address", 0x30_0000_0000, Attr::Normal);
    check!(
        probe::fetch(end)
            .is_err_and(|f| f.ec() == ec::FETCH && f.fsc() == EXTERNAL && f.far == end),
        "a fetch from after the RAM aborts"
    );
    empty_slots();
    alignment(m.uart);
    odd_forms(m.uart);
    translation(at);
    code(at);
    registers();
}

fn absent(name: &str, pa: u64, attr: Attr) {
    let va = mmu::window(pa, attr);
    type Load = (&'static str, fn(u64) -> probe::Outcome);
    let loads: [Load; 4] = [
        ("byte", probe::load8),
        ("halfword", probe::load16),
        ("word", probe::load32),
        ("doubleword", probe::load64),
    ];
    for (size, load) in loads {
        let fault = load(va).err();
        check!(
            fault.is_some_and(|f| f.kind == trap::SYNC
                && f.ec() == ec::DATA
                && f.fsc() == EXTERNAL
                && !f.wnr()),
            "{name}: a {size} load is an external abort"
        );
        check_eq!(fault.map(|f| f.far), Some(va), "{name}: FAR is the address");
    }
    let store = probe::store32(va, 1).err();
    check!(
        store.is_some_and(|f| f.ec() == ec::DATA && f.fsc() == EXTERNAL && f.wnr()),
        "{name}: a store is an external abort with WnR"
    );
}

/// The 32 virtio slots of QEMU's board: a driver sees that they are empty (virtio 1.2, 4.2.2).
fn empty_slots() {
    for slot in [0x0a00_0000, 0x0a00_3e00] {
        check_eq!(probe::load32(slot), Ok(0x7472_6976), "a virtio slot at {slot:#x} says so");
        check!(matches!(probe::load32(slot + 4), Ok(1 | 2)), "it has a version");
        check_eq!(probe::load32(slot + 8), Ok(0), "and no device");
    }
}

fn alignment(uart: u64) {
    // Device memory: an alignment fault by the architecture, but QEMU lets it through.
    check!(probe::load32(uart + 0x19).is_ok_or_abort(), "an unaligned Device load answers");
    let words = [0u64; 6];
    let at = (&raw const words as u64 + 15) & !15;
    write!("sctlr_el1", mmu::SCTLR | 2);
    let fault = probe::load32(at + 1).err();
    write!("sctlr_el1", mmu::SCTLR);
    check!(
        fault.is_some_and(|f| f.fsc() == ALIGNMENT && f.far == at + 1),
        "SCTLR_EL1.A makes unaligned loads fault"
    );
    check!(
        probe::load_exclusive(at + 12).is_err_and(|f| f.fsc() == ALIGNMENT),
        "an exclusive load across 16 bytes is an alignment fault"
    );
}

/// Instructions whose abort syndrome describes no single register (DDI0487: ISV = 0), and odd
/// sizes: a hypervisor cannot emulate them all, but must answer each.
fn odd_forms(uart: u64) {
    let fr = uart + 0x18;
    let word = probe::load32(fr);
    check!(word.is_ok(), "a word load from the UART works");
    check_eq!(probe::load8(fr), word.map(|v| v & 0xff), "a byte load gives the low byte");
    check_eq!(probe::load16(fr), word.map(|v| v & 0xffff), "a halfword load gives the low half");
    check_eq!(
        probe::load8s(fr),
        word.map(|v| v as u8 as i8 as i64 as u64),
        "a sign-extending byte load extends"
    );
    check!(probe::load64(fr).is_ok_or_abort(), "a doubleword load answers");
    check!(probe::load_pair(fr).is_ok_or_abort(), "a load pair answers");
    check!(probe::store_pair(uart + 0x38, 0).is_ok_or_abort(), "a store pair answers");
    check!(probe::load_exclusive(fr).is_ok_or_abort(), "an exclusive load answers");
    let normal = mmu::window(uart, Attr::Normal);
    check!(probe::load32(normal + 0x19).is_ok_or_abort(), "an unaligned emulated load answers");
    check!(
        try_insn!("dc civac, {}", normal).is_ok_or_abort(),
        "cache maintenance on a device answers"
    );
    let writeback = try_insn!("ldr wzr, [{0}], #8", fr);
    check!(writeback.is_ok_or_abort(), "a load that moves its base register answers");
    if read!("id_aa64isar0_el1") >> 20 & 0xf >= 2 {
        let atomic = try_insn!(".arch_extension lse\nstadd wzr, [{}]\n.arch_extension nolse", fr);
        check!(atomic.is_ok_or_abort(), "an atomic addition answers");
    }
    // On the reference machine this would switch the UART off.
    if !machine::get().reference && read!("dczid_el0") & 1 << 4 == 0 {
        let zero = try_insn!("dc zva, {}", normal);
        check!(
            zero.is_err_and(|f| f.ec() == ec::DATA && f.fsc() == EXTERNAL && f.wnr()),
            "zeroing a block of a device is an external abort (Redan)"
        );
    }
    check!(probe::store32(uart + 0xfe0, 0).is_ok(), "a store to a read-only register is ignored");
    write_xzr(uart);
}

fn write_xzr(uart: u64) {
    let old = probe::load32(uart + 0x24);
    check!(try_insn!("str wzr, [{}]", uart + 0x24).is_ok(), "a store of wzr works");
    check_eq!(probe::load32(uart + 0x24), Ok(0), "and stores zero, not the stack pointer");
    // A load into xzr must not change anything.
    check!(try_insn!("ldr wzr, [{}]", uart + 0x24).is_ok(), "a load into wzr works");
    let _ = probe::store32(uart + 0x24, old.unwrap_or(0));
}

trait Answered {
    fn is_ok_or_abort(&self) -> bool;
}

impl<T> Answered for probe::Outcome<T> {
    fn is_ok_or_abort(&self) -> bool {
        match self {
            Ok(_) => true,
            Err(f) => f.ec() == ec::DATA && matches!(f.fsc(), EXTERNAL | ALIGNMENT),
        }
    }
}

fn translation(at: u64) {
    let outcome = try_insn!("at s1e1r, {}", at);
    let par = read!("par_el1");
    check!(outcome.is_ok() && par & 1 == 0, "AT S1E1R succeeds on RAM");
    check_eq!(par & 0x000f_ffff_ffff_f000, at & !0xfff, "and PAR_EL1 has the address");
    let _ = try_insn!("at s1e1r, {}", 0x40_0000_0000);
    check_eq!(read!("par_el1") & 1, 1, "AT S1E1R fails where nothing is mapped");
    // A stage-1 walk through a table that lies where no memory is: an abort on the walk.
    let hole = mmu::window_table(NOWHERE);
    let fault = probe::load64(hole).err();
    check!(
        fault.is_some_and(|f| f.ec() == ec::DATA && (0x14..=0x17).contains(&f.fsc())),
        "a table outside memory gives an external abort on the walk"
    );
    let fault = try_insn!("at s1e1r, {}", hole).err();
    check!(
        fault.is_some_and(|f| f.ec() == ec::DATA && (0x14..=0x17).contains(&f.fsc())),
        "also of an address translation instruction"
    );
    let _ = mmu::window(at, Attr::Normal);
}

/// Code written, made visible, and run; then changed and run again.
fn code(at: u64) {
    for value in [0x1234u64, 0x4321] {
        let movz = 0xd280_0000 | value << 5; // movz x0, #value
        let _ = probe::store32(at, movz);
        let _ = probe::store32(at + 4, 0xd65f_03c0); // ret
        let ok = try_insn!("dc cvau, {}", at).is_ok();
        let _ = try_insn!("dsb ish");
        let ok = ok && try_insn!("ic ivau, {}", at).is_ok();
        let _ = try_insn!("dsb ish\nisb");
        let got: u64;
        // SAFETY:
        // 1. The two instructions just written follow the C ABI.
        unsafe {
            core::arch::asm!("blr {a}", a = in(reg) at, lateout("x0") got, clobber_abi("C"));
        }
        check!(ok && got == value, "code that was written runs ({value:#x})");
    }
}

/// Values that only a correct save and restore keeps, across many exits.
fn registers() {
    let words = fp::pattern(0x77);
    fp::load(&words);
    write!("tpidr_el0", 0x1111);
    write!("tpidr_el1", 0x2222);
    write!("tpidrro_el0", 0x3333);
    write!("contextidr_el1", 0x4444);
    write!("afsr0_el1", 0);
    write!("par_el1", 0x5555_5000);
    let uart = machine::get().uart;
    let end = timer::now() + timer::ticks(50);
    let mut rounds = 0u64;
    while timer::now() < end {
        let _ = probe::load32(uart + 0x18);
        rounds += 1;
    }
    check!(rounds > 10, "the UART answered {} times", if rounds > 10 { "many" } else { "few" });
    check!(fp::store() == words, "FP registers survive emulated accesses");
    check_eq!(
        [read!("tpidr_el0"), read!("tpidr_el1"), read!("tpidrro_el0"), read!("contextidr_el1")],
        [0x1111, 0x2222, 0x3333, 0x4444],
        "thread and context registers survive"
    );
    check_eq!(read!("par_el1"), 0x5555_5000, "PAR_EL1 survives");
}
