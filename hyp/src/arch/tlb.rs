//! Barriers and TLB maintenance for stage 2, in the order that pKVM found out (DDI0487 D8.14).
//!
//! `TLBI IPAS2E1IS` drops stage-2 entries only; entries that combine both stages live on until the
//! `VMALLE1IS` behind it. The barrier between the two matters: without it another CPU may make a
//! combined entry again out of the old stage-2 one, after its combined entries were dropped.

use core::arch::asm;

use hyp_abi::Ipa;
use hyp_s2::Regime;

use super::switch;
use super::sysreg::{dsb_ish, dsb_ishst, dsb_nsh, isb};

/// One TLB instruction, with or without an operand.
macro_rules! tlbi {
    ($op:literal) => {
        // SAFETY: 1. Dropping entries makes walks happen again, and nothing else.
        unsafe { asm!(concat!("tlbi ", $op), options(nostack, preserves_flags)) }
    };
    ($op:literal, $value:expr) => {
        // SAFETY: 1. Dropping entries makes walks happen again, and nothing else.
        unsafe { asm!(concat!("tlbi ", $op, ", {}"), in(reg) $value, options(nostack, preserves_flags)) }
    };
}

/// The IPA's page number, which the instruction takes in bits 35:0. No level hint: it needs FEAT_TTL
/// and gains little here.
fn operand(ipa: Ipa) -> u64 {
    ipa.frame().raw()
}

/// Everything of one IPA, on all CPUs.
pub fn inval_ipa(regime: Regime, ipa: Ipa) {
    dsb_ishst();
    switch::in_regime(regime, || {
        tlbi!("ipas2e1is", operand(ipa));
        dsb_ish();
        tlbi!("vmalle1is");
        dsb_ish();
        isb();
    });
}

/// Everything of one IPA, on this CPU.
pub fn inval_ipa_local(regime: Regime, ipa: Ipa) {
    dsb_ishst();
    switch::in_regime(regime, || {
        tlbi!("ipas2e1", operand(ipa));
        dsb_nsh();
        tlbi!("vmalle1");
        dsb_nsh();
        isb();
    });
}

/// Everything of a VMID, on all CPUs.
pub fn inval_vmid(regime: Regime) {
    dsb_ishst();
    switch::in_regime(regime, || {
        tlbi!("vmalls12e1is");
        dsb_ish();
        isb();
    });
}

/// Stage 1 of a VMID on this CPU, and instructions fetched by it: another vCPU of the VM comes.
pub fn switch_vcpu(regime: Regime) {
    switch::in_regime(regime, || {
        tlbi!("vmalle1");
        // SAFETY: 1. Instruction caches hold no state but copies.
        unsafe { asm!("ic iallu", options(nostack, preserves_flags)) };
        dsb_nsh();
        isb();
    });
}

/// Everything of EL1 and EL0 whatever the VMID, on this CPU: once, before the host first runs.
pub fn inval_all_local() {
    dsb_nsh();
    tlbi!("alle1");
    dsb_nsh();
    isb();
}
