// Exception vectors of EL2, for the host and for guests, and the way into a guest and back.
//
// While the host runs VBAR_EL2 = hyp_vector_host and SP_EL2 is the top of this CPU's stack; while
// a guest runs VBAR_EL2 = hyp_vector_guest and SP_EL2 points at the record that hyp_guest_enter
// left. An exception taken from EL2 itself is our bug and never returns: it moves to the emergency
// stack first, since the usual reason is an overflow of the other one. The one exception to that is
// an SError in the window which hyp_guest_exit opens for it.
//
// Constants in braces come from arch::vectors: FRAME_* are offsets in arch::vectors::Frame,
// CTX_GPR is the offset of x0..x30 in hyp_core::vcpu::Context, EXIT_* are arch::switch::Exit codes,
// BRANCH_* firmware functions. Each table exists three times: plain, and for CPUs that need one of
// these functions called before anything else.

    .macro  adr_l reg, symbol
    adrp    \reg, \symbol
    add     \reg, \reg, :lo12:\symbol
    .endm

// Saves x2..x29 where they belong in the x0..x30 at \base + \offset.
    .macro  save_x2_to_x29 base, offset
    stp     x2, x3, [\base, #\offset + 16]
    stp     x4, x5, [\base, #\offset + 32]
    stp     x6, x7, [\base, #\offset + 48]
    stp     x8, x9, [\base, #\offset + 64]
    stp     x10, x11, [\base, #\offset + 80]
    stp     x12, x13, [\base, #\offset + 96]
    stp     x14, x15, [\base, #\offset + 112]
    stp     x16, x17, [\base, #\offset + 128]
    stp     x18, x19, [\base, #\offset + 144]
    stp     x20, x21, [\base, #\offset + 160]
    stp     x22, x23, [\base, #\offset + 176]
    stp     x24, x25, [\base, #\offset + 192]
    stp     x26, x27, [\base, #\offset + 208]
    stp     x28, x29, [\base, #\offset + 224]
    .endm

// Return to a lower EL; nothing is speculated past it (no SB on the Cortex-A72).
    .macro  eret_sb
    eret
    dsb     nsh
    isb
    .endm

// ---------------------------------------------------------------- from EL2 itself

// The host's registers serve as scratch: no panic returns to EL1.
    .macro  from_el2 kind
    .balign 0x80
    msr     sp_el0, x0
    msr     elr_el1, x1
    mov     x1, sp
    mov     x0, #\kind
    b       hyp_from_el2
    .endm

    .macro  serror_from_el2
    .balign 0x80
    msr     sp_el0, x0
    msr     elr_el1, x1
    b       hyp_serror_from_el2
    .endm

    .section .text.hyp_vectors, "ax"

// x0 = kind, x1 = stack pointer at the exception; x0 and x1 proper are in SP_EL0 and ELR_EL1.
hyp_from_el2:
    msr     far_el1, x2
    adr_l   x2, __hyp_emergency_top
    mov     sp, x2
    mrs     x2, tpidr_el2           // how far this CPU's stacks are above CPU 0's
    add     sp, sp, x2
    sub     sp, sp, #{FRAME_SIZE}
    mrs     x2, far_el1
    save_x2_to_x29 sp, {FRAME_GPR}
    str     x30, [sp, #{FRAME_GPR} + 240]
    mrs     x2, sp_el0
    mrs     x3, elr_el1
    stp     x2, x3, [sp, #{FRAME_GPR}]
    mrs     x2, elr_el2
    mrs     x3, spsr_el2
    stp     x2, x3, [sp, #{FRAME_ELR}]
    mov     x2, x1
    mov     x1, sp
    bl      {FROM_EL2}              // (kind, frame, stack pointer), never returns

// The SError that hyp_guest_exit waited for, or a real one.
hyp_serror_from_el2:
    mrs     x0, elr_el2
    adr_l   x1, .L_window_open
    cmp     x0, x1
    b.lo    1f
    adr_l   x1, .L_window_close
    cmp     x0, x1
    b.hi    1f
    mrs     x1, elr_el1
    mov     x0, #{EXIT_SERROR}      // what hyp_guest_exit returns instead of its own code,
    mrs     x5, esr_el2             // with this syndrome
    eret_sb
1:  mov     x1, sp
    mov     x0, #3
    b       hyp_from_el2

// ---------------------------------------------------------------- from lower levels

// Calls the firmware's \function, which forgets what EL1 has taught the branch predictor
// (hyp_core::speculation; 0: there is none). Before any branch; it may change x0..x3 (SMCCC 1.1),
// of which x0 and x1 are saved already and x2 and x3 go to \at in the meantime.
    .macro  forget function, at:vararg
    .if     \function
    stp     x2, x3, \at
    mov     w0, #(\function & 0xffff)
    movk    w0, #(\function >> 16), lsl #16
    smc     #0
    ldp     x2, x3, \at
    .endif
    .endm

    .macro  from_host handler, function
    .balign 0x80
    sub     sp, sp, #{FRAME_SIZE}
    stp     x0, x1, [sp, #{FRAME_GPR}]
    forget  \function, [sp, #{FRAME_GPR} + 16]
    adr_l   x1, \handler
    b       hyp_from_host
    .endm

hyp_from_host:
    save_x2_to_x29 sp, {FRAME_GPR}
    mrs     x2, elr_el2
    mrs     x3, spsr_el2
    str     x30, [sp, #{FRAME_GPR} + 240]
    stp     x2, x3, [sp, #{FRAME_ELR}]
    mov     x0, sp
    mov     x29, xzr                // frame chains end here
    mov     x30, xzr
    blr     x1                      // (frame)

// Resumes the host from the frame at SP; also the first way into EL1 (sp = a frame).
    .global hyp_host_resume
hyp_host_resume:
    ldp     x2, x3, [sp, #{FRAME_ELR}]
    msr     elr_el2, x2
    msr     spsr_el2, x3
    ldp     x0, x1, [sp, #{FRAME_GPR}]
    ldp     x2, x3, [sp, #{FRAME_GPR} + 16]
    ldp     x4, x5, [sp, #{FRAME_GPR} + 32]
    ldp     x6, x7, [sp, #{FRAME_GPR} + 48]
    ldp     x8, x9, [sp, #{FRAME_GPR} + 64]
    ldp     x10, x11, [sp, #{FRAME_GPR} + 80]
    ldp     x12, x13, [sp, #{FRAME_GPR} + 96]
    ldp     x14, x15, [sp, #{FRAME_GPR} + 112]
    ldp     x16, x17, [sp, #{FRAME_GPR} + 128]
    ldp     x18, x19, [sp, #{FRAME_GPR} + 144]
    ldp     x20, x21, [sp, #{FRAME_GPR} + 160]
    ldp     x22, x23, [sp, #{FRAME_GPR} + 176]
    ldp     x24, x25, [sp, #{FRAME_GPR} + 192]
    ldp     x26, x27, [sp, #{FRAME_GPR} + 208]
    ldp     x28, x29, [sp, #{FRAME_GPR} + 224]
    ldr     x30, [sp, #{FRAME_GPR} + 240]
    add     sp, sp, #{FRAME_SIZE}
    eret_sb

// Enters EL1 for the first time: x0 = frame, x1 = top of this CPU's stack. Never returns.
    .global hyp_host_first_entry
hyp_host_first_entry:
    sub     x1, x1, #{FRAME_SIZE}
    mov     x2, #{FRAME_SIZE}
1:  sub     x2, x2, #8
    ldr     x3, [x0, x2]
    str     x3, [x1, x2]
    cbnz    x2, 1b
    mov     sp, x1
    b       hyp_host_resume

// ---------------------------------------------------------------- guests

// hyp_guest_enter(ctx) -> exit code. In: x0 = Context; ELR_EL2, SPSR_EL2 and every other register
// of the guest are loaded. Out: x0..x30 in the Context are the guest's, x0 = code. C ABI otherwise.
    .global hyp_guest_enter
hyp_guest_enter:
    stp     x29, x30, [sp, #-112]!
    mov     x29, sp
    stp     x19, x20, [sp, #16]
    stp     x21, x22, [sp, #32]
    stp     x23, x24, [sp, #48]
    stp     x25, x26, [sp, #64]
    stp     x27, x28, [sp, #80]
    str     x0, [sp, #96]
    isb                             // all that was written for the guest takes effect
    mrs     x1, isr_el1             // an interrupt waits already: do not even start
    cbz     x1, 1f
    mov     x0, #{EXIT_IRQ}
    b       hyp_guest_return
1:  add     x29, x0, #{CTX_GPR}
    ldp     x0, x1, [x29]
    ldp     x2, x3, [x29, #16]
    ldp     x4, x5, [x29, #32]
    ldp     x6, x7, [x29, #48]
    ldp     x8, x9, [x29, #64]
    ldp     x10, x11, [x29, #80]
    ldp     x12, x13, [x29, #96]
    ldp     x14, x15, [x29, #112]
    ldp     x16, x17, [x29, #128]
    ldp     x18, x19, [x29, #144]
    ldp     x20, x21, [x29, #160]
    ldp     x22, x23, [x29, #176]
    ldp     x24, x25, [x29, #192]
    ldp     x26, x27, [x29, #208]
    ldr     x30, [x29, #240]
    ldp     x28, x29, [x29, #224]
    eret_sb

    .macro  from_guest code, function
    .balign 0x80
    stp     x0, x1, [sp, #-16]!
    forget  \function, [sp, #-16]
    mov     x0, #\code
    b       hyp_guest_exit
    .endm

hyp_guest_exit:
    ldr     x1, [sp, #16 + 96]      // the Context
    add     x1, x1, #{CTX_GPR}
    save_x2_to_x29 x1, 0
    str     x30, [x1, #240]
    ldp     x2, x3, [sp], #16
    stp     x2, x3, [x1]

    // An SError that the guest caused must be the guest's: take it here, while HCR_EL2.AMO is set.
    // Taking it overwrites registers that belong to the exit, or to the guest.
    dsb     sy
    isb
    mrs     x2, isr_el1
    tbz     x2, #8, hyp_guest_return
    mrs     x3, elr_el2
    mrs     x4, spsr_el2
    mrs     x5, esr_el2
    mrs     x6, sp_el0              // the vector's scratch, and the guest's
    mrs     x7, elr_el1
    msr     daifclr, #4
.L_window_open:
    isb
.L_window_close:
    msr     daifset, #4
    msr     elr_el2, x3
    msr     spsr_el2, x4
    msr     esr_el2, x5
    msr     sp_el0, x6
    msr     elr_el1, x7

hyp_guest_return:
    ldp     x19, x20, [sp, #16]
    ldp     x21, x22, [sp, #32]
    ldp     x23, x24, [sp, #48]
    ldp     x25, x26, [sp, #64]
    ldp     x27, x28, [sp, #80]
    ldp     x29, x30, [sp], #112
    ret

// ---------------------------------------------------------------- the tables

    .macro  from_here
    from_el2 0                      // current EL, SP_EL0
    from_el2 1
    from_el2 2
    from_el2 3
    from_el2 0                      // current EL, SP_EL2
    from_el2 1
    from_el2 2
    serror_from_el2
    .endm

    .macro  host_table name, function
    .balign 0x800
    .global \name
\name:
    from_here
    from_host {HOST_SYNC}, \function // lower EL, AArch64
    from_host {HOST_ASYNC}, \function
    from_host {HOST_ASYNC}, \function
    from_host {HOST_ASYNC}, \function
    from_host {HOST_SYNC}, \function // lower EL, AArch32: the host's EL0
    from_host {HOST_ASYNC}, \function
    from_host {HOST_ASYNC}, \function
    from_host {HOST_ASYNC}, \function
    .endm

    .macro  guest_table name, function
    .balign 0x800
    .global \name
\name:
    from_here
    from_guest {EXIT_SYNC}, \function
    from_guest {EXIT_IRQ}, \function
    from_guest {EXIT_IRQ}, \function // FIQ: the host's business just as well
    from_guest {EXIT_SERROR}, \function
    from_guest {EXIT_SYNC}, \function
    from_guest {EXIT_IRQ}, \function
    from_guest {EXIT_IRQ}, \function
    from_guest {EXIT_SERROR}, \function
    .balign 0x80
    .endm

    host_table hyp_vector_host, 0
    guest_table hyp_vector_guest, 0
    host_table hyp_vector_host_targets, {BRANCH_TARGETS}
    guest_table hyp_vector_guest_targets, {BRANCH_TARGETS}
    host_table hyp_vector_host_history, {BRANCH_HISTORY}
    guest_table hyp_vector_guest_history, {BRANCH_HISTORY}
1:  b       1b                      // nobody runs out of a table

    .purgem adr_l
    .purgem save_x2_to_x29
    .purgem eret_sb
    .purgem from_el2
    .purgem serror_from_el2
    .purgem forget
    .purgem from_host
    .purgem from_guest
    .purgem from_here
    .purgem host_table
    .purgem guest_table
