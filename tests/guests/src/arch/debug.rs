//! Self-hosted debug (DDI0487 D2): breakpoints, watchpoints and software step at EL1 and EL0, and
//! the registers that control them.

use core::arch::global_asm;

use super::user;
use crate::trap::{Fault, SYNC, SYNC_EL0};
use crate::{check, check_eq, machine, mmu, probe, read, timer, try_insn, try_read, write};

global_asm!(
    ".balign 64",
    ".global d_here, d_id, d_call",
    "d_here: nop",
    "nop",
    "ret",
    "d_id: mrs x9, id_aa64dfr0_el1", // a hypervisor emulates this one
    "nop",
    "d_call: hvc #0", // x0 is the address of this: no function of anybody's
    "nop",
);

unsafe extern "C" {
    fn d_here();
    fn d_id();
    fn d_call();
}

/// `MDSCR_EL1`.
const SS: u64 = 1;
const KDE: u64 = 1 << 13;
const MDE: u64 = 1 << 15;
/// `SPSR`: software step; EL1h with all but debug exceptions masked.
const SPSR_SS: u64 = 1 << 21;
const EL1H: u64 = 0x1c5;

/// Control registers: on, at which levels.
const E: u64 = 1;
const EL1: u64 = 1 << 1;
const EL0: u64 = 2 << 1;
const WORD: u64 = 0xf << 5;
const LOAD: u64 = 1 << 3;
const STORE: u64 = 2 << 3;

/// Exception classes from EL0; one more from EL1.
const BREAKPOINT: u64 = 0x30;
const STEP: u64 = 0x32;
const WATCHPOINT: u64 = 0x34;

pub fn run() {
    write!("osdlr_el1", 0);
    write!("oslar_el1", 0);
    registers();
    locks();
    breakpoints();
    linked();
    watchpoints();
    step();
    off();
    mmu::allow_el0(1, false);
}

/// Everything disabled.
fn off() {
    write!("mdscr_el1", 0);
    write!("dbgbcr0_el1", 0);
    write!("dbgwcr0_el1", 0);
}

/// Calls `f` with this `MDSCR_EL1` and with debug exceptions unmasked, or not.
fn debugging<T>(mdscr: u64, unmasked: bool, f: impl FnOnce() -> T) -> T {
    write!("mdscr_el1", mdscr);
    if unmasked {
        let _ = try_insn!("msr daifclr, #8\nisb");
    }
    let result = f();
    let _ = try_insn!("msr daifset, #8\nisb");
    write!("mdscr_el1", 0);
    result
}

fn address(code: unsafe extern "C" fn()) -> u64 {
    code as usize as u64
}

macro_rules! pairs {
    ($($n:literal)*) => {
        /// Writes to each pair of registers, and reads all back after a while: how many are there,
        /// and how many kept what was written.
        fn points() -> ([u64; 2], [u64; 2]) {
            let (mut there, mut kept) = ([0; 2], [0; 2]);
            $(
                let word = 0xffff_8000_1234_0000 + $n * 64;
                for (found, outcome) in there.iter_mut().zip([
                    try_insn!(concat!("msr dbgbvr", $n, "_el1, {}"), word),
                    try_insn!(concat!("msr dbgwvr", $n, "_el1, {}"), word + 8),
                ]) {
                    *found += u64::from(outcome.is_ok());
                }
                let _ = try_insn!(concat!("msr dbgbcr", $n, "_el1, {}"), EL1 | WORD | $n << 16);
                let _ = try_insn!(concat!("msr dbgwcr", $n, "_el1, {}"), EL0 | WORD | $n << 16);
            )*
            timer::sleep(20);
            $(
                let word = 0xffff_8000_1234_0000 + $n * 64;
                kept[0] += u64::from(
                    try_read!(concat!("dbgbvr", $n, "_el1")) == Ok(word)
                        && try_read!(concat!("dbgbcr", $n, "_el1")) == Ok(EL1 | WORD | $n << 16)
                );
                kept[1] += u64::from(
                    try_read!(concat!("dbgwvr", $n, "_el1")) == Ok(word + 8)
                        && try_read!(concat!("dbgwcr", $n, "_el1")) == Ok(EL0 | WORD | $n << 16)
                );
            )*
            $(
                let _ = try_insn!(concat!("msr dbgbcr", $n, "_el1, {}"), 0);
                let _ = try_insn!(concat!("msr dbgwcr", $n, "_el1, {}"), 0);
            )*
            (there, kept)
        }
    };
}
pairs! { 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 }

