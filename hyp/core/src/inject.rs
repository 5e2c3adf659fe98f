//! Taking an exception to EL1 in software: what the CPU does between the cause and the first
//! instruction of the vector (DDI0487, AArch64.TakeException and J1.1.2), as a function of numbers.
//!
//! Used for guests and for the host. Must not know where registers live.

use crate::bits::union;
use crate::esr::{Esr, ec};

/// PSTATE bits as `SPSR_ELx` holds them (DDI0487 C5.2.19).
pub mod pstate {
    /// Exception level and stack pointer: EL0t.
    pub const EL0T: u64 = 0b0000;
    /// EL1t.
    pub const EL1T: u64 = 0b0100;
    /// EL1h.
    pub const EL1H: u64 = 0b0101;
    /// All of the mode field, bits 4:0.
    pub const MODE: u64 = 0x1f;
    /// AArch32.
    pub const NRW: u64 = 1 << 4;
    /// T32, in AArch32.
    pub const T: u64 = 1 << 5;
    /// Debug, SError, IRQ and FIQ masks.
    pub const DAIF: u64 = 0xf << 6;
    /// Branch type, in AArch64.
    pub const BTYPE: u64 = 3 << 10;
    /// Speculative store bypass safe, in AArch64.
    pub const SSBS: u64 = 1 << 12;
    /// All interrupt mask (FEAT_NMI).
    pub const ALLINT: u64 = 1 << 13;
    /// Illegal execution state.
    pub const IL: u64 = 1 << 20;
    /// Software step.
    pub const SS: u64 = 1 << 21;
    /// Privileged access never.
    pub const PAN: u64 = 1 << 22;
    /// Data independent timing.
    pub const DIT: u64 = 1 << 24;
    /// Tag check override.
    pub const TCO: u64 = 1 << 25;
    /// Condition flags.
    pub const NZCV: u64 = 0xf << 28;
}

/// `SCTLR_EL1` bits that say how PSTATE is set at entry.
pub mod sctlr {
    /// Set: PAN is left as it was.
    pub const SPAN: u64 = 1 << 23;
    /// The value that SSBS gets.
    pub const DSSBS: u64 = 1 << 44;
    /// Set: ALLINT is left clear.
    pub const SPINTMASK: u64 = 1 << 62;
}

/// Extensions with a PSTATE bit, as whoever is at EL1 has them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Features {
    /// FEAT_PAN.
    pub pan: bool,
    /// FEAT_SSBS.
    pub ssbs: bool,
    /// FEAT_MTE.
    pub mte: bool,
    /// FEAT_NMI.
    pub nmi: bool,
}

impl Features {
    /// From `ID_AA64PFR1_EL1` and `ID_AA64MMFR1_EL1`.
    #[must_use]
    pub const fn from_id(pfr1: u64, mmfr1: u64) -> Self {
        Self {
            pan: (mmfr1 >> 20) & 0xf != 0,
            ssbs: (pfr1 >> 4) & 0xf != 0,
            mte: (pfr1 >> 8) & 0xf != 0,
            nmi: (pfr1 >> 36) & 0xf != 0,
        }
    }
}

/// The state that is interrupted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Before {
    /// Address of the instruction that must not complete.
    pub pc: u64,
    /// PSTATE, as in `SPSR_EL2`.
    pub pstate: u64,
    /// `VBAR_EL1`.
    pub vbar: u64,
    /// `SCTLR_EL1`.
    pub sctlr: u64,
    /// What EL1 has.
    pub features: Features,
}

