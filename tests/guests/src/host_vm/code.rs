//! The guest: short programs that end in `hvc`, in one page, and its vectors in the next. They run
//! with the MMU off at the intermediate physical address [`BASE`].

use core::arch::global_asm;

/// Where the guest's code page is mapped.
pub const BASE: u64 = 0x4000_0000;
/// Where its vectors are.
pub const VECTORS: u64 = BASE + 0x1000;

global_asm!(
    ".pushsection .rodata.guest_vm, \"a\"",
    ".arch_extension fp",
    ".arch_extension simd",
    ".balign 4096",
    ".global guest_vm_start, guest_vm_end",
    ".global g_calls, g_smc, g_mmio, g_mmio_odd, g_wfi, g_sysreg, g_load, g_store, g_jump",
    ".global g_walk, g_writes, g_reads, g_fp, g_spin, g_timer, g_irq_on, g_undef, g_loop",
    ".global g_debug, g_debug_here",
    "guest_vm_start:",
    "g_calls: hvc #0",
    "add x0, x0, x1",
    "add x0, x0, x2",
    "add x0, x0, x3",
    "hvc #0",
    "g_loop: hvc #0",
    "b g_loop",
    "g_smc: smc #0",
    "hvc #0",
    "b g_loop",
    // Loads and stores of every shape, each followed by a call.
    "g_mmio:",
    "ldrb w1, [x9]",
    "hvc #0",
    "ldrsb w1, [x9]",
    "hvc #0",
    "ldrsb x1, [x9]",
    "hvc #0",
    "ldrh w1, [x9]",
    "hvc #0",
    "ldrsh w1, [x9]",
    "hvc #0",
    "ldrsh x1, [x9]",
    "hvc #0",
    "ldr w1, [x9]",
    "hvc #0",
    "ldrsw x1, [x9]",
    "hvc #0",
    "ldr x1, [x9]",
    "hvc #0",
    "ldr xzr, [x9]",
    "hvc #0",
    "strb w2, [x9]",
    "hvc #0",
    "strh w2, [x9]",
    "hvc #0",
    "str w2, [x9]",
    "hvc #0",
    "str x2, [x9]",
    "hvc #0",
    "str xzr, [x9]",
    "hvc #0",
    "g_mmio_odd: ldp x1, x2, [x9]",
    "hvc #0",
    "g_wfi: wfi",
    "hvc #0",
    "g_sysreg: mrs x1, cntp_ctl_el0",
    "hvc #0",
    "msr cntp_cval_el0, x2",
    "hvc #0",
    "g_load: ldr x1, [x9]",
    "hvc #0",
    "g_store: str x2, [x9]",
    "hvc #0",
    "g_jump: br x9",
    "g_undef: nop",
    "mrs x1, cntp_ctl_el0",
    "hvc #0",
    "g_walk: msr ttbr0_el1, x9",
    "msr tcr_el1, x10",
    "isb",
    "msr sctlr_el1, x11",
    "isb",
    "hvc #0",
    // For each bit of x10, lowest first: write, or read, page number bit of x9.
    "g_writes: cbz x10, 2f",
    "rbit x11, x10",
    "clz x11, x11",
    "sub x12, x10, #1",
    "and x10, x10, x12",
    "add x13, x9, x11, lsl #12",
    "str x2, [x13]",
    "b g_writes",
    "2: hvc #0",
    "g_reads: cbz x10, 2f",
    "rbit x11, x10",
    "clz x11, x11",
    "sub x12, x10, #1",
    "and x10, x10, x12",
    "add x13, x9, x11, lsl #12",
    "ldr x1, [x13]",
    "b g_reads",
    "2: hvc #0",
    // Loads q0..q31 from x9, calls, stores them 512 bytes on, calls.
    "g_fp:",
    ".irp n, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31",
    "ldr q\\n, [x9, #(16 * \\n)]",
    ".endr",
    "hvc #0",
    ".irp n, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31",
    "str q\\n, [x9, #(512 + 16 * \\n)]",
    ".endr",
    "hvc #0",
    "g_spin: b g_spin",
    // Debug registers from x9 to x13, then a call and all of them back, with the OS lock.
    "g_debug: msr oslar_el1, xzr",
    "msr dbgbvr0_el1, x9",
    "msr dbgbcr0_el1, x10",
    "msr dbgwvr0_el1, x11",
    "msr dbgwcr0_el1, x12",
    "msr mdscr_el1, x13",
    "isb",
    "msr daifclr, #8",
    "g_debug_here: hvc #0",
    "mrs x9, dbgbvr0_el1",
    "mrs x10, dbgbcr0_el1",
    "mrs x11, dbgwvr0_el1",
    "mrs x12, dbgwcr0_el1",
    "mrs x13, mdscr_el1",
    "mrs x14, oslsr_el1",
    "hvc #0",
    // x9: ticks from now; x15: GICv2 CPU interface, or 0 for a GICv3.
    "g_timer: mrs x1, cntvct_el0",
    "add x1, x1, x9",
    "msr cntv_cval_el0, x1",
    "mov x1, #1",
    "msr cntv_ctl_el0, x1",
    "g_irq_on: mov x1, #1",
    "mov x2, #0xf8",
    "cbz x15, 3f",
    "str w2, [x15, #4]",
    "str w1, [x15]",
    "b 4f",
    "3: msr icc_pmr_el1, x2",
    "msr icc_igrpen1_el1, x1",
    "4: isb",
    "msr daifclr, #2",
    "5: b 5b",
    // Interrupt: acknowledge, quieten the timer, end, report x1 = INTID.
    "g_irq: msr cntv_ctl_el0, xzr",
    "isb",
    "cbz x15, 6f",
    "ldr w1, [x15, #0xc]",
    "str w1, [x15, #0x10]",
    "b 7f",
    "6: mrs x1, icc_iar1_el1",
    "msr icc_eoir1_el1, x1",
    "isb",
    "7: mov x0, #0xe005",
    "hvc #0",
    "eret",
    // Synchronous exception: report x0 = 0xe000 + slot, ESR, FAR, ELR, SPSR.
    "g_sync: mrs x1, esr_el1",
    "mrs x2, far_el1",
    "mrs x3, elr_el1",
    "mrs x4, spsr_el1",
    "hvc #0",
    "b g_sync",
    ".balign 4096",
    ".irp n, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15",
    ".balign 0x80",
    ".if \\n == 5",
    "b g_irq",
    ".else",
    "mov x0, #(0xe000 + \\n)",
    "b g_sync",
    ".endif",
    ".endr",
    ".balign 4096",
    "guest_vm_end:",
    ".arch_extension nosimd",
    ".arch_extension nofp",
    ".popsection",
);