fn registers() {
    let dfr0 = read!("id_aa64dfr0_el1");
    let announced = [(dfr0 >> 12 & 0xf) + 1, (dfr0 >> 20 & 0xf) + 1];
    let (there, kept) = points();
    check_eq!(there, announced, "as many breakpoints and watchpoints as announced, no more");
    check_eq!(kept, announced, "each of them keeps what is written, across exits");
    write!("mdscr_el1", SS | KDE | MDE | 1 << 12);
    check_eq!(read!("mdscr_el1") & 0xb001, 0xb001, "MDSCR_EL1 keeps SS, TDCC, KDE and MDE");
    write!("mdscr_el1", 0);
    check_eq!(read!("mdscr_el1") & 0xb001, 0, "and loses them again");
    write!("s2_0_c7_c9_6", 0xff); // DBGCLAIMCLR_EL1
    write!("s2_0_c7_c8_6", 0x21); // DBGCLAIMSET_EL1
    check_eq!(read!("s2_0_c7_c9_6"), 0x21, "claim tags stay set");
    check_eq!(read!("s2_0_c7_c8_6"), 0xff, "there are eight of them");
    write!("s2_0_c7_c9_6", 0x01);
    check_eq!(read!("s2_0_c7_c9_6"), 0x20, "and are cleared one by one");
    write!("s2_0_c7_c9_6", 0xff);
}

fn locks() {
    check_eq!(read!("oslsr_el1"), 0b1000, "OSLSR_EL1 says that the OS lock is open");
    write!("oslar_el1", 1);
    check_eq!(read!("oslsr_el1"), 0b1010, "and that it is held, after OSLAR_EL1 took it");
    write!("oslar_el1", 0);
    check_eq!(read!("oslsr_el1"), 0b1000, "and that it is open again");
    if read!("id_aa64dfr0_el1") >> 36 & 0xf == 0 {
        write!("osdlr_el1", 1);
        check_eq!(read!("osdlr_el1") & 1, 1, "OSDLR_EL1.DLK keeps what is written");
        check!(breaks(E | EL1 | WORD, MDE | KDE, true).is_none(), "and stops debug exceptions");
        write!("osdlr_el1", 0);
    } else {
        write!("osdlr_el1", 1);
        check_eq!(read!("osdlr_el1"), 0, "without a double lock OSDLR_EL1 is zero");
    }
}

/// Calls the function at breakpoint 0; answers the exception.
fn breaks(control: u64, mdscr: u64, unmasked: bool) -> Option<Fault> {
    write!("dbgbvr0_el1", address(d_here));
    write!("dbgbcr0_el1", control);
    let fault = debugging(mdscr, unmasked, || probe::fetch(address(d_here)).err());
    write!("dbgbcr0_el1", 0);
    fault
}

fn breakpoints() {
    let fault = breaks(E | EL1 | WORD, MDE | KDE, true);
    check!(
        fault.is_some_and(|f| f.kind == SYNC && f.ec() == BREAKPOINT + 1),
        "a breakpoint at EL1 is an exception of its own class"
    );
    check_eq!(fault.map(|f| f.elr), Some(address(d_here)), "with ELR at the instruction");
    check_eq!(fault.map(|f| f.esr & 0x3f), Some(0x22), "and the status code of debug exceptions");
    let silent = [
        ("without E", EL1 | WORD, MDE | KDE, true),
        ("for EL0 only", E | EL0 | WORD, MDE | KDE, true),
        ("without MDE", E | EL1 | WORD, KDE, true),
        ("without KDE", E | EL1 | WORD, MDE, true),
        ("with PSTATE.D", E | EL1 | WORD, MDE | KDE, false),
        ("for the Secure state", E | EL1 | WORD | 2 << 14, MDE | KDE, true),
    ];
    for (how, control, mdscr, unmasked) in silent {
        check!(breaks(control, mdscr, unmasked).is_none(), "{how} it does not happen at EL1");
    }
    // The last of them works as the first does.
    let at = mmu::in_window(address(user::u_svc));
    let user = |control, mdscr| {
        write!("dbgbvr0_el1", at);
        write!("dbgbcr0_el1", control);
        let fault = debugging(mdscr, false, || user::enter(user::u_svc, 0));
        write!("dbgbcr0_el1", 0);
        fault
    };
    let fault = user(E | EL0 | WORD, MDE);
    check!(
        fault.is_some_and(|f| f.kind == SYNC_EL0 && f.ec() == BREAKPOINT && f.elr == at),
        "a breakpoint at EL0 arrives at EL1's lower-EL vector"
    );
    for (how, control, mdscr) in [
        ("for EL1 only", E | EL1 | WORD, MDE),
        ("without MDE", E | EL0 | WORD, 0),
        ("without E", EL0 | WORD, MDE),
    ] {
        let fault = user(control, mdscr);
        check!(fault.is_some_and(|f| f.ec() == 0x15), "{how} it does not happen at EL0");
    }
}

/// A breakpoint that counts in one context only: the last breakpoint can compare contexts.
fn linked() {
    let last = read!("id_aa64dfr0_el1") >> 12 & 0xf;
    let old = read!("contextidr_el1");
    for (context, hits) in [(0x1234, true), (0x1235, false)] {
        set_last(last, 0x1234, E | WORD | 3 << 20);
        write!("contextidr_el1", context);
        let fault = breaks(E | EL1 | WORD | 1 << 20 | last << 16, MDE | KDE, true);
        check_eq!(
            fault.is_some(),
            hits,
            "a breakpoint linked to a context, in context {context:#x}"
        );
    }
    set_last(last, 0, 0);
    write!("contextidr_el1", old);
}