/// Why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// The instruction is undefined (also: a register of an extension that is not there).
    Undefined,
    /// Abort of a data access.
    DataAbort {
        /// The address accessed, if it is known.
        far: Option<u64>,
        /// It was a store.
        write: bool,
        /// It was cache maintenance or an address translation.
        cache_op: bool,
        /// What was wrong.
        status: Status,
    },
    /// Abort of an instruction fetch.
    InstructionAbort {
        /// The address fetched, if it is known.
        far: Option<u64>,
        /// What was wrong.
        status: Status,
    },
    /// The host touched memory that is not its own: the stage-2 abort itself, made to look taken at
    /// EL1, with S1PTW set. No stage-1 abort at EL1 has that bit, so the host can tell.
    Refused {
        /// `ESR_EL2` of the abort.
        esr: Esr,
        /// `FAR_EL2`.
        far: u64,
    },
}

/// Why an access aborts at EL1: of the status codes, those that are not of EL1's own translation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// Synchronous external abort.
    External,
    /// The same on a stage-1 table walk, at this level.
    ExternalOnWalk(u8),
    /// Unaligned, and the memory allows aligned accesses only.
    Alignment,
    /// Exclusive or atomic, and the memory allows neither.
    Unsupported,
}

impl Status {
    /// DFSC or IFSC.
    const fn code(self) -> u64 {
        match self {
            Self::External => 0x10,
            Self::ExternalOnWalk(level) => union(&[0x14, (level & 3) as u64]),
            Self::Alignment => 0x21,
            Self::Unsupported => 0x35,
        }
    }
}

/// What to write before the return to EL1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// New pc: the vector.
    pub pc: u64,
    /// New PSTATE (`SPSR_EL2`).
    pub pstate: u64,
    /// `SPSR_EL1`.
    pub spsr: u64,
    /// `ELR_EL1`.
    pub elr: u64,
    /// `ESR_EL1`.
    pub esr: u64,
    /// `FAR_EL1`, where the exception has an address.
    pub far: Option<u64>,
}

const IL: u64 = 1 << 25;
const WNR: u64 = 1 << 6;
const S1PTW: u64 = 1 << 7;
const CM: u64 = 1 << 8;
const FNV: u64 = 1 << 10;

/// Takes a synchronous exception to EL1.
#[must_use]
pub const fn take(before: &Before, cause: Cause) -> Entry {
    let same = from_el1(before.pstate);
    let (class, iss, far) = match cause {
        Cause::Undefined => (ec::UNKNOWN, 0, None),
        Cause::DataAbort { far, write, cache_op, status } => {
            let wnr = if write { WNR } else { 0 };
            let cm = if cache_op { CM } else { 0 };
            (ec::DATA_ABORT_LOWER, union(&[status.code(), fnv(far), wnr, cm]), far)
        }
        Cause::InstructionAbort { far, status } => {
            (ec::INSTRUCTION_ABORT_LOWER, union(&[status.code(), fnv(far)]), far)
        }
        Cause::Refused { esr, far } => {
            // ISV and the fields it guards are RES0 in ESR_EL1: keep FnV, EA, CM, WnR and FSC.
            let iss = union(&[esr.raw() & 0x77f, S1PTW]);
            let far = if iss & FNV == 0 { Some(far) } else { None };
            (esr.class(), iss, far)
        }
    };
    // The abort classes come in pairs: "same level" is the lower one's number with bit 0 set.
    let class = if same && class != ec::UNKNOWN { class | 1 } else { class };
    Entry {
        pc: (before.vbar & !0x7ff).wrapping_add(vector_offset(before.pstate)),
        pstate: entry_pstate(before),
        spsr: before.pstate,
        elr: before.pc,
        // IL is 1 for all of these: they are no 16-bit instruction's own syndrome.
        esr: union(&[(class as u64) << 26, IL, iss]),
        far,
    }
}

/// pc and PSTATE after the instruction at `pc` was emulated: past it, out of any guarded branch or
/// pending step, and one further in an IT block (DDI0487, AArch64.SSAdvance, AArch32.ITAdvance).
#[must_use]
pub const fn skip(pc: u64, spsr: u64, bytes: u64) -> (u64, u64) {
    let spsr = spsr & !pstate::SS;
    if spsr & pstate::NRW == 0 {
        return (pc.wrapping_add(bytes), spsr & !pstate::BTYPE);
    }
    // AArch32 addresses are 32 bits.
    let next = pc.wrapping_add(bytes) & 0xffff_ffff;
    let it = it_state(spsr);
    let it = if it & 7 == 0 { 0 } else { union(&[it & 0xe0, (it << 1) & 0x1f]) };
    let spsr = spsr & !union(&[0xfc << 8, 3 << 25]);
    (next, union(&[spsr, (it & 0xfc) << 8, (it & 3) << 25]))
}

