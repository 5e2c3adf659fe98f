//! Accesses to the registers, and what must hold between them (IHI0048 4.3, IHI0069 12.8 to 12.11).

use host_vmm::vgic::{Access, Version, Vgic};

use crate::Tape;

/// Size of one redistributor, and where its second frame begins.
pub const REDIST: u64 = 0x2_0000;
pub const SGI_FRAME: u64 = 0x1_0000;
/// Accesses of one input that are looked at closely.
const LOOKS: usize = 2;
/// Where the kinds of registers begin.
const FILES: [u64; 16] = [
    0x000, 0x080, 0x100, 0x180, 0x200, 0x280, 0x300, 0x380, 0x400, 0x800, 0xc00, 0xf00, 0xf10,
    0xf20, 0x6100, 0xffe0,
];

/// An access to the distributor, most often one that is allowed.
pub fn dist(tape: &mut Tape<'_>) -> Access {
    let (kind, at) = (tape.byte(), u64::from(tape.byte()));
    let size = [4, 4, 4, 1, 8, 2, 4, 1][usize::from(kind & 7)];
    if kind & 0x80 != 0 {
        return Access { offset: at << 8 | u64::from(tape.byte()), size };
    }
    let step = if size == 1 { 1 } else { size.max(4) };
    Access { offset: FILES[usize::from(kind >> 3)] + at % 64 * step, size }
}

/// An access to the redistributors; one in eight goes behind the last of them.
pub fn redist(tape: &mut Tape<'_>, vcpus: usize) -> Access {
    let of = u64::from(tape.byte()) % (vcpus as u64 + 1);
    let frame = if tape.flag() { 0 } else { SGI_FRAME };
    let Access { offset, size } = dist(tape);
    Access { offset: of * REDIST + frame + offset, size }
}

pub fn value(tape: &mut Tape<'_>) -> u64 {
    let kind = tape.byte();
    match kind & 3 {
        0 => 1 << (kind >> 2 & 31),
        1 => u64::MAX,
        2 => u64::from(tape.byte()) * 0x0101_0101,
        _ => tape.long(),
    }
}

/// Registers that bytes may access: IPRIORITYR, and on a GICv2 ITARGETSR, CPENDSGIR, SPENDSGIR.
fn takes_bytes(v2: bool, offset: u64) -> bool {
    (0x400..0x800).contains(&offset)
        || v2 && ((0x800..0xc00).contains(&offset) || (0xf10..0xf30).contains(&offset))
}

/// Whether an access of this size means anything there.
fn allowed(gic: &Vgic, Access { offset, size }: Access) -> bool {
    let v2 = gic.version() == Version::V2;
    match size {
        1 => takes_bytes(v2, offset),
        4 => offset.is_multiple_of(4),
        8 => !v2 && offset.is_multiple_of(8) && (0x6000..0x8000).contains(&offset),
        _ => false,
    }
}

/// Writes; answers 1 if nothing may change by it. Of these only the first few are looked at: that takes
/// long.
pub fn write_dist(gic: &mut Vgic, vcpu: usize, access: Access, value: u64, odd: usize) -> usize {
    let nothing = !allowed(gic, access);
    let before = (nothing && odd < LOOKS).then(|| state(gic));
    gic.write_dist(vcpu, access, value);
    assert!(before.is_none_or(|before| state(gic) == before), "{access:x?}");
    usize::from(nothing)
}

/// The same for the redistributors.
pub fn write_redist(gic: &mut Vgic, access: Access, value: u64, odd: usize) -> usize {
    let there = access.offset < gic.redist_size();
    let bytes = takes_bytes(false, access.offset % REDIST % SGI_FRAME);
    let allowed = match access.size {
        1 => bytes,
        4 => access.offset.is_multiple_of(4),
        _ => false,
    };
    let nothing = !(there && allowed);
    let before = (nothing && odd < LOOKS).then(|| state(gic));
    gic.write_redist(access, value);
    assert!(before.is_none_or(|before| state(gic) == before), "{access:x?}");
    usize::from(nothing)
}

/// All of it, once it has looked where something may be new.
fn state(gic: &Vgic) -> String {
    let mut gic = gic.clone();
    let news = gic.news();
    format!("{news:?} {gic:?}")
}

