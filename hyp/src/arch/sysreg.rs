//! Registers that `aarch64-cpu` does not have, and barriers.
//!
//! Unlike that crate's, these accessors are no `nomem`: the compiler moves no memory access across
//! them. What still needs a barrier for the CPU is said where they are used.

use core::arch::asm;

use aarch64_cpu::registers::HCR_EL2;
use tock_registers::interfaces::{Readable, Writeable};

macro_rules! readable {
    ($($(#[$doc:meta])* $name:ident = $asm:literal;)*) => {
        $(
            $(#[$doc])*
            ///
            /// On a CPU without it this is undefined: an exception in EL2, which is a panic.
            pub fn $name() -> u64 {
                let value: u64;
                // SAFETY: 1. Reading this register has no side effect.
                unsafe {
                    asm!(concat!("mrs {}, ", $asm), out(reg) value, options(nostack, preserves_flags));
                }
                value
            }
        )*
    };
}

macro_rules! writable {
    ($($(#[$doc:meta])* $name:ident = $asm:literal;)*) => {
        $(
            $(#[$doc])*
            ///
            /// On a CPU without it this is undefined: an exception in EL2, which is a panic.
            pub fn $name(value: u64) {
                // SAFETY: 1. This register governs EL1 and EL0 only, not EL2's own code and memory.
                unsafe {
                    asm!(concat!("msr ", $asm, ", {}"), in(reg) value, options(nostack, preserves_flags));
                }
            }
        )*
    };
}

readable! {
    /// CTR_EL0: the smallest cache lines, and what maintenance the CPU needs at all.
    ctr_el0 = "ctr_el0";
    /// DCZID_EL0: how much `dc zva` clears.
    dczid_el0 = "dczid_el0";
    /// ICH_ELRSR_EL2: which list registers are empty.
    ich_elrsr_el2 = "s3_4_c12_c11_5";
    /// OSLSR_EL1: the OS lock's state.
    oslsr_el1 = "oslsr_el1";
    /// PMUSERENR_EL0: what EL0 may do to the PMU.
    pmuserenr_el0 = "pmuserenr_el0";
    /// PMCR_EL0: number of event counters in bits 15:11.
    pmcr_el0 = "pmcr_el0";
}

writable! {
    /// OSLAR_EL1: the OS lock.
    set_oslar_el1 = "oslar_el1";
    /// PMUSERENR_EL0: what EL0 may do to the PMU.
    set_pmuserenr_el0 = "pmuserenr_el0";
    /// VDISR_EL2: what DISR_EL1 is while HCR_EL2.AMO is set (FEAT_RAS).
    set_vdisr_el2 = "s3_4_c12_c1_1";
    /// HSTR_EL2: traps of AArch32 CP15 accesses.
    set_hstr_el2 = "hstr_el2";
    /// VPIDR_EL2: what MIDR_EL1 reads at EL1.
    set_vpidr_el2 = "vpidr_el2";
    /// HCRX_EL2: more of HCR_EL2 (FEAT_HCX).
    set_hcrx_el2 = "s3_4_c1_c2_2";
    /// HFGRTR_EL2: fine-grained read traps (FEAT_FGT).
    set_hfgrtr_el2 = "s3_4_c1_c1_4";
    /// HFGWTR_EL2: fine-grained write traps.
    set_hfgwtr_el2 = "s3_4_c1_c1_5";
    /// HFGITR_EL2: fine-grained instruction traps.
    set_hfgitr_el2 = "s3_4_c1_c1_6";
    /// HDFGRTR_EL2: fine-grained debug read traps.
    set_hdfgrtr_el2 = "s3_4_c3_c1_4";
    /// HDFGWTR_EL2: fine-grained debug write traps.
    set_hdfgwtr_el2 = "s3_4_c3_c1_5";
    /// HAFGRTR_EL2: fine-grained traps of the activity monitors (FEAT_FGT with FEAT_AMUv1).
    set_hafgrtr_el2 = "s3_4_c3_c1_6";
}

/// `isb`: what was written before takes effect for what follows.
#[inline(always)]
pub fn isb() {
    aarch64_cpu::asm::barrier::isb(aarch64_cpu::asm::barrier::SY);
}

/// `dsb ish`: memory accesses and maintenance before it are complete on all CPUs.
#[inline(always)]
pub fn dsb_ish() {
    aarch64_cpu::asm::barrier::dsb(aarch64_cpu::asm::barrier::ISH);
}

/// `dsb sy`: as [`dsb_ish`], for every observer there is.
#[inline(always)]
pub fn dsb_sy() {
    aarch64_cpu::asm::barrier::dsb(aarch64_cpu::asm::barrier::SY);
}

/// `dsb ishst`: stores before it are visible to all CPUs and table walkers.
#[inline(always)]
pub fn dsb_ishst() {
    aarch64_cpu::asm::barrier::dsb(aarch64_cpu::asm::barrier::ISHST);
}

/// `dsb nsh`: as [`dsb_ish`], for this CPU alone.
#[inline(always)]
pub fn dsb_nsh() {
    aarch64_cpu::asm::barrier::dsb(aarch64_cpu::asm::barrier::NSH);
}

/// Waits for an event, of which [`send_event`] makes one; may return without.
#[inline(always)]
pub fn wait_for_event() {
    aarch64_cpu::asm::wfe();
}

/// Wakes all CPUs that wait for one, or soon will; what was written before is seen by them.
#[inline(always)]
pub fn send_event() {
    dsb_sy();
    aarch64_cpu::asm::sev();
}

/// HCR_EL2.{FMO, IMO, AMO}: interrupts and SErrors come to EL2.
const ROUTED_HERE: u64 = 0b111 << 3;

/// Waits for an interrupt or SError of EL1's, and leaves it pending: everything is masked here. What
/// only EL1 can take need not wake a CPU that is in EL2 (DDI0487 D1, "WFI wake-up events"), so in the
/// meantime it comes here.
pub fn wait_for_interrupt() {
    let hcr = HCR_EL2.get();
    HCR_EL2.set(hcr | ROUTED_HERE);
    isb();
    dsb_ish();
    aarch64_cpu::asm::wfi();
    HCR_EL2.set(hcr);
    isb();
}

/// Stops this CPU for good.
pub fn park() -> ! {
    loop {
        aarch64_cpu::asm::wfe();
    }
}
