//! Self-hosted debug of a guest (DDI0487 D2): its breakpoints, watchpoints and locks.
//!
//! Knows what a guest reads and writes, and what of it the hardware may get. Every access of a
//! guest's traps (MDCR_EL2.TDA, TDOSA), so these words are all there is: nothing is read back from
//! the hardware. Must not know how a register is accessed.
//!
//! Invariants:
//! - I1: what the hardware gets matches at EL1 and EL0 only, by address or by the guest's own
//!   CONTEXTIDR_EL1; never by VMID, nor by a register of EL2's.
//! - I2: of `MDSCR_EL1` the hardware gets [`MDSCR_MASK`] only; the rest is an external debugger's.

use crate::bits::{flag, union};

/// Most breakpoints, and most watchpoints, that Armv8 has.
pub const MOST: usize = 16;

/// `MDSCR_EL1`.
pub mod mdscr {
    /// Software step.
    pub const SS: u64 = 1;
    /// EL0's accesses to the debug communication channel trap.
    pub const TDCC: u64 = 1 << 12;
    /// Debug exceptions within EL1.
    pub const KDE: u64 = 1 << 13;
    /// Breakpoints and watchpoints.
    pub const MDE: u64 = 1 << 15;
}

/// Bits of `MDSCR_EL1` that a guest may set. The others are views of `EDSCR`, which an OS could use
/// to save them while it holds the OS lock: an external debugger is none of a guest's business.
pub const MDSCR_MASK: u64 = union(&[mdscr::SS, mdscr::TDCC, mdscr::KDE, mdscr::MDE]);

/// Bits of `DBGBCR<n>_EL1` and `DBGWCR<n>_EL1`.
mod control {
    /// Enabled.
    pub const E: u64 = 1;
    /// Exception levels: bit 1 for EL1, bit 2 for EL0 (PMC, PAC).
    pub const LEVELS: u64 = 3 << 1;
    /// Loads, stores (watchpoints).
    pub const LSC: u64 = 3 << 3;
    /// Bytes of a word (breakpoints).
    pub const BAS: u64 = 0xf << 5;
    /// Bytes of a doubleword (watchpoints).
    pub const BYTES: u64 = 0xff << 5;
    /// Higher exception levels.
    pub const HMC: u64 = 1 << 13;
    /// Security states.
    pub const SSC: u64 = 3 << 14;
    /// In `SSC`: the Secure state only.
    pub const SECURE_ONLY: u64 = 2 << 14;
    /// The breakpoint linked to.
    pub const LBN: u64 = 0xf << 16;
    /// Breakpoint type.
    pub const BT: u64 = 0xf << 20;
    /// Types: an address, an address linked to a context, a context, and the context that is linked
    /// to. All others are of AArch32, or compare a VMID or what FEAT_VHE brings.
    pub const TYPES: [u64; 4] = [0, 1 << 20, 2 << 20, LINKED_CONTEXT];
    /// The context that an address is linked to: generates nothing by itself, and has no levels.
    pub const LINKED_CONTEXT: u64 = 3 << 20;
    /// A watchpoint is linked.
    pub const WT: u64 = 1 << 20;
    /// Address bits that a watchpoint ignores.
    pub const MASK: u64 = 0x1f << 24;
}

/// A breakpoint or a watchpoint.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Point {
    /// `DBGBVR<n>_EL1` or `DBGWVR<n>_EL1`.
    pub value: u64,
    /// `DBGBCR<n>_EL1` or `DBGWCR<n>_EL1`.
    pub control: u64,
}

/// Which register an access is to; points are numbered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "each is the register of that name")]
pub enum Register {
    BreakpointValue(u8),
    BreakpointControl(u8),
    WatchpointValue(u8),
    WatchpointControl(u8),
    OsLockAccess,
    OsLockStatus,
    OsDoubleLock,
    ClaimSet,
    ClaimClear,
}

/// The debug registers of a guest's CPU, but for `MDSCR_EL1`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Debug {
    breakpoints: [Point; MOST],
    watchpoints: [Point; MOST],
    os_lock: bool,
    double_lock: bool,
    claims: u8,
}

impl Debug {
    /// As after a reset: nothing enabled, the OS lock held.
    #[must_use]
    pub fn reset() -> Self {
        Self { os_lock: true, ..Self::default() }
    }

    /// Whether the OS lock is held, which keeps breakpoints, watchpoints and steps from happening.
    #[must_use]
    pub const fn os_lock(&self) -> bool {
        self.os_lock
    }