/// Registers that show the same state show the same value, in every size; others show nothing.
pub fn check_dist(gic: &Vgic, vcpu: usize, tape: &mut Tape<'_>) {
    let access = dist(tape);
    let read = |offset, size| gic.read_dist(vcpu, Access { offset, size });
    let found = read(access.offset, access.size);
    if !allowed(gic, access) {
        return assert_eq!(found, 0, "{access:x?}");
    }
    let word = access.offset & !3;
    if takes_bytes(gic.version() == Version::V2, word) {
        let bytes = (0..4).rev().fold(0, |all, n| all << 8 | read(word + n, 1));
        assert_eq!(read(word, 4), bytes, "{word:#x}");
    }
    pairs(word, |offset| read(offset, 4));
    if access.size == 8 {
        assert_eq!(found, read(access.offset, 4) | read(access.offset + 4, 4) << 32);
        assert_eq!(found & !0xff_00ff_ffff, 0, "an affinity");
    }
    if (0x800..0xc00).contains(&word) {
        let exist = (0..8).filter(|n| gic_has(gic, *n)).fold(0, |all, n| all | 1 << n);
        assert_eq!(read(word, 1) & !exist, 0, "a target that does not exist");
    }
}

/// ISxR and ICxR show the same; a priority has the bits that list registers have.
fn pairs(word: u64, read: impl Fn(u64) -> u64) {
    if (0x100..0x400).contains(&word) {
        assert_eq!(read(word & !0x80), read(word | 0x80), "{word:#x}");
    }
    if (0x400..0x800).contains(&word) {
        assert_eq!(read(word) & 0x0707_0707, 0, "{word:#x}");
    }
}

/// GICD_TYPER.CPUNumber of a GICv2.
fn gic_has(gic: &Vgic, cpu: u64) -> bool {
    cpu <= gic.read_dist(0, Access { offset: 4, size: 4 }) >> 5 & 7
}

pub fn check_redist(gic: &Vgic, vcpus: usize, tape: &mut Tape<'_>) {
    let access = redist(tape, vcpus);
    let found = gic.read_redist(access);
    let inner = access.offset % REDIST;
    let frame = access.offset - inner;
    assert!(frame < gic.redist_size() || found == 0, "{access:x?}");
    let read = |offset, size| gic.read_redist(Access { offset: frame + offset, size });
    if let Some(word) = inner.checked_sub(SGI_FRAME).map(|o| o & !3) {
        if (0x400..0x420).contains(&word) {
            let bytes = (0..4).rev().fold(0, |all, n| all << 8 | read(SGI_FRAME + word + n, 1));
            assert_eq!(read(SGI_FRAME + word, 4), bytes, "{word:#x}");
        }
        pairs(word, |offset| read(SGI_FRAME + offset, 4));
    }
    if access.size == 2 {
        assert_eq!(found, 0);
    }
}

/// An interrupt that becomes pending in a list register may go to this vCPU.
pub fn deliverable(gic: &Vgic, vcpu: usize, intid: u32) {
    let n = u64::from(intid / 32) * 4;
    let bit = |offset| bank_word(gic, vcpu, intid, offset + n) >> (intid % 32) & 1 != 0;
    assert!(bit(0x100), "{intid} is not enabled");
    assert!(bit(0x200), "{intid} is not pending");
    let group = if bit(0x080) { 2 } else { 1 };
    let read = |offset, size| gic.read_dist(vcpu, Access { offset, size });
    assert!(read(0, 4) & group != 0, "the group of {intid} is not enabled");
    if intid < 32 {
        return;
    }
    let at = u64::from(intid);
    match gic.version() {
        Version::V2 if gic_has(gic, 1) => {
            assert!(read(0x800 + at, 1) >> vcpu & 1 != 0, "{intid} is not for vCPU {vcpu}");
        }
        Version::V2 => {}
        Version::V3 => assert_eq!(read(0x6000 + at * 8, 8), vcpu as u64, "{intid}'s route"),
    }
}

/// A word of a register file that has a bit for each interrupt, as this vCPU has it.
pub fn bank_word(gic: &Vgic, vcpu: usize, intid: u32, offset: u64) -> u64 {
    if intid < 32 && gic.version() == Version::V3 {
        let offset = vcpu as u64 * REDIST + SGI_FRAME + offset;
        return gic.read_redist(Access { offset, size: 4 });
    }
    gic.read_dist(vcpu, Access { offset, size: 4 })
}
