// The EL1 host's first instructions: from the arm64 boot protocol to Rust.
//
// In:   EL1h, MMU and caches off, DAIF masked, x0 = device tree, x1..x3 = 0.
// Out:  el1_host_main(x0 = device tree) on the boot stack, MMU and caches on.
// Uses: x19 device tree, x20 image base, x21 next free early table, x22 root.
//
// Secondary CPUs enter at el1_secondary_entry, see below.
//
// Constants from arch/boot.rs: STACK_STEP bytes of stacks a CPU, of which the
// first STACK_TOP end at the top of its own stack, the rest at the top of its
// exception stack.
//
// The image runs where it was put (any 2 MiB boundary): it relocates itself,
// clears its bss, and maps only its own 2 MiB blocks and the device tree's,
// virtual = physical. Rust then builds the final, W^X map (arch/mmu.rs). No
// Rust code runs before this is done: exclusives need cacheable memory.

.equ EARLY_TABLES, 10                   // root + (L1 + L2) of up to four ends

.equ BLOCK_NORMAL,  (0x1 | 1 << 10 | 3 << 8 | 1 << 11)          // AF, inner shareable, nG
.equ BLOCK_IMAGE,   BLOCK_NORMAL
.equ BLOCK_TREE_LO, (BLOCK_NORMAL | 2 << 6)                     // read-only
.equ BLOCK_XN_HI,   (3 << 21)                                   // UXN, PXN (upper half word)

// Attr0 Normal write-back, Attr1 Device-nGnRE: the order of arch/mmu.rs.
.equ MAIR_VALUE,    0x04ff
// 48 bits, 4 KiB granule, walks write-back inner shareable, no TTBR1 walks.
.equ TCR_VALUE,     (16 | 1 << 8 | 1 << 10 | 3 << 12 | 1 << 23)
// The RES1 bits of Armv8.0, little-endian, MMU and caches off.
.equ SCTLR_OFF,     0x30d00800
// MMU, caches, stack alignment checks.
.equ SCTLR_ON,      (SCTLR_OFF | 1 << 0 | 1 << 2 | 1 << 3 | 1 << 12)
// With the final map: what is writable is never executable.
.equ SCTLR_FINAL,   (SCTLR_ON | 1 << 19)

.section .head.text, "ax"
.global __el1_image_start
__el1_image_start:
    b       el1_entry                   // code0
    .long   0                           // code1
    .quad   0                           // text_offset
    .quad   __el1_image_size            // image_size, bss and stacks included
    .quad   0xa                         // little-endian, 4 KiB pages, anywhere
    .quad   0, 0, 0
    .ascii  "ARM\x64"
    .long   0

.section .text.el1_entry, "ax"
el1_entry:
    mrs     x1, CurrentEL
    cmp     x1, #(1 << 2)
    b.ne    .L_park                     // not EL1: none of the below would hold
    msr     daifset, #0xf
    ldr     w1, =SCTLR_OFF
    msr     sctlr_el1, x1
    isb
    mov     x19, x0
    adrp    x20, __el1_image_start

    // Zero what no file carries: bss, tables, stacks. 16-byte bounds by ASSERT.
    adrp    x1, __el1_bss_start
    add     x1, x1, :lo12:__el1_bss_start
    adrp    x2, __el1_image_end
    add     x2, x2, :lo12:__el1_image_end
.L_zero:
    cmp     x1, x2
    b.hs    .L_relocate
    stp     xzr, xzr, [x1], #16
    b       .L_zero

    // R_AARCH64_RELATIVE (1027) is all that a static PIE holds; anything else
    // means a broken link, and running on would be guesswork.
.L_relocate:
    adrp    x1, __el1_rela_start
    add     x1, x1, :lo12:__el1_rela_start
    adrp    x2, __el1_rela_end
    add     x2, x2, :lo12:__el1_rela_end
.L_rela:
    cmp     x1, x2
    b.hs    .L_tables
    ldp     x3, x4, [x1], #16           // offset, info
    ldr     x5, [x1], #8                // addend
    cmp     x4, #1027
    b.ne    .L_park
    add     x5, x5, x20
    str     x5, [x20, x3]
    b       .L_rela

.L_tables:
    adrp    x22, el1_early_tables
    add     x22, x22, :lo12:el1_early_tables
    add     x21, x22, #4096
    // The tree first: should it share a block with the image, the image's
    // attributes win. It may reach into the next block (up to 2 MiB long).
    ldr     x1, =(BLOCK_TREE_LO | BLOCK_XN_HI << 32)
    and     x0, x19, #0x0000ffffffe00000
    bl      el1_map_block
    add     x0, x0, #0x200000
    bl      el1_map_block
    ldr     x1, =BLOCK_IMAGE
    mov     x0, x20
    adrp    x23, __el1_image_end
