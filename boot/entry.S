// Entry of the EL2 image: from the boot loader to Rust, in the state that Rust expects.
//
// hyp_head, the boot CPU:
// In:   the arm64 boot protocol: x0 = device tree blob, MMU and data cache off, one CPU (the
//       others wait in the firmware), image at any 2 MiB-aligned address and clean to the PoC.
// Out:  arch::boot::start(x0 = blob as given): EL2h, exceptions masked, MMU and caches on, only the
//       image's own 2 MiB block mapped (virtual = physical, writable and executable until
//       arch::mmu builds the real tables), sp = boot stack, VBAR_EL2 = hyp_vector_host.
// Uses: x19 = blob, x20 = image base; everything else is scratch. No subroutine keeps a register.
//
// hyp_secondary_entry, every other CPU, whenever the firmware starts it, or lets it out of its spin
// table:
// In:   EL2, MMU off.
// Out:  arch::boot::secondary(): EL2h, exceptions masked, MMU and caches on with the last tables,
//       sp = top of its own stack, TPIDR_EL2 and VBAR_EL2 set. Parks if arch::boot::MPIDRS, where its
//       place is its number, does not know it.
//       It reads no data before its MMU is on, so none has to be clean to the PoC; its code, like all
//       text, is as the loader left it, and the tables are walked through the caches (TCR).
//
// No Rust code runs before the MMU is on: atomics need cacheable memory.
// Constants in braces come from arch::boot.

    .macro  mov_imm32 reg, value
    movz    \reg, #((\value) & 0xffff)
    movk    \reg, #(((\value) >> 16) & 0xffff), lsl #16
    .endm

    .macro  adr_l reg, symbol
    adrp    \reg, \symbol
    add     \reg, \reg, :lo12:\symbol
    .endm

// HCR_EL2 first: E2H decides what the other EL2 registers mean (DDI0487 D19.2.48). Then SCTLR_EL2 with
// the MMU off. Goes to \no_nvhe where E2H cannot be 0. Clobbers x1, x2.
    .macro  el2_registers no_nvhe, message
    mov_imm32 x1, {HCR_BOOT}
    msr     hcr_el2, x1
    isb
    mrs     x1, hcr_el2
    adr     x2, \message
    tbnz    x1, #34, \no_nvhe
    mov_imm32 x1, {SCTLR_OFF}
    msr     sctlr_el2, x1
    isb
    .endm

// Turns the MMU on with the tables at \tables and SCTLR_EL2 = \sctlr. Clobbers x1, x2.
    .macro  mmu_on tables, sctlr
    mrs     x1, id_aa64mmfr0_el1
    and     x1, x1, #0xf            // PARange
    mov     x2, #5                  // 48 bits: all that a 4 KiB granule descriptor can name
    cmp     x1, x2
    csel    x1, x1, x2, lo
    mov_imm32 x2, {TCR}
    orr     x2, x2, x1, lsl #16     // PS
    msr     tcr_el2, x2
    mov_imm32 x1, {MAIR}
    msr     mair_el2, x1
    adr_l   x1, \tables
    msr     ttbr0_el2, x1
    isb
    tlbi    alle2
    tlbi    alle1
    ic      iallu
    dsb     sy
    isb
    mov_imm32 x1, \sctlr
    msr     sctlr_el2, x1
    isb
    .endm

// Vectors, stack and number of CPU \number. Clobbers x1, x2.
    .macro  own_state number
    adr_l   x1, hyp_vector_host
    msr     vbar_el2, x1
    isb
    lsl     x2, \number, #{STACKS_SHIFT}
    msr     tpidr_el2, x2           // how far its stacks are above CPU 0's
    adr_l   x1, __hyp_stack_top
    add     x1, x1, x2
    mov     sp, x1
    mov     x29, xzr                // the end of the frame chain
    mov     x30, xzr
    .endm

    .section .head.text, "ax"
    .global hyp_head
hyp_head:
    b       .L_entry                // the arm64 Image header: 64 bytes
    .long   0
    .quad   0                       // text offset: any 2 MiB-aligned base
    .quad   0                       // image size: xtask, which adds the payload
    .quad   0xa                     // little endian, 4 KiB pages, anywhere in memory
    .quad   0, 0, 0
    .ascii  "ARM\x64"
    .long   0

    .global hyp_descriptor
hyp_descriptor:                     // where the EL1 payload is: xtask
    .ascii  "REDANPL1"
    .quad   0                       // offset from hyp_head
    .quad   0                       // bytes

.L_entry:
    msr     daifset, #0xf
    mrs     x1, CurrentEL
    cmp     x1, #(2 << 2)
    adr     x2, .L_not_el2
    b.ne    .L_die
    mov     x19, x0
    adr     x20, hyp_head

    el2_registers .L_die, .L_no_nvhe
    tst     x20, #0x1fffff
    adr     x2, .L_misaligned
    b.ne    .L_die

    // Dirty lines that the loader may have left must not be written back over what follows.
    adr_l   x0, __hyp_rodata_start
    adr_l   x1, __hyp_image_end
    bl      .L_clean_invalidate

    adr_l   x0, __hyp_bss_start
    adr_l   x1, __hyp_bss_end
1:  stp     xzr, xzr, [x0], #16
    cmp     x0, x1
    b.lo    1b

    // The image is linked at 0: every relocation is base + addend.
    adr_l   x0, __hyp_rela_start
    adr_l   x1, __hyp_rela_end
    adr     x2, .L_bad_reloc
