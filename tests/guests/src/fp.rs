//! The FP and SIMD registers, which the compiler never touches on a soft-float target.

use core::arch::global_asm;

global_asm!(
    ".arch_extension fp",
    ".arch_extension simd",
    ".global guest_fp_load",
    "guest_fp_load:", // x0 = 64 words
    "ldp q0, q1, [x0]",
    "ldp q2, q3, [x0, #32]",
    "ldp q4, q5, [x0, #64]",
    "ldp q6, q7, [x0, #96]",
    "ldp q8, q9, [x0, #128]",
    "ldp q10, q11, [x0, #160]",
    "ldp q12, q13, [x0, #192]",
    "ldp q14, q15, [x0, #224]",
    "ldp q16, q17, [x0, #256]",
    "ldp q18, q19, [x0, #288]",
    "ldp q20, q21, [x0, #320]",
    "ldp q22, q23, [x0, #352]",
    "ldp q24, q25, [x0, #384]",
    "ldp q26, q27, [x0, #416]",
    "ldp q28, q29, [x0, #448]",
    "ldp q30, q31, [x0, #480]",
    "ret",
    ".global guest_fp_store",
    "guest_fp_store:",
    "stp q0, q1, [x0]",
    "stp q2, q3, [x0, #32]",
    "stp q4, q5, [x0, #64]",
    "stp q6, q7, [x0, #96]",
    "stp q8, q9, [x0, #128]",
    "stp q10, q11, [x0, #160]",
    "stp q12, q13, [x0, #192]",
    "stp q14, q15, [x0, #224]",
    "stp q16, q17, [x0, #256]",
    "stp q18, q19, [x0, #288]",
    "stp q20, q21, [x0, #320]",
    "stp q22, q23, [x0, #352]",
    "stp q24, q25, [x0, #384]",
    "stp q26, q27, [x0, #416]",
    "stp q28, q29, [x0, #448]",
    "stp q30, q31, [x0, #480]",
    "ret",
    ".global guest_fp_touch",
    "guest_fp_touch:", // one FP instruction, the second of two
    "nop",
    "fmov d0, xzr",
    "ret",
    ".arch_extension nosimd",
    ".arch_extension nofp",
);

unsafe extern "C" {
    fn guest_fp_load(words: *const [u64; 64]);
    fn guest_fp_store(words: *mut [u64; 64]);
    fn guest_fp_touch();
}

/// A pattern that differs in every word.
#[must_use]
pub fn pattern(seed: u64) -> [u64; 64] {
    core::array::from_fn(|i| (seed ^ i as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15))
}

/// Loads q0..q31.
pub fn load(words: &[u64; 64]) {
    // SAFETY:
    // 1. Reads 512 bytes of `words`; the compiler keeps nothing in q0..q31 (soft-float target).
    unsafe { guest_fp_load(words) }
}

/// Reads q0..q31.
#[must_use]
pub fn store() -> [u64; 64] {
    let mut words = [0; 64];
    // SAFETY:
    // 1. Writes the 512 bytes of `words`.
    unsafe { guest_fp_store(&mut words) }
    words
}

/// Executes one FP instruction; arm the trap if it may be refused.
pub fn touch() {
    // SAFETY:
    // 1. Changes d0 only, which the compiler does not use.
    unsafe { guest_fp_touch() }
}
