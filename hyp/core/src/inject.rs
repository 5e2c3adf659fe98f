//! Taking an exception to EL1 in software: what the CPU does between the cause and the first
//! instruction of the vector (DDI0487, AArch64.TakeException and J1.1.2), as a function of numbers.
//!
//! Used for guests and for the host. Must not know where registers live.

use crate::esr::{Esr, ec};

/// PSTATE bits as `SPSR_ELx` holds them (DDI0487 C5.2.19).
pub mod pstate {
    /// Exception level and stack pointer: EL0t.
    pub const EL0T: u64 = 0b0000;
    /// EL1t.
    pub const EL1T: u64 = 0b0100;
    /// EL1h.
    pub const EL1H: u64 = 0b0101;
    /// All of the mode field, M[4:0].
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
    /// Synchronous external abort of a data access.
    DataAbort {
        /// The address accessed.
        far: u64,
        /// It was a store.
        write: bool,
        /// On a stage-1 table walk, at this level.
        walk_level: Option<u8>,
    },
    /// Synchronous external abort of an instruction fetch.
    InstructionAbort {
        /// The address fetched.
        far: u64,
        /// On a stage-1 table walk, at this level.
        walk_level: Option<u8>,
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
const FNV: u64 = 1 << 10;

/// Takes a synchronous exception to EL1.
#[must_use]
pub const fn take(before: &Before, cause: Cause) -> Entry {
    let same = from_el1(before.pstate);
    let (class, iss, far) = match cause {
        Cause::Undefined => (ec::UNKNOWN, 0, None),
        Cause::DataAbort { far, write, walk_level } => {
            let wnr = if write { WNR } else { 0 };
            (ec::DATA_ABORT_LOWER, external(walk_level) | wnr, Some(far))
        }
        Cause::InstructionAbort { far, walk_level } => {
            (ec::INSTRUCTION_ABORT_LOWER, external(walk_level), Some(far))
        }
        Cause::Refused { esr, far } => {
            // ISV and the fields it guards are RES0 in ESR_EL1: keep FnV, EA, CM, WnR and FSC.
            let iss = (esr.raw() & 0x77f) | S1PTW;
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
        esr: ((class as u64) << 26) | IL | iss,
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
    // AArch32 addresses are 32 bits. IT[7:2] is at 15:10, IT[1:0] at 26:25.
    let next = pc.wrapping_add(bytes) & 0xffff_ffff;
    let it = ((spsr >> 8) & 0xfc) | ((spsr >> 25) & 3);
    let it = if it & 7 == 0 { 0 } else { (it & 0xe0) | ((it << 1) & 0x1f) };
    let spsr = spsr & !((0xfc << 8) | (3 << 25));
    (next, spsr | ((it & 0xfc) << 8) | ((it & 3) << 25))
}

/// External abort status: 0x10, or on a walk 0x14 + level.
const fn external(walk_level: Option<u8>) -> u64 {
    match walk_level {
        None => 0x10,
        Some(level) => 0x14 | (level & 3) as u64,
    }
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
    let mut new = (old & (pstate::NZCV | pstate::DIT)) | pstate::DAIF | pstate::EL1H;
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