/// ITSTATE of an AArch32 PSTATE: `IT[7:2]` is at 15:10, `IT[1:0]` at 26:25.
pub(crate) const fn it_state(spsr: u64) -> u64 {
    union(&[(spsr >> 8) & 0xfc, (spsr >> 25) & 3])
}

/// FAR not valid.
const fn fnv(far: Option<u64>) -> u64 {
    if far.is_some() { 0 } else { FNV }
}

const fn from_el1(before: u64) -> bool {
    before & pstate::NRW == 0 && before & 0xc != 0
}

/// DDI0487 D1.3.1.2: by where the exception comes from; synchronous is the first of each four.
const fn vector_offset(before: u64) -> u64 {
    if before & pstate::NRW != 0 {
        0x600
    } else if !from_el1(before) {
        0x400
    } else if before & 1 == 0 {
        0x000
    } else {
        0x200
    }
}

const fn entry_pstate(before: &Before) -> u64 {
    let old = before.pstate;
    let f = before.features;
    // Kept: flags and DIT. IL, SS, BTYPE, UAO and all AArch32 state become 0.
    let kept = old & union(&[pstate::NZCV, pstate::DIT]);
    let mut new = union(&[kept, pstate::DAIF, pstate::EL1H]);
    if f.pan {
        new |= old & pstate::PAN;
        if before.sctlr & sctlr::SPAN == 0 {
            new |= pstate::PAN;
        }
    }
    if f.ssbs && before.sctlr & sctlr::DSSBS != 0 {
        new |= pstate::SSBS;
    }
    if f.mte {
        new |= pstate::TCO;
    }
    if f.nmi && before.sctlr & sctlr::SPINTMASK == 0 {
        new |= pstate::ALLINT;
    }
    new
}

#[cfg(test)]
mod tests {
    use super::*;

    const VBAR: u64 = 0xffff_8000_0801_0800;
    const PC: u64 = 0xffff_8000_0012_3450;
    const EL0_32: u64 = 0x10;

    fn before(pstate: u64) -> Before {
        Before { pc: PC, pstate, vbar: VBAR, sctlr: 0, features: Features::default() }
    }

    #[test]
    fn the_bits_are_where_the_architecture_has_them() {
        let bits = [pstate::T, pstate::SSBS, pstate::ALLINT, pstate::IL, pstate::SS, pstate::PAN];
        assert_eq!(bits, [0x20, 0x1000, 0x2000, 0x10_0000, 0x20_0000, 0x40_0000]);
    }

    #[test]
    fn an_abort_from_the_level_it_goes_to_says_so_whatever_was_reported() {
        for class in [ec::DATA_ABORT_LOWER, ec::DATA_ABORT_LOWER | 1] {
            let cause = Cause::Refused { esr: Esr::new(u64::from(class) << 26), far: 0 };
            let entry = take(&before(pstate::EL1H), cause);
            assert_eq!(entry.esr >> 26, u64::from(ec::DATA_ABORT_LOWER) | 1, "{class:#x}");
        }
    }