macro_rules! programs {
    ($($(#[$doc:meta])* $name:ident = $label:ident;)*) => {
        unsafe extern "C" {
            static guest_vm_start: u8;
            static guest_vm_end: u8;
            $( static $label: u8; )*
        }
        $(
            $(#[$doc])*
            #[must_use]
            pub fn $name() -> u64 {
                BASE + (&raw const $label as u64 - start())
            }
        )*
    };
}

programs! {
    /// Calls, adds up x0..x3, calls.
    calls = g_calls;
    /// Calls for ever.
    looping = g_loop;
    /// SMC, then HVC.
    smc = g_smc;
    /// Loads and stores of [x9].
    mmio = g_mmio;
    /// Load pair of [x9].
    mmio_odd = g_mmio_odd;
    /// WFI.
    wfi = g_wfi;
    /// Reads CNTP_CTL into x1, then writes x2 to CNTP_CVAL.
    sysreg = g_sysreg;
    /// x1 = [x9].
    load = g_load;
    /// [x9] = x2.
    store = g_store;
    /// Jumps to x9.
    jump = g_jump;
    /// A trapped read, one instruction further.
    undef = g_undef;
    /// Switches stage 1 on: TTBR0 = x9, TCR = x10, SCTLR = x11.
    walk = g_walk;
    /// Writes x2 to the pages x10 of x9.
    writes = g_writes;
    /// Reads the pages x10 of x9.
    reads = g_reads;
    /// FP registers from x9, later to x9 + 512.
    fp = g_fp;
    /// Sets the debug registers to x9..x13, calls, reads them, calls.
    debug = g_debug;
    /// The first of its calls.
    debug_here = g_debug_here;
    /// Spins.
    spin = g_spin;
    /// Virtual timer in x9 ticks, then spins with interrupts on.
    timer = g_timer;
    /// Spins with interrupts on.
    irq_on = g_irq_on;
}

fn start() -> u64 {
    &raw const guest_vm_start as u64
}

/// Where the programs lie in the payload: (address, bytes).
#[must_use]
pub fn image() -> (u64, u64) {
    (start(), &raw const guest_vm_end as u64 - start())
}