    /// What the guest reads. Write-only registers are never read.
    #[must_use]
    pub fn read(&self, register: Register) -> u64 {
        match register {
            Register::BreakpointValue(n) => point(&self.breakpoints, n).value,
            Register::BreakpointControl(n) => point(&self.breakpoints, n).control,
            Register::WatchpointValue(n) => point(&self.watchpoints, n).value,
            Register::WatchpointControl(n) => point(&self.watchpoints, n).control,
            Register::OsLockAccess => 0,
            // OSLM = 0b10: there is a lock. nTT = 0: OSLAR_EL1 takes 32 bits.
            Register::OsLockStatus => union(&[1 << 3, flag(self.os_lock, 1 << 1)]),
            Register::OsDoubleLock => flag(self.double_lock, 1),
            // Eight claim tags; each reads as one here.
            Register::ClaimSet => 0xff,
            Register::ClaimClear => u64::from(self.claims),
        }
    }

    /// What the guest writes. Read-only registers are never written.
    pub fn write(&mut self, register: Register, value: u64) {
        match register {
            Register::BreakpointValue(n) => edit(&mut self.breakpoints, n, |p| p.value = value),
            Register::BreakpointControl(n) => {
                edit(&mut self.breakpoints, n, |p| p.control = breakpoint_control(value));
            }
            // Bits 1:0 are RES0.
            Register::WatchpointValue(n) => {
                edit(&mut self.watchpoints, n, |p| p.value = value & !3)
            }
            Register::WatchpointControl(n) => {
                edit(&mut self.watchpoints, n, |p| p.control = watchpoint_control(value));
            }
            Register::OsLockAccess => self.os_lock = value & 1 != 0,
            Register::OsDoubleLock => self.double_lock = value & 1 != 0,
            Register::OsLockStatus => {}
            Register::ClaimSet => self.claims |= low_byte(value),
            Register::ClaimClear => self.claims &= !low_byte(value),
        }
    }

    /// A guest's `MDSCR_EL1` as the hardware gets it (I2). The double lock keeps every debug
    /// exception from happening; the hardware's own is not used for that, since it would shut EL2
    /// and an external debugger out too.
    #[must_use]
    pub const fn hardware_mdscr(&self, mdscr: u64) -> u64 {
        mdscr & if self.double_lock { mdscr::TDCC } else { MDSCR_MASK }
    }

    /// Whether, with this `MDSCR_EL1`, the guest's breakpoints and watchpoints must be in the
    /// hardware, and nobody else's.
    #[must_use]
    pub const fn uses_points(&self, mdscr: u64) -> bool {
        self.hardware_mdscr(mdscr) & mdscr::MDE != 0
    }

    /// Breakpoint `n` as the hardware gets it (I1).
    #[must_use]
    pub fn hardware_breakpoint(&self, n: usize) -> Point {
        let Point { value, control } = self.breakpoints.get(n).copied().unwrap_or_default();
        let kind = control & control::BT;
        let possible = if kind == control::LINKED_CONTEXT {
            control & control::E != 0
        } else {
            control::TYPES.contains(&kind) && happens_here(control)
        };
        confined(possible, value, control)
    }

    /// Watchpoint `n` as the hardware gets it (I1).
    #[must_use]
    pub fn hardware_watchpoint(&self, n: usize) -> Point {
        let Point { value, control } = self.watchpoints.get(n).copied().unwrap_or_default();
        confined(happens_here(control), value, control)
    }
}

/// Whether an enabled point can match at EL1 or EL0 of the Non-secure state.
const fn happens_here(control: u64) -> bool {
    control & control::E != 0
        && control & control::LEVELS != 0
        && control & control::SSC != control::SECURE_ONLY
}

/// With HMC and SSC clear a point matches at EL1 and EL0, as its levels say (DDI0487 D2.8.3). A
/// guest has neither an EL2 nor a Secure state that other combinations could name.
const fn confined(possible: bool, value: u64, control: u64) -> Point {
    if possible {
        Point { value, control: control & !union(&[control::HMC, control::SSC]) }
    } else {
        Point { value: 0, control: 0 }
    }
}

/// `DBGBCR<n>_EL1` as it reads back: bits 3 and 1 of BAS are copies of bits 2 and 0, for
/// breakpoints are on halfwords.
const fn breakpoint_control(value: u64) -> u64 {
    use control::{BAS, BT, E, HMC, LBN, LEVELS, SSC};
    let even = value & 0b0101 << 5;
    let kept = value & union(&[E, LEVELS, HMC, SSC, LBN, BT]);
    union(&[kept, union(&[even, even << 1]) & BAS])
}

