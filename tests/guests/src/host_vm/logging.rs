//! Write protection and ageing, exact to the page.

use hyp_abi::Hypercall as H;
use hyp_abi::run::{Exit, exit_flags};

use super::code;
use super::cpu::{Cpu, DATA, DATA_PAGES, RWX};
use crate::hcall;
use crate::host::must;
use crate::{check_eq, timer};

const GFN: u64 = DATA >> 12;

pub fn run() {
    let cpu = Cpu::new(RWX);
    let all = (1 << DATA_PAGES) - 1;
    let mut sets = [0x0001, 0x8000, 0x00f0, 0x5a5a, all, 0, 0, 0];
    let mut seed = timer::now() | 1;
    for slot in sets.iter_mut().skip(5) {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        *slot = seed >> 33 & all;
    }
    for set in sets {
        check_eq!(written(&cpu, set), set, "write-protected: exactly the pages {set:#06x} fault");
        check_eq!(touched(&cpu, set, false), set, "aged: exactly the pages {set:#06x} are read");
        check_eq!(touched(&cpu, set, true), set, "aged: exactly the pages {set:#06x} are written");
    }
    part(&cpu);
    cpu.end();
}

/// Write-protects all data pages, lets the guest write to `set`; answers which faulted.
fn written(cpu: &Cpu, set: u64) -> u64 {
    let a = hcall::call(H::Wrprotect, [cpu.vm.handle, GFN, DATA_PAGES, 0]);
    check_eq!((a.x1, a.rest[0]), (0, DATA_PAGES), "wrprotect visits all {DATA_PAGES} pages");
    must(H::TlbFlushVmid, [cpu.vm.handle, 0, 0, 0]);
    let mut faulted = 0;
    let mut out = cpu.start(code::writes(), &[(9, DATA), (10, set), (2, 1)]);
    for _ in 0..DATA_PAGES + 1 {
        if out.exit != Some(Exit::Abort) || out.flags & exit_flags::PERMISSION == 0 {
            break;
        }
        let gfn = out.ipa >> 12;
        faulted |= 1 << (gfn.wrapping_sub(GFN) & 63);
        must(H::RelaxPerms, [gfn, 3, 0, 0]);
        out = cpu.run(0);
    }
    check_eq!(out.exit, Some(Exit::Hvc), "the guest finished");
    faulted
}

fn young(cpu: &Cpu, mkold: u64) -> u64 {
    let a = hcall::call(H::TestClearYoung, [cpu.vm.handle, GFN, DATA_PAGES, mkold]);
    check_eq!(a.x1, i64::from(a.rest[0] != 0), "test_clear_young answers whether any is young");
    a.rest[0]
}

/// Ages all data pages, lets the guest read or write `set`; answers which are young.
fn touched(cpu: &Cpu, set: u64, write: bool) -> u64 {
    young(cpu, 1);
    must(H::TlbFlushVmid, [cpu.vm.handle, 0, 0, 0]);
    check_eq!(young(cpu, 0), 0, "once aged, none is young");
    let program = if write { code::writes() } else { code::reads() };
    let out = cpu.start(program, &[(9, DATA), (10, set), (2, 1)]);
    check_eq!(out.exit, Some(Exit::Hvc), "the guest finished without a fault for the host");
    young(cpu, 0)
}

/// Ranges that begin, end and have holes where the mapping does not.
fn part(cpu: &Cpu) {
    let h = cpu.vm.handle;
    let a = hcall::call(H::Wrprotect, [h, GFN - 0x100, 0x2000, 0]);
    check_eq!((a.x1, a.rest[0]), (0, 0x2000), "wrprotect skips holes");
    must(H::TlbFlushVmid, [h, 0, 0, 0]);
    let out = cpu.start(code::writes(), &[(9, DATA), (10, 1 << 7), (2, 1)]);
    check_eq!((out.exit, out.ipa), (Some(Exit::Abort), DATA + 0x7000), "and still protects");
    young(cpu, 1);
    must(H::Mkyoung, [GFN + 3, 0, 0, 0]);
    check_eq!(young(cpu, 1), 8, "mkyoung makes that page young");
    let a = hcall::call(H::TestClearYoung, [h, GFN + DATA_PAGES, 64, 0]);
    check_eq!((a.x1, a.rest[0]), (0, 0), "holes are not young");
}