2:  cmp     x0, x1
    b.hs    3f
    ldp     x3, x4, [x0], #16       // place, type
    ldr     x5, [x0], #8            // addend
    cmp     x4, #1027               // R_AARCH64_RELATIVE
    b.ne    .L_die
    add     x5, x5, x20
    str     x5, [x20, x3]
    b       2b
3:
    // One 2 MiB block, by the first three pages of the early tables.
    adr_l   x0, {EARLY_TABLES}
    add     x1, x0, #0x1000
    add     x2, x0, #0x2000
    ubfx    x3, x20, #39, #9
    orr     x4, x1, #3              // table descriptor
    str     x4, [x0, x3, lsl #3]
    ubfx    x3, x20, #30, #9
    orr     x4, x2, #3
    str     x4, [x1, x3, lsl #3]
    ubfx    x3, x20, #21, #9
    mov_imm32 x4, {BLOCK_NORMAL}
    orr     x4, x4, x20
    str     x4, [x2, x3, lsl #3]

    // Clean lines that speculation may have fetched meanwhile hold the memory as it was.
    adr_l   x0, __hyp_rodata_start
    adr_l   x1, __hyp_image_end
    bl      .L_clean_invalidate

    mmu_on  {EARLY_TABLES}, {SCTLR_ON}
    own_state xzr
    mov     x0, x19
    bl      {START}

// Cleans and invalidates the data cache over [x0, x1) to the PoC. Clobbers x0, x2, x3.
.L_clean_invalidate:
    mrs     x2, ctr_el0
    ubfx    x2, x2, #16, #4         // DminLine: log2 of words
    mov     x3, #4
    lsl     x2, x3, x2
    sub     x3, x2, #1
    bic     x0, x0, x3
4:  dc      civac, x0
    add     x0, x0, x2
    cmp     x0, x1
    b.lo    4b
    dsb     sy
    ret

// Prints the text at x2, then parks. The UART is the one that is there when the machine is QEMU's
// `virt` or, if the image lies below that machine's RAM, a Raspberry Pi 4. Elsewhere the stores go
// nowhere useful, on a machine that stops anyway.
.L_die:
    adr     x4, hyp_head
    mov_imm32 x5, {VIRT_RAM}
    mov_imm32 x1, {MINI_UART}
    cmp     x4, x5
    b.lo    6f
    mov_imm32 x1, {UART}
5:  ldrb    w3, [x2], #1
    cbz     w3, .L_park
    str     w3, [x1]
    b       5b
6:  ldr     w3, [x1, #0x14]         // line status: room for a byte
    tbz     w3, #5, 6b
    ldrb    w3, [x2], #1
    cbz     w3, .L_park
    str     w3, [x1]
    b       6b
.L_park:
    wfe
    b       .L_park

.L_not_el2:
    .asciz  "[EL2] cannot start: entered at the wrong exception level, EL2 is needed (QEMU: -machine virt,virtualization=on)\r\n"
.L_no_nvhe:
    .asciz  "[EL2] cannot start: this CPU has no EL2 without VHE\r\n"
.L_misaligned:
    .asciz  "[EL2] cannot start: not loaded at a multiple of 2 MiB\r\n"
.L_bad_reloc:
    .asciz  "[EL2] cannot start: unknown relocation in the image\r\n"
    .balign 4

    .section .text.hyp_secondary_entry, "ax"
    .global hyp_secondary_entry
hyp_secondary_entry:
    msr     daifset, #0xf
    msr     spsel, #1
    el2_registers .L_park_secondary, .
    mmu_on  {LAST_TABLES}, {SCTLR_FINAL}
    mrs     x1, mpidr_el1
    movz    x2, #0xffff             // Aff3, Aff2..Aff0
    movk    x2, #0xff, lsl #16
    movk    x2, #0xff, lsl #32
    and     x1, x1, x2
    adr_l   x2, {MPIDRS}
    mov     x19, xzr
7:  ldr     x3, [x2, x19, lsl #3]
    cmp     x3, x1
    b.eq    8f
    add     x19, x19, #1
    cmp     x19, #{CPUS}
    b.lo    7b
    b       .L_park_secondary
8:  own_state x19
    bl      {SECONDARY}
.L_park_secondary:
    wfe
    b       .L_park_secondary

// hyp_come_up_again(top): a CPU that EL2 has turned off itself begins again, at the top of its stack, on
// which nothing is needed any more. All else is as above.
    .global hyp_come_up_again
hyp_come_up_again:
    mov     sp, x0
    mov     x29, xzr
    mov     x30, xzr
    bl      {SECONDARY}
    b       .L_park_secondary

// Replaces the tables under the running code: x0 = TTBR0_EL2, x1 = SCTLR_EL2 with the MMU on.
// Both maps are virtual = physical. The MMU is off in between, because a block becomes pages here and
// the TLB may not hold both (break before make, DDI0487 D8.16). Clobbers x2. No memory access.
    .section .text.hyp_switch_tables, "ax"
    .global hyp_switch_tables
hyp_switch_tables:
    dsb     ish
    mrs     x2, sctlr_el2
    bic     x2, x2, #1
    msr     sctlr_el2, x2
    isb
    msr     ttbr0_el2, x0
    isb
    tlbi    alle2
    dsb     nsh
    isb
    msr     sctlr_el2, x1
    isb
    ret

    .purgem mov_imm32
    .purgem adr_l
    .purgem el2_registers
    .purgem mmu_on
    .purgem own_state