.L_map_image:
    bl      el1_map_block
    add     x0, x0, #0x200000
    cmp     x0, x23
    b.lo    .L_map_image

    // What was written with the caches off must not be shadowed by lines that
    // were fetched before: invalidate the whole image (DDI0487 D7.5.9).
    dsb     sy
    mrs     x1, ctr_el0
    ubfx    x1, x1, #16, #4             // DminLine: log2 of words
    mov     x2, #4
    lsl     x2, x2, x1
    mov     x1, x20
    adrp    x3, __el1_image_end
    add     x3, x3, :lo12:__el1_image_end
.L_invalidate:
    dc      ivac, x1
    add     x1, x1, x2
    cmp     x1, x3
    b.lo    .L_invalidate
    dsb     sy
    ic      iallu
    tlbi    vmalle1
    dsb     nsh
    isb

    bl      el1_translation
    ldr     w1, =SCTLR_ON
    msr     sctlr_el1, x1
    isb

    mov     x0, xzr
    bl      el1_stacks
    mov     x29, xzr
    mov     x30, xzr
    mov     x0, x19
    b       el1_host_main

.L_park:
    wfe
    b       .L_park

// A CPU that the boot CPU has asked PSCI to start.
//
// In:   EL1h, MMU and caches off, DAIF masked, x0 = its number, 1..7.
// Out:  el1_secondary_main(x0 = number) on its own stack, in the final map.
//
// Reads nothing but instructions and literals before its caches are on: what
// the other CPUs have written may still be in theirs.
.global el1_secondary_entry
el1_secondary_entry:
    msr     daifset, #0xf
    ldr     w1, =SCTLR_OFF
    msr     sctlr_el1, x1
    isb
    mov     x19, x0
    ic      iallu
    tlbi    vmalle1
    dsb     nsh
    isb
    adrp    x22, el1_final_tables
    mov     x1, #1
    bfi     x22, x1, #48, #16           // ASID 1
    bl      el1_translation
    ldr     w1, =SCTLR_FINAL
    msr     sctlr_el1, x1
    isb
    mov     x0, x19
    bl      el1_stacks
    mov     x29, xzr
    mov     x30, xzr
    mov     x0, x19
    b       el1_secondary_main

// All registers of stage 1 but SCTLR_EL1, for the tables in x22 (TTBR0_EL1: the
// early map has ASID 0, the final one ASID 1). Changes x1..x3.
el1_translation:
    ldr     x1, =MAIR_VALUE
    msr     mair_el1, x1
    mrs     x2, id_aa64mmfr0_el1        // PARange, at most 48 bits
    and     x2, x2, #0xf
    mov     x3, #5
    cmp     x2, x3
    csel    x2, x2, x3, lo
    ldr     x1, =TCR_VALUE
    bfi     x1, x2, #32, #3
    msr     tcr_el1, x1
    msr     ttbr0_el1, x22
    msr     ttbr1_el1, xzr
    msr     cpacr_el1, xzr              // FP is never used here: trap it
    adrp    x1, el1_vectors
    add     x1, x1, :lo12:el1_vectors
    msr     vbar_el1, x1
    isb
    ret

// Sets both stack pointers of CPU x0: SP_EL0 is the exception stack's, because
// this host runs with SP_EL1 only. Changes x1, x2.
el1_stacks:
    adrp    x1, __el1_stacks
    add     x1, x1, :lo12:__el1_stacks
    ldr     x2, ={step}
    madd    x1, x0, x2, x1
    add     x2, x1, x2
    msr     sp_el0, x2
    ldr     x2, ={top}
    add     sp, x1, x2
    ret

// Maps the 2 MiB block at x0 with descriptor attributes x1 in the early tables.
// Changes x4..x8 and x21 (takes a table). Keeps x0, x1.
el1_map_block:
    mov     x4, x22
    ubfx    x5, x0, #39, #9
    mov     x8, x30
    bl      .L_next_table
    ubfx    x5, x0, #30, #9
    bl      .L_next_table
    ubfx    x5, x0, #21, #9
    orr     x6, x0, x1
    str     x6, [x4, x5, lsl #3]
    ret     x8
.L_next_table:                          // x4 = table, x5 = index -> x4 = next table
    ldr     x6, [x4, x5, lsl #3]
    cbnz    x6, .L_have_table
    orr     x6, x21, #3
    str     x6, [x4, x5, lsl #3]
    add     x21, x21, #4096
.L_have_table:
    and     x4, x6, #0x0000fffffffff000
    ret

.section .bss.el1_early_tables, "aw", %nobits
.balign 4096
el1_early_tables:
    .space  4096 * EARLY_TABLES
