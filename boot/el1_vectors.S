// Exception vectors of the EL1 host. Every exception is fatal: the host runs
// with interrupts masked and polls them (arch/gic.rs), and none of its code is
// meant to fault. So nothing is ever returned to, and each CPU has a stack for
// exceptions, which makes a stack overflow an ordinary report. Its top is kept
// in SP_EL0, the stack pointer that the host does not use (boot/el1.S).
//
// Out: el1_exception(x0 = kind 0..15, x1 = frame of x0..x30 and the old sp).

.macro EL1_VECTOR kind
.balign 0x80
    msr     tpidr_el1, x0               // nobody else uses it
    mov     x0, #\kind
    b       .L_exception
.endm

.section .text.el1_vectors, "ax"
.balign 0x800
.global el1_vectors
el1_vectors:
    EL1_VECTOR 0
    EL1_VECTOR 1
    EL1_VECTOR 2
    EL1_VECTOR 3
    EL1_VECTOR 4
    EL1_VECTOR 5
    EL1_VECTOR 6
    EL1_VECTOR 7
    EL1_VECTOR 8
    EL1_VECTOR 9
    EL1_VECTOR 10
    EL1_VECTOR 11
    EL1_VECTOR 12
    EL1_VECTOR 13
    EL1_VECTOR 14
    EL1_VECTOR 15

.L_exception:
    msr     tpidr_el0, x1
    mov     x1, sp
    msr     tpidrro_el0, x1             // the old sp, until it is in the frame
    mrs     x1, sp_el0
    mov     sp, x1
    sub     sp, sp, #256
    stp     x2, x3, [sp, #16]
    stp     x4, x5, [sp, #32]
    stp     x6, x7, [sp, #48]
    stp     x8, x9, [sp, #64]
    stp     x10, x11, [sp, #80]
    stp     x12, x13, [sp, #96]
    stp     x14, x15, [sp, #112]
    stp     x16, x17, [sp, #128]
    stp     x18, x19, [sp, #144]
    stp     x20, x21, [sp, #160]
    stp     x22, x23, [sp, #176]
    stp     x24, x25, [sp, #192]
    stp     x26, x27, [sp, #208]
    stp     x28, x29, [sp, #224]
    mrs     x1, tpidrro_el0
    stp     x30, x1, [sp, #240]
    mrs     x2, tpidr_el1
    mrs     x3, tpidr_el0
    stp     x2, x3, [sp]
    mov     x1, sp
    b       el1_exception