/// `DBGWCR<n>_EL1` as it reads back.
const fn watchpoint_control(value: u64) -> u64 {
    use control::{BYTES, E, HMC, LBN, LEVELS, LSC, MASK, SSC, WT};
    value & union(&[E, LEVELS, LSC, BYTES, HMC, SSC, LBN, WT, MASK])
}

fn point(points: &[Point; MOST], n: u8) -> Point {
    points.get(usize::from(n)).copied().unwrap_or_default()
}

fn edit(points: &mut [Point; MOST], n: u8, change: impl FnOnce(&mut Point)) {
    if let Some(point) = points.get_mut(usize::from(n)) {
        change(point);
    }
}

const fn low_byte(value: u64) -> u8 {
    (value & 0xff) as u8
}

#[cfg(test)]
mod tests {
    use super::Register::*;
    use super::*;

    /// Enabled, at EL1 and EL0, the whole word.
    const ON: u64 = 0x1e7;

    fn with(register: Register, value: u64) -> Debug {
        let mut debug = Debug::reset();
        debug.write(register, value);
        debug
    }

    #[test]
    fn reset_enables_nothing_and_holds_the_os_lock() {
        let debug = Debug::reset();
        assert_eq!(debug.read(OsLockStatus), 0b1010);
        assert!(debug.os_lock());
        for n in 0..MOST {
            assert_eq!(debug.hardware_breakpoint(n), Point::default());
            assert_eq!(debug.hardware_watchpoint(n), Point::default());
        }
    }

    #[test]
    fn the_hardware_gets_a_guests_bits_of_mdscr_only() {
        let debug = Debug::reset();
        assert_eq!(debug.hardware_mdscr(u64::MAX), 0xb001);
        assert!(debug.uses_points(1 << 15));
        assert!(!debug.uses_points(!(1 << 15)));
    }

    #[test]
    fn each_point_has_its_own_words() {
        let mut debug = Debug::reset();
        for n in 0..16 {
            debug.write(BreakpointValue(n), 0x1000 + u64::from(n));
            debug.write(BreakpointControl(n), u64::from(n) << 16);
            debug.write(WatchpointValue(n), 0x2000 + 4 * u64::from(n));
            debug.write(WatchpointControl(n), u64::from(n) << 16 | 1 << 20);
        }
        let before = debug;
        for n in 16..=u8::MAX {
            debug.write(BreakpointControl(n), u64::MAX);
            debug.write(WatchpointValue(n), u64::MAX);
            assert_eq!((debug.read(BreakpointValue(n)), debug.read(WatchpointControl(n))), (0, 0));
        }
        assert_eq!(debug, before);
        for n in 0..16 {
            assert_eq!(debug.read(BreakpointValue(n)), 0x1000 + u64::from(n));
            assert_eq!(debug.read(BreakpointControl(n)), u64::from(n) << 16);
            assert_eq!(debug.read(WatchpointValue(n)), 0x2000 + 4 * u64::from(n));
            assert_eq!(debug.read(WatchpointControl(n)), u64::from(n) << 16 | 1 << 20);
        }
        assert_eq!(debug.hardware_breakpoint(MOST), Point::default());
        assert_eq!(debug.hardware_watchpoint(MOST), Point::default());
    }

    #[test]
    fn reserved_bits_of_the_points_read_as_zero() {
        let debug = with(BreakpointControl(3), u64::MAX);
        assert_eq!(debug.read(BreakpointControl(3)), 0x00ff_e1e7);
        let debug = with(WatchpointControl(3), u64::MAX);
        assert_eq!(debug.read(WatchpointControl(3)), 0x1f1f_ffff);
        let debug = with(WatchpointValue(3), u64::MAX);
        assert_eq!(debug.read(WatchpointValue(3)), !3);
        // A breakpoint's value may be a context: all of it is kept.
        let debug = with(BreakpointValue(3), u64::MAX);
        assert_eq!(debug.read(BreakpointValue(3)), u64::MAX);
    }

    #[test]
    fn a_breakpoint_selects_halfwords() {
        let bas = |value: u64| {
            with(BreakpointControl(0), value << 5).read(BreakpointControl(0)) >> 5 & 0xf
        };
        let read_back: Vec<_> = (0..16).map(bas).collect();
        assert_eq!(read_back, [0, 3, 0, 3, 12, 15, 12, 15, 0, 3, 0, 3, 12, 15, 12, 15]);
    }