    #[test]
    fn the_vector_is_chosen_by_where_the_exception_comes_from() {
        let offsets = [
            (pstate::EL1T, 0x000),
            (pstate::EL1H, 0x200),
            (pstate::EL0T, 0x400),
            (EL0_32, 0x600),
            (EL0_32 | pstate::T, 0x600),
            // A system mode of AArch32 cannot be; whatever it were, it is a lower level.
            (0x1f, 0x600),
        ];
        for (from, offset) in offsets {
            let entry = take(&before(from), Cause::Undefined);
            assert_eq!(entry.pc, VBAR + offset, "{from:#x}");
            assert_eq!((entry.elr, entry.spsr), (PC, from));
        }
        // VBAR[10:0] are RES0, whatever was written there.
        let odd = Before { vbar: VBAR | 0x7ff, ..before(pstate::EL1H) };
        assert_eq!(take(&odd, Cause::Undefined).pc, VBAR + 0x200);
    }

    #[test]
    fn undefined_has_no_syndrome_and_no_address() {
        for from in [pstate::EL1T, pstate::EL1H, pstate::EL0T, EL0_32] {
            let entry = take(&before(from), Cause::Undefined);
            assert_eq!((entry.esr, entry.far), (0x0200_0000, None));
        }
    }

    #[test]
    fn an_abort_says_from_which_level_what_and_where() {
        use Status::{Alignment, External, ExternalOnWalk, Unsupported};
        let far = Some(0x0900_0018);
        let data = |write, status| Cause::DataAbort { far, write, cache_op: false, status };
        let maintenance = Cause::DataAbort { far, write: true, cache_op: true, status: External };
        let fetch = |status| Cause::InstructionAbort { far, status };
        let table = [
            (data(false, External), 0x9600_0010, 0x9200_0010),
            (data(true, External), 0x9600_0050, 0x9200_0050),
            (data(false, ExternalOnWalk(0)), 0x9600_0014, 0x9200_0014),
            (data(true, ExternalOnWalk(3)), 0x9600_0057, 0x9200_0057),
            (data(true, Alignment), 0x9600_0061, 0x9200_0061),
            (data(true, Unsupported), 0x9600_0075, 0x9200_0075),
            (maintenance, 0x9600_0150, 0x9200_0150),
            (fetch(External), 0x8600_0010, 0x8200_0010),
            (fetch(ExternalOnWalk(1)), 0x8600_0015, 0x8200_0015),
        ];
        for (cause, same, lower) in table {
            for (from, esr) in
                [(pstate::EL1T, same), (pstate::EL1H, same), (pstate::EL0T, lower), (EL0_32, lower)]
            {
                let entry = take(&before(from), cause);
                assert_eq!((entry.esr, entry.far), (esr, far), "{cause:?} {from:#x}");
            }
        }
        // Without an address.
        let data = Cause::DataAbort { far: None, write: false, cache_op: false, status: External };
        let entry = take(&before(pstate::EL1H), data);
        assert_eq!((entry.esr, entry.far), (0x9600_0410, None));
        let fetch = Cause::InstructionAbort { far: None, status: External };
        let entry = take(&before(pstate::EL0T), fetch);
        assert_eq!((entry.esr, entry.far), (0x8200_0410, None));
    }

    #[test]
    fn a_refused_host_access_is_its_own_abort_marked_s1ptw() {
        let refused = |esr| Cause::Refused { esr: Esr::new(esr), far: 0x1234 };
        // str w1, [x0]: permission fault, level 3, described; EL1 has no use for the description.
        let esr = 0x9381_004f;
        let entry = take(&before(pstate::EL1H), refused(esr));
        assert_eq!((entry.esr, entry.far), (0x9600_00cf, Some(0x1234)));
        assert_eq!(take(&before(pstate::EL0T), refused(esr)).esr, 0x9200_00cf);
        let fetch = take(&before(pstate::EL1H), refused(0x8200_0007));
        assert_eq!((fetch.esr, fetch.far), (0x8600_0087, Some(0x1234)));
        // CM, EA and WnR stay; with FnV there is no address.
        let unknown = take(&before(pstate::EL1H), refused(0x9200_0750));
        assert_eq!((unknown.esr, unknown.far), (0x9600_07d0, None));
    }

