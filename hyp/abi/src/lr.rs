//! The list-register format of the ABI: GICv3's `ICH_LR<n>_EL2` (IHI0069 12.4.x), for both GIC
//! versions. On a GICv2 EL2 converts to `GICH_LR<n>` (IHI0048 5.3.x).
//!
//! One addition: without the hardware bit, the three bits above the physical INTID field's low
//! end carry the source CPU of a GICv2 SGI (GICv3 has no such thing).

/// State: inactive (the register is free).
pub const STATE_INVALID: u64 = 0;
/// State: pending.
pub const STATE_PENDING: u64 = 1 << 62;
/// State: active.
pub const STATE_ACTIVE: u64 = 1 << 63;
/// Both state bits.
pub const STATE_MASK: u64 = 3 << 62;
/// The virtual interrupt is linked to a physical one, which its deactivation deactivates.
pub const HW: u64 = 1 << 61;
/// Group 1.
pub const GROUP1: u64 = 1 << 60;
/// Priority field, 8 bits.
pub const PRIORITY_SHIFT: u32 = 48;
/// Physical INTID (with [`HW`]), 10 bits used.
pub const PINTID_SHIFT: u32 = 32;
/// Without [`HW`]: raise a maintenance interrupt at deactivation.
pub const EOI: u64 = 1 << 41;
/// Without [`HW`]: source CPU of a GICv2 SGI, 3 bits.
pub const SOURCE_SHIFT: u32 = 32;
/// Virtual INTID, low 32 bits; Redan uses INTIDs below 1020.
pub const VINTID_MASK: u64 = 0xffff_ffff;
/// Most list registers that any GIC has.
pub const MAX: usize = 16;

/// The virtual INTID.
#[must_use]
pub const fn vintid(lr: u64) -> u32 {
    (lr & VINTID_MASK) as u32
}
/// The physical INTID field (10 bits); meaningful with [`HW`].
#[must_use]
pub const fn pintid(lr: u64) -> u32 {
    ((lr >> PINTID_SHIFT) & 0x3ff) as u32
}
/// The priority, 0 highest.
#[must_use]
pub const fn priority(lr: u64) -> u8 {
    ((lr >> PRIORITY_SHIFT) & 0xff) as u8
}
