// Entry and vectors of a test payload (tests/guests).
//
// In:  EL1, MMU off, x0 = device tree (arm64 boot protocol); loaded anywhere, 4 KiB aligned.
// Does: keeps the entry state for the tests, relocates itself, clears .bss, makes an identity map
//      (0..1 GiB Device, 1..8 GiB Normal; on a Raspberry Pi 4 all Normal but 3..4 GiB), switches MMU and caches on, calls guest_main(dtb).
// Clobbers: everything.
//
// guest_secondary, where a CPU starts that PSCI CPU_ON switched on:
// In:  EL1, MMU off, x0 = whatever CPU_ON was given.
// Does: MMU, caches and vectors as above; keeps its entry state in its start::Secondary, found by
//      MPIDR_EL1.Aff0; takes the stack there and calls start::on_secondary(it).

    .section .head, "ax"
    .global guest_start
guest_start:
    b       .L_entry                    // code0
    .long   0                           // code1
    .quad   0                           // text_offset
    .quad   guest_image_size            // image_size: .bss and stack included
    .quad   0xa                         // flags: little endian, 4 KiB pages, placed anywhere
    .quad   0, 0, 0
    .ascii  "ARM\x64"
    .long   0

.L_entry:
    mrs     x20, daif
    mrs     x21, sctlr_el1
    mov     x22, x0
    mov     x23, x1
    mov     x24, x2
    mov     x25, x3
    mrs     x26, SPSel
    msr     daifset, #15
    msr     SPSel, #1

    // With the MMU off every store below goes past the caches.
    adrp    x0, guest_bss_start
    adrp    x1, guest_bss_end           // both page-aligned by the linker script
0:  cmp     x0, x1
    b.hs    1f
    stp     xzr, xzr, [x0], #16
    b       0b

    // R_AARCH64_RELATIVE (1027) is all that a static PIE contains.
1:  adr     x0, guest_start
    adrp    x1, guest_rela_start
    add     x1, x1, :lo12:guest_rela_start
    adrp    x2, guest_rela_end
    add     x2, x2, :lo12:guest_rela_end
2:  cmp     x1, x2
    b.hs    3f
    ldp     x3, x4, [x1], #16
    ldr     x5, [x1], #8
    cmp     x4, #1027
    b.ne    2b
    add     x5, x5, x0
    str     x5, [x0, x3]
    b       2b