    #[test]
    fn everything_is_masked_and_only_flags_and_dit_survive() {
        let masked = pstate::DAIF | pstate::EL1H;
        let new = |old| take(&before(old), Cause::Undefined).pstate;
        assert_eq!(new(pstate::EL0T), masked);
        assert_eq!(new(u64::MAX), masked | pstate::NZCV | pstate::DIT);
        for bit in 0..64 {
            let kept = matches!(bit, 24 | 28..=31);
            let expected = if kept { masked | 1 << bit } else { masked };
            assert_eq!(new(1 << bit), expected, "bit {bit}");
        }
    }

    fn entered(old: u64, sctlr: u64, features: Features) -> u64 {
        let before = Before { sctlr, features, ..before(old) };
        take(&before, Cause::Undefined).pstate & !(pstate::DAIF | pstate::EL1H)
    }

    #[test]
    fn pan_is_set_unless_span_says_to_leave_it() {
        let pan = Features { pan: true, ..Features::default() };
        assert_eq!(entered(0, 0, pan), pstate::PAN);
        assert_eq!(entered(0, sctlr::SPAN, pan), 0);
        assert_eq!(entered(pstate::PAN, sctlr::SPAN, pan), pstate::PAN);
        assert_eq!(entered(pstate::PAN, 0, pan), pstate::PAN);
        assert_eq!(entered(pstate::PAN, 0, Features::default()), 0);
    }

    #[test]
    fn other_extensions_set_their_bits_where_they_exist() {
        let none = Features::default();
        let ssbs = Features { ssbs: true, ..none };
        assert_eq!(entered(pstate::SSBS, 0, ssbs), 0);
        assert_eq!(entered(0, sctlr::DSSBS, ssbs), pstate::SSBS);
        assert_eq!(entered(0, sctlr::DSSBS, none), 0);
        let mte = Features { mte: true, ..none };
        assert_eq!(entered(0, 0, mte), pstate::TCO);
        let nmi = Features { nmi: true, ..none };
        assert_eq!(entered(0, 0, nmi), pstate::ALLINT);
        assert_eq!(entered(pstate::ALLINT, sctlr::SPINTMASK, nmi), 0);
    }

    #[test]
    fn features_are_read_from_their_fields() {
        let none = Features::default();
        assert_eq!(Features::from_id(0, 0), none);
        assert_eq!(Features::from_id(0, 1 << 20), Features { pan: true, ..none });
        assert_eq!(Features::from_id(2 << 4, 0), Features { ssbs: true, ..none });
        assert_eq!(Features::from_id(1 << 8, 0), Features { mte: true, ..none });
        assert_eq!(Features::from_id(1 << 36, 0), Features { nmi: true, ..none });
        let others = !((0xf << 4) | (0xf << 8) | (0xf << 36));
        assert_eq!(Features::from_id(others, !(0xf << 20)), none);
    }

    #[test]
    fn an_emulated_instruction_is_skipped_with_its_step_and_branch_state() {
        let spsr = pstate::EL1H | pstate::NZCV | pstate::IL;
        assert_eq!(skip(PC, spsr | pstate::SS | pstate::BTYPE, 4), (PC + 4, spsr));
        assert_eq!(skip(u64::MAX - 3, 0, 4), (0, 0));
    }

    #[test]
    fn skipping_in_aarch32_stays_in_32_bits_and_advances_the_it_block() {
        let it = |it: u64| EL0_32 | pstate::T | ((it >> 2) << 10) | ((it & 3) << 25);
        assert_eq!(skip(0xffff_fffe, it(0), 2), (0, it(0)));
        assert_eq!(skip(0x1000, EL0_32, 4), (0x1004, EL0_32));
        // ITTE EQ: 0b0000_0110 -> 0b0000_1100 -> 0b0000_1000 -> outside.
        for (now, next) in
            [(0x06, 0x0c), (0x0c, 0x18), (0x18, 0), (0xe8, 0), (0xe4, 0xe8), (0xe1, 0xe2)]
        {
            assert_eq!(skip(0, it(now), 2).1, it(next), "{now:#x}");
        }
    }
}
