//! The self-hosted debug registers (DDI0487 D2), which change hands like the rest of EL1's.
//!
//! Knows how to access them and when they must be whose. What a guest may have in them the core has
//! decided (`hyp_core::debug`). With MDCR_EL2.TDE clear debug exceptions go to EL1 and none is taken
//! from EL2, so it does not matter to EL2's own code whose registers are loaded.
//!
//! Breakpoints and watchpoints do nothing unless MDSCR_EL1.MDE is set: the host's stay where they
//! are until a guest with MDE set runs, and then come back when the host does.

use core::arch::asm;

use aarch64_cpu::registers::MDSCR_EL1;
use hyp_core::debug::{Debug, MDSCR_MASK, MOST, Point};
use hyp_core::sysreg::ID_AA64DFR0_EL1;
use tock_registers::interfaces::{Readable, Writeable};

use super::idreg;
use super::sysreg::{isb, oslsr_el1, set_oslar_el1};

/// OSLSR_EL1.OSLK.
const OSLK: u64 = 1 << 1;

/// All breakpoints and watchpoints of a CPU; of those that it lacks, zeros.
#[derive(Debug)]
struct Points {
    breakpoints: [Point; MOST],
    watchpoints: [Point; MOST],
}

/// What the host had when a guest took its place.
#[derive(Debug)]
pub struct Away {
    mdscr: u64,
    os_lock: u64,
    /// Its breakpoints and watchpoints, once a guest's are in the hardware.
    points: Option<Points>,
}

impl Away {
    /// Notes the host's registers, which stay where they are.
    pub fn note() -> Self {
        let os_lock = u64::from(oslsr_el1() & OSLK != 0);
        Self { mdscr: MDSCR_EL1.get(), os_lock, points: None }
    }

    /// Puts a guest's registers in force; `mdscr` is its MDSCR_EL1.
    pub fn load_guest(&mut self, mdscr: u64, debug: &Debug) {
        if debug.uses_points(mdscr) {
            if self.points.is_none() {
                self.points = Some(Points::read());
            }
            let breakpoints = core::array::from_fn(|n| debug.hardware_breakpoint(n));
            let watchpoints = core::array::from_fn(|n| debug.hardware_watchpoint(n));
            Points { breakpoints, watchpoints }.write();
        }
        // Bits that are views of EDSCR stay as they are: under the OS lock they could be written.
        MDSCR_EL1.set((self.mdscr & !MDSCR_MASK) | debug.hardware_mdscr(mdscr));
        set_oslar_el1(u64::from(debug.os_lock()));
    }

    /// Gives the host its own back.
    pub fn restore(&self) {
        if let Some(points) = &self.points {
            points.write();
        }
        set_oslar_el1(self.os_lock);
        isb(); // what MDSCR_EL1 takes depends on the lock
        MDSCR_EL1.set(self.mdscr);
    }
}

impl Points {
    fn read() -> Self {
        let (breakpoints, watchpoints) = counts();
        Self {
            breakpoints: core::array::from_fn(|n| {
                if n < breakpoints { read_breakpoint(n) } else { Point::default() }
            }),
            watchpoints: core::array::from_fn(|n| {
                if n < watchpoints { read_watchpoint(n) } else { Point::default() }
            }),
        }
    }

    fn write(&self) {
        let (breakpoints, watchpoints) = counts();
        for (n, point) in self.breakpoints.iter().enumerate().take(breakpoints) {
            write_breakpoint(n, point);
        }
        for (n, point) in self.watchpoints.iter().enumerate().take(watchpoints) {
            write_watchpoint(n, point);
        }
    }
}

/// How many breakpoints and watchpoints this CPU has.
fn counts() -> (usize, usize) {
    let dfr0 = idreg::read(ID_AA64DFR0_EL1);
    (((dfr0 >> 12) & 0xf) as usize + 1, ((dfr0 >> 20) & 0xf) as usize + 1)
}

macro_rules! points {
    ($read:ident, $write:ident, $value:literal, $control:literal, $($n:literal)*) => {
        fn $read(n: usize) -> Point {
            let (value, control): (u64, u64);
            match n {
                $($n => {
                    // SAFETY: 1. Reading these has no side effect. 2. The CPU says that it has them
                    //    (`counts`).
                    unsafe {
                        asm!(
                            concat!("mrs {}, ", $value, $n, "_el1"),
                            concat!("mrs {}, ", $control, $n, "_el1"),
                            out(reg) value, out(reg) control, options(nostack, preserves_flags)
                        );
                    }
                })*
                _ => (value, control) = (0, 0),
            }
            Point { value, control }
        }
        /// The control register last, so that no point is on with another's address.
        fn $write(n: usize, point: &Point) {
            match n {
                $($n => {
                    // SAFETY: 1. They govern EL1 and EL0 only (the head of this module). 2. The CPU
                    //    says that it has them (`counts`).
                    unsafe {
                        asm!(
                            concat!("msr ", $control, $n, "_el1, xzr"),
                            concat!("msr ", $value, $n, "_el1, {}"),
                            concat!("msr ", $control, $n, "_el1, {}"),
                            in(reg) point.value, in(reg) point.control,
                            options(nostack, preserves_flags)
                        );
                    }
                })*
                _ => {}
            }
        }
    };
}

points! { read_breakpoint, write_breakpoint, "dbgbvr", "dbgbcr", 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 }
points! { read_watchpoint, write_watchpoint, "dbgwvr", "dbgwcr", 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 }