    #[test]
    fn the_os_lock_goes_by_bit_0_and_shows_in_bit_1() {
        let mut debug = Debug::reset();
        for (written, held) in [(2, false), (1, true), (0, false), (u64::MAX, true)] {
            debug.write(OsLockAccess, written);
            assert_eq!(debug.os_lock(), held);
            assert_eq!(debug.read(OsLockStatus), if held { 0b1010 } else { 0b1000 });
        }
        assert_eq!(debug.read(OsLockAccess), 0);
        let before = debug;
        debug.write(OsLockStatus, 0);
        assert_eq!(debug, before);
    }

    #[test]
    fn the_double_lock_stops_debug_without_the_hardware_knowing() {
        let mut debug = with(OsDoubleLock, u64::MAX);
        assert_eq!(debug.read(OsDoubleLock), 1);
        assert_eq!(debug.hardware_mdscr(u64::MAX), mdscr::TDCC);
        assert!(!debug.uses_points(u64::MAX));
        debug.write(OsDoubleLock, 2);
        assert_eq!((debug.read(OsDoubleLock), debug.hardware_mdscr(MDSCR_MASK)), (0, MDSCR_MASK));
    }

    #[test]
    fn claim_tags_are_set_and_cleared_one_by_one() {
        let mut debug = with(ClaimSet, 0xf0f);
        assert_eq!((debug.read(ClaimSet), debug.read(ClaimClear)), (0xff, 0x0f));
        debug.write(ClaimSet, 0x10);
        debug.write(ClaimClear, 0xf03);
        assert_eq!(debug.read(ClaimClear), 0x1c);
    }

    #[test]
    fn what_matches_at_el1_or_el0_reaches_the_hardware_as_such() {
        const VALUE: u64 = 0xffff_8000_0012_3454;
        for levels in 1..4_u64 {
            // Any security state, Non-secure, and the reserved fourth, each with higher levels too.
            for others in [0, 1 << 14, 3 << 14, 1 << 13, 1 << 13 | 1 << 14] {
                let control = 1 | levels << 1 | 0xf << 5;
                let mut debug = with(BreakpointControl(2), control | others);
                debug.write(BreakpointValue(2), VALUE);
                assert_eq!(debug.hardware_breakpoint(2), Point { value: VALUE, control });
                let control = 1 | levels << 1 | 2 << 3 | 0x0f << 5 | 7 << 24;
                let mut debug = with(WatchpointControl(2), control | others);
                debug.write(WatchpointValue(2), VALUE);
                assert_eq!(debug.hardware_watchpoint(2), Point { value: VALUE, control });
            }
        }
    }

    #[test]
    fn what_cannot_match_there_is_off() {
        // Disabled, without a level, Secure only.
        for control in [ON & !1, ON & !6, ON | 2 << 14, ON | 2 << 14 | 1 << 13] {
            let debug = with(BreakpointControl(0), control);
            assert_eq!(debug.hardware_breakpoint(0), Point::default(), "{control:#x}");
            assert_eq!(debug.read(BreakpointControl(0)), control, "but reads back");
            let debug = with(WatchpointControl(0), control);
            assert_eq!(debug.hardware_watchpoint(0), Point::default(), "{control:#x}");
        }
    }

    #[test]
    fn only_addresses_and_contexts_are_compared() {
        for kind in 0..16_u64 {
            let mut debug = with(BreakpointControl(0), ON | kind << 20 | 5 << 16);
            debug.write(BreakpointValue(0), 0x1234);
            let expected = if kind < 4 {
                Point { value: 0x1234, control: ON | kind << 20 | 5 << 16 }
            } else {
                Point::default()
            };
            assert_eq!(debug.hardware_breakpoint(0), expected, "type {kind}");
            assert_eq!(debug.read(BreakpointControl(0)), ON | kind << 20 | 5 << 16, "reads back");
        }
        // The linked context needs no levels, but must be enabled.
        let linked = |control| with(BreakpointControl(0), control).hardware_breakpoint(0).control;
        assert_eq!(linked(1 | 3 << 20 | 2 << 14), 1 | 3 << 20);
        assert_eq!(linked(6 | 3 << 20), 0);
        // A watchpoint may be linked to it.
        let debug = with(WatchpointControl(0), ON | 1 << 20 | 5 << 16);
        assert_eq!(debug.hardware_watchpoint(0).control, ON | 1 << 20 | 5 << 16);
    }
}
