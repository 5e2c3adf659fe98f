//! Floating point and SIMD registers, switched lazily.
//!
//! The image itself is compiled without them. They belong to the host until a guest uses them, then
//! stay the guest's, over exits and runs, until the host uses them or the vCPU is put; whoever does
//! not own them traps by CPTR_EL2.TFP. `crate::trap` keeps that account, here are the registers.

use core::arch::asm;
use core::mem::offset_of;

use hyp_core::vcpu::Fp;

const Q: usize = offset_of!(Fp, q);
const FPSR: usize = offset_of!(Fp, fpsr);
const FPCR: usize = offset_of!(Fp, fpcr);

/// One instruction for each pair of q registers.
macro_rules! pairs {
    ($op:literal) => {
        concat!(
            $op,
            " q0, q1, [{0}]\n",
            $op,
            " q2, q3, [{0}, #32]\n",
            $op,
            " q4, q5, [{0}, #64]\n",
            $op,
            " q6, q7, [{0}, #96]\n",
            $op,
            " q8, q9, [{0}, #128]\n",
            $op,
            " q10, q11, [{0}, #160]\n",
            $op,
            " q12, q13, [{0}, #192]\n",
            $op,
            " q14, q15, [{0}, #224]\n",
            $op,
            " q16, q17, [{0}, #256]\n",
            $op,
            " q18, q19, [{0}, #288]\n",
            $op,
            " q20, q21, [{0}, #320]\n",
            $op,
            " q22, q23, [{0}, #352]\n",
            $op,
            " q24, q25, [{0}, #384]\n",
            $op,
            " q26, q27, [{0}, #416]\n",
            $op,
            " q28, q29, [{0}, #448]\n",
            $op,
            " q30, q31, [{0}, #480]\n",
        )
    };
}

const _: () = assert!(Q == 0 && FPSR == 512 && FPCR == 520);

/// Saves the registers. CPTR_EL2.TFP must be clear and in effect.
fn save(fp: &mut Fp) {
    // SAFETY:
    // 1. `fp` is writable and has the layout asserted above.
    // 2. Compiled code of this image holds nothing in these registers.
    unsafe {
        asm!(
            ".arch_extension fp", ".arch_extension simd",
            pairs!("stp"),
            "mrs {1}, fpsr", "mrs {2}, fpcr",
            "str {1}, [{0}, #512]", "str {2}, [{0}, #520]",
            ".arch_extension nosimd", ".arch_extension nofp",
            in(reg) fp, out(reg) _, out(reg) _,
            options(nostack)
        );
    }
}

/// Loads the registers. CPTR_EL2.TFP must be clear and in effect.
pub fn load(fp: &Fp) {
    // SAFETY:
    // 1. `fp` is readable and has the layout asserted above.
    // 2. Compiled code of this image holds nothing in these registers.
    unsafe {
        asm!(
            ".arch_extension fp", ".arch_extension simd",
            pairs!("ldp"),
            "ldr {1}, [{0}, #512]", "ldr {2}, [{0}, #520]",
            "msr fpsr, {1}", "msr fpcr, {2}",
            ".arch_extension nosimd", ".arch_extension nofp",
            in(reg) fp, out(reg) _, out(reg) _,
            options(nostack)
        );
    }
}

/// Saves into one place and loads from the other.
pub fn swap(from: &mut Fp, to: &Fp) {
    save(from);
    load(to);
}