3:  adrp    x0, {entry_state}
    add     x0, x0, :lo12:{entry_state}
    stp     x22, x23, [x0]
    stp     x24, x25, [x0, #16]
    stp     x20, x21, [x0, #32]
    str     x26, [x0, #48]

    // Identity map, one level: 512 entries of 1 GiB.
    adrp    x0, {l1_table}
    add     x0, x0, :lo12:{l1_table}
    ldr     x1, ={block_device}
    str     x1, [x0]
    ldr     x1, ={block_normal}
    mov     x2, #1
4:  add     x3, x1, x2, lsl #30
    str     x3, [x0, x2, lsl #3]
    add     x2, x2, #1
    cmp     x2, #8
    b.ne    4b
    // On a Raspberry Pi 4 we are in the first GiB, which is RAM there; the devices are in the fourth.
    adr     x2, guest_start
    lsr     x2, x2, #30
    cbnz    x2, 9f
    str     x1, [x0]
    ldr     x1, ={block_device}
    mov     x2, #3
    add     x3, x1, x2, lsl #30
    str     x3, [x0, #24]
9:
    // Lines of the image that the loader left in the caches are stale now (DDI0487 B2.7: a
    // non-cacheable store does not update them): drop them before the caches come on.
    mrs     x3, ctr_el0
    ubfx    x3, x3, #16, #4
    mov     x2, #4
    lsl     x2, x2, x3
    adr     x0, guest_start
    adrp    x1, guest_image_end
5:  dc      ivac, x0
    add     x0, x0, x2
    cmp     x0, x1
    b.lo    5b
    dsb     sy
    ic      iallu
    tlbi    vmalle1
    dsb     sy

    bl      .L_mmu_on
    adrp    x0, {stack}
    add     x0, x0, :lo12:{stack}
    add     x0, x0, #{stack_size}
    mov     sp, x0
    mov     x29, xzr
    mov     x30, xzr
    mov     x0, x22
    bl      guest_main
6:  wfi
    b       6b

    .global guest_secondary
guest_secondary:
    mrs     x20, daif
    mrs     x21, sctlr_el1
    mov     x22, x0
    mrs     x23, SPSel
    mrs     x24, CurrentEL
    msr     daifset, #15
    msr     SPSel, #1
    ic      iallu
    tlbi    vmalle1
    dsb     sy
    bl      .L_mmu_on
    mrs     x1, mpidr_el1
    and     x1, x1, #{cpu_mask}
    mov     x2, #{secondary_size}
    adrp    x0, {secondaries}
    add     x0, x0, :lo12:{secondaries}
    madd    x0, x1, x2, x0
    stp     x22, x20, [x0, #{secondary_x0}]
    stp     x21, x23, [x0, #{secondary_sctlr}]
    str     x24, [x0, #{secondary_el}]
    ldr     x1, [x0, #{secondary_stack}]
    mov     sp, x1
    mov     x29, xzr
    mov     x30, xzr
    bl      {on_secondary}
7:  wfi
    b       7b

// Registers of stage 1, vectors, FP. Called with the MMU off; clobbers x0, x1, x2.
.L_mmu_on:
    ldr     x0, ={mair}
    msr     mair_el1, x0
    mrs     x1, id_aa64mmfr0_el1
    and     x1, x1, #0xf
    mov     x2, #5                      // 48 bits: more needs another descriptor format
    cmp     x1, x2
    csel    x1, x1, x2, lo
    ldr     x0, ={tcr}
    orr     x0, x0, x1, lsl #32         // IPS = PARange
    msr     tcr_el1, x0
    adrp    x0, {l1_table}
    add     x0, x0, :lo12:{l1_table}
    msr     ttbr0_el1, x0
    mov     x0, #(3 << 20)              // FP and SIMD not trapped
    msr     cpacr_el1, x0
    adrp    x0, guest_vectors
    add     x0, x0, :lo12:guest_vectors
    msr     vbar_el1, x0
    isb
    ldr     x0, ={sctlr}
    msr     sctlr_el1, x0
    isb
    ret
    .ltorg

// Vectors. Each saves a whole Frame on the stack of EL1 and calls trap::on_exception(frame, kind);
// kind is the slot number 0..15. What the handler leaves in the frame is what continues.
    .macro vector kind
    .balign 0x80
    sub     sp, sp, #{frame_size}
    stp     x0, x1, [sp]
    mov     x1, #\kind
    b       .L_save
    .endm

    .text
    .balign 0x800
    .global guest_vectors
guest_vectors:
    vector  0
    vector  1
    vector  2
    vector  3
    vector  4
    vector  5
    vector  6
    vector  7
    vector  8
    vector  9
    vector  10
    vector  11
    vector  12
    vector  13
    vector  14
    vector  15

    .balign 0x80
.L_save:
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
    mrs     x2, elr_el1
    mrs     x3, spsr_el1
    mrs     x4, esr_el1
    mrs     x5, far_el1
    stp     x30, x2, [sp, #240]
    stp     x3, x4, [sp, #{spsr_offset}]
    str     x5, [sp, #{far_offset}]
    mov     x0, sp
    bl      {on_exception}
    ldp     x30, x2, [sp, #240]
    ldr     x3, [sp, #{spsr_offset}]
    msr     elr_el1, x2
    msr     spsr_el1, x3
    ldp     x2, x3, [sp, #16]
    ldp     x4, x5, [sp, #32]
    ldp     x6, x7, [sp, #48]
    ldp     x8, x9, [sp, #64]
    ldp     x10, x11, [sp, #80]
    ldp     x12, x13, [sp, #96]
    ldp     x14, x15, [sp, #112]
    ldp     x16, x17, [sp, #128]
    ldp     x18, x19, [sp, #144]
    ldp     x20, x21, [sp, #160]
    ldp     x22, x23, [sp, #176]
    ldp     x24, x25, [sp, #192]
    ldp     x26, x27, [sp, #208]
    ldp     x28, x29, [sp, #224]
    ldp     x0, x1, [sp]
    add     sp, sp, #{frame_size}
    eret