macro_rules! set_last {
    ($($n:literal)*) => {
        fn set_last(n: u64, value: u64, control: u64) {
            match n {
                $($n => {
                    let _ = try_insn!(concat!("msr dbgbvr", $n, "_el1, {}"), value);
                    let _ = try_insn!(concat!("msr dbgbcr", $n, "_el1, {}\nisb"), control);
                })*
                _ => {}
            }
        }
    };
}
set_last! { 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 }

/// Sets watchpoint 0 and makes an access.
fn watches<T>(at: u64, control: u64, access: impl FnOnce() -> probe::Outcome<T>) -> Option<Fault> {
    write!("dbgwvr0_el1", at);
    write!("dbgwcr0_el1", E | control);
    let fault = debugging(MDE | KDE, true, || access().err());
    write!("dbgwcr0_el1", 0);
    fault.filter(|f| f.ec() == WATCHPOINT + 1)
}

fn watchpoints() {
    let words = [[0u64; 16]; 2];
    let at = (&raw const words as u64 + 127) & !127;
    const ALL: u64 = 0xff << 5;
    let fault = watches(at, EL1 | LOAD | ALL, || probe::load64(at));
    check!(fault.is_some_and(|f| f.kind == SYNC && !f.wnr()), "a load is watched");
    check_eq!(fault.map(|f| f.far), Some(at), "with its address in FAR");
    check_eq!(fault.map(|f| f.esr & 0x3f), Some(0x22), "and the status code of debug exceptions");
    let fault = watches(at, EL1 | STORE | ALL, || probe::store64(at, 1));
    check!(fault.is_some_and(|f| f.wnr() && f.far == at), "a store is watched, with WnR");
    check_eq!(probe::load64(at), Ok(0), "and does not happen");
    let silent = watches(at, EL1 | LOAD | ALL, || probe::store64(at, 2));
    check!(silent.is_none(), "a watchpoint for loads ignores stores");
    check_eq!(probe::load64(at), Ok(2), "which happen");
    let silent = watches(at, EL1 | STORE | ALL, || probe::load64(at));
    check!(silent.is_none(), "a watchpoint for stores ignores loads");
    let silent = watches(at, EL0 | LOAD | ALL, || probe::load64(at));
    check!(silent.is_none(), "a watchpoint for EL0 ignores EL1");
    let both = EL1 | LOAD | STORE;
    let byte = |n: u64| 1 << (5 + n);
    let hit = |control, load: fn(u64) -> probe::Outcome, offset| {
        watches(at, both | control, || load(at + offset)).is_some()
    };
    check_eq!(
        core::array::from_fn(|n| hit(byte(3), probe::load8, n as u64)),
        [false, false, false, true, false, false, false, false],
        "a byte select watches that byte"
    );
    check!(hit(byte(3), probe::load32, 0), "and any access that includes it");
    check!(!hit(byte(3), probe::load32, 4), "but no other");
    check!(hit(0xf << 9, probe::load32, 4), "four selected bytes are a word");
    // 64 bytes.
    let range = ALL | 6 << 24;
    check_eq!(
        [0, 32, 63, 64].map(|offset| hit(range, probe::load8, offset)),
        [true, true, true, false],
        "a mask watches a range"
    );
    // An unprivileged load counts as EL0's. QEMU forgets which it was once stage 2 is on.
    if machine::get().reference {
        let code = address(user::u_svc);
        mmu::allow_el0((code >> 30) as usize, true);
        let at = mmu::in_window(code) & !7;
        let load = || try_insn!("ldtr xzr, [{}]", at);
        let fault = watches(at, EL0 | LOAD | ALL, load);
        check!(fault.is_some(), "an unprivileged load is watched as EL0's (reference)");
        let silent = watches(at, EL1 | LOAD | ALL, load);
        check!(silent.is_none(), "and not as EL1's (reference)");
    }
    check!(probe::load64(at).is_ok(), "with the watchpoint off nothing is watched");
}

/// Single steps at EL1, also over what a hypervisor emulates.
fn step() {
    for (name, code) in [
        ("a plain instruction", d_here as unsafe extern "C" fn()),
        ("an ID register", d_id),
        ("a hypervisor call", d_call),
    ] {
        let fault = debugging(SS | KDE, false, || user::enter_at(address(code), EL1H | SPSR_SS));
        check!(
            fault.is_some_and(|f| f.kind == SYNC && f.ec() == STEP + 1),
            "software step: EL1 stops after {name}"
        );
        check_eq!(fault.map(|f| f.elr), Some(address(code) + 4), "exactly one instruction on");
    }
    let fault = debugging(SS | KDE, false, || user::enter_at(address(d_here), EL1H));
    check!(
        fault.is_some_and(|f| f.ec() == STEP + 1 && f.elr == address(d_here)),
        "software step: without SPSR.SS EL1 stops before the instruction"
    );
}
