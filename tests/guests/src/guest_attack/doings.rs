//! The single operations of the attack.

use core::arch::asm;
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::cell::{self, BLOCK, SCRATCH, SHARED, USER};
use super::{Attack, found, soup};
use crate::console::write32;
use crate::gic::{self, To, dist};
use crate::probe::Outcome;
use crate::timer::{self, ENABLE, VIRTUAL_PPI};
use crate::{machine, psci, start, trap, try_insn, write};

const BRK: u32 = 0xd420_0000;
const HVC: u32 = 0xd400_0002;
const SMC: u32 = 0xd400_0003;
/// The attack's own limit on any stay in the cell.
const STAY_MS: u64 = 20;
/// PSCI functions that end, stop or suspend, by their number.
const ENDINGS: [u64; 9] = [0x01, 0x02, 0x08, 0x09, 0x0c, 0x0d, 0x0e, 0x12, 0x13];
const CPU_ON: u64 = 0x03;

/// Loads, stores, maintenance and translations of the address in x0, with x1 to x3 as data; and
/// branches to it.
const ACCESSES: [u32; 40] = [
    0x3940_0001, // LDRB
    0x7940_0001, // LDRH
    0xb940_0001, // LDR W
    0xf940_0001, // LDR X
    0x3980_0001, // LDRSB
    0xb980_0001, // LDRSW
    0xa940_0801, // LDP
    0xf840_8401, // LDR post-indexed
    0xc85f_fc01, // LDAXR
    0x085f_7c01, // LDXRB
    0xc87f_0801, // LDXP
    0xc8df_fc01, // LDAR
    0x3dc0_0000, // LDR Q
    0xad40_0400, // LDP Q
    0x3900_0001, // STRB
    0x7900_0001, // STRH
    0xb900_0001, // STR W
    0xf900_0001, // STR X
    0xa900_0801, // STP
    0xf81f_8c01, // STR pre-indexed
    0xc803_7c01, // STXR
    0xc823_0801, // STXP
    0xc89f_fc01, // STLR
    0x3d80_0000, // STR Q
    0xf821_0002, // LDADD
    0xf821_8002, // SWP
    0xc8a1_7c02, // CAS
    0x4820_7c02, // CASP
    0xd50b_7420, // DC ZVA
    0xd508_7620, // DC IVAC
    0xd50b_7a20, // DC CVAC
    0xd50b_7e20, // DC CIVAC
    0xd50b_7520, // IC IVAU
    0xd508_7800, // AT S1E1R
    0xd508_7820, // AT S1E1W
    0xd508_7840, // AT S1E0R
    0xf980_0000, // PRFM
    0xd61f_0000, // BR
    0xd63f_0000, // BLR
    0xd65f_0000, // RET
];

/// Exception classes of EL2 and EL3, which EL1 must never see.
const FOREIGN: [u64; 6] = [0x12, 0x13, 0x16, 0x17, 0x1a, 0x36];

static TALLY: [AtomicU64; 16] = [const { AtomicU64::new(0) }; 16];

/// How often the cell was left by each vector.
pub fn tally() -> [u64; 16] {
    core::array::from_fn(|kind| TALLY[kind].load(Relaxed))
}

/// Whether PSCI says that a CPU is off.
pub fn is_off(cpu: usize) -> bool {
    psci::status(psci::AFFINITY_INFO, machine::mpidr(cpu), 0, 0) == 1
}

impl Attack {
    /// One operation.
    pub fn one(&mut self) {
        match self.rng.below(20) {
            0..=4 => self.access(),
            5..=8 => self.soup(),
            9..=11 => self.system(),
            12..=13 => self.call(),
            14 => self.storm(),
            15 => self.timers(),
            16 => self.tables(),
            17 => self.rewrite(),
            18 => self.wait(),
            _ => self.eret(),
        }
    }

    /// An address that somebody may have thought nobody would use.
    fn address(&mut self) -> u64 {
        let gic = gic::get();
        let m = machine::get();
        let at = match self.rng.below(12) {
            0 => gic.dist() + self.rng.below(0x1_0000),
            1 => gic.local() + self.rng.below(0x2_0000),
            2 => m.uart + 4 + self.rng.below(0xffc),
            3 => self.rng.below(0x4000_0000),
            4 | 5 => cell::scratch() + self.rng.below(BLOCK),
            6 => SHARED + self.rng.below(BLOCK),
            7 => m.ram.0 + self.rng.below(m.ram.1),
            8 => m.ram.0 + m.ram.1 + self.rng.below(1 << 32),
            9 => 1 << self.rng.below(40),
            10 => gic.dist() + self.rng.below(64) * 0x1_0000 + self.rng.below(0x1000),
            _ => self.rng.hostile(),
        };
        let at = if self.rng.one_in(4) { at } else { at & !7 };
        let (first, last) = start::image();
        // What is sent to the console would be taken for what we say; and who branches into our own
        // code might stay there for ever.
        if at & !0x1f == m.uart {
            at | 0x20
        } else if (first - 64..last).contains(&at) {
            at | SHARED
        } else {
            at
        }
    }

    /// Runs `code` in the cell; judges how it left.
    fn run(&mut self, code: &[u32]) {
        let entry = cell::scratch() + (self.rng.below(BLOCK / 2) & !0xff);
        for (n, insn) in code.iter().chain(&[BRK, BRK]).enumerate() {
            write32(entry + 4 * n as u64, *insn);
        }
        let _ = try_insn!("dsb ish\nic iallu\ndsb ish\nisb");
        let user = self.rng.one_in(8);
        let masks = [0x340, 0x3c0, 0x300, 0x000][self.rng.below(4) as usize];
        let area = cell::area();
        area.pc = if user { entry + USER } else { entry };
        area.pstate = masks | if user { 0 } else { 4 + self.rng.below(2) };
        self.limit();
        cell::enter();
        // Who branches here later must not meet an old branch to where it is.
        for n in 0..code.len() as u64 {
            write32(entry + 4 * n, BRK);
        }
        self.judge();
    }

    /// The timer that ends a stay in the cell.
    fn limit(&mut self) {
        if self.rng.one_in(2) {
            gic::get().set_priority(VIRTUAL_PPI, 0);
            gic::get().enable(VIRTUAL_PPI);
            write!("cntv_cval_el0", timer::now() + timer::ticks(STAY_MS));
            write!("cntv_ctl_el0", ENABLE);
        }
    }

    fn judge(&mut self) {
        let area = cell::area();
        let (kind, esr, elr, far) = (area.kind, area.esr, area.elr, area.far);
        if let Some(count) = TALLY.get(kind as usize) {
            count.fetch_add(1, Relaxed);
        }
        match kind & 3 {
            0 => {
                let (class, status) = (esr >> 26 & 0x3f, esr & 0x3f);
                let abort = matches!(class, 0x20 | 0x21 | 0x24 | 0x25);
                let plain = matches!(status, 0..=0x10 | 0x14..=0x17 | 0x21 | 0x35);
                if FOREIGN.contains(&class) || abort && !plain {
                    let what = format_args!("syndrome {esr:#x}, ELR {elr:#x}, FAR {far:#x}");
                    found(self.step, what);
                }
            }
            1 | 2 => self.take(),
            _ => found(self.step, format_args!("an SError, syndrome {esr:#x}, ELR {elr:#x}")),
        }
    }

    /// Takes and ends what pends, so that it is not there for ever.
    fn take(&mut self) {
        write!("cntv_ctl_el0", 0);
        write!("cntp_ctl_el0", 0);
        let gic = gic::get();
        for _ in 0..64 {
            let iar = gic.ack();
            if iar & 0x3ff >= gic::SPURIOUS {
                // Of group 0, or it was taken back.
                if gic::irq_line() || crate::read!("isr_el1") & 0x40 != 0 {
                    gic.init_cpu();
                }
                return;
            }
            gic.eoi(iar);
        }
        gic.init();
    }

    fn registers(&mut self) {
        for n in 0..32 {
            let word = if self.rng.one_in(3) { self.rng.hostile() } else { self.address() };
            cell::area().regs[n] = word;
        }
    }

    fn access(&mut self) {
        self.registers();
        let insn = self.rng.pick(&ACCESSES).unwrap_or(BRK);
        cell::area().regs[0] = self.address();
        self.run(&[insn]);
    }

    fn soup(&mut self) {
        self.registers();
        let n = 1 + self.rng.below(60) as usize;
        let code: [u32; 60] = core::array::from_fn(|_| soup::any(&mut self.rng));
        self.run(code.get(..n).unwrap_or(&code));
    }

    fn system(&mut self) {
        self.registers();
        let insn = soup::system(&mut self.rng);
        if self.rng.one_in(2) {
            cell::area().regs[insn as usize & 31] = self.rng.hostile();
        }
        self.run(&[insn]);
    }

    /// A call of whoever is above. Not those that end the attack.
    fn call(&mut self) {
        self.registers();
        let base = [0x8400_0000, 0xc400_0000, 0x8000_0000, 0xc600_0000, 0x8600_0000, 0xc600_00f0];
        let mut id = self.rng.pick(&base).unwrap_or(0) | self.rng.below(0x30);
        if self.rng.one_in(4) {
            id = self.rng.hostile();
        }
        let psci = id & 0xbffe_0000 == 0x8400_0000;
        if psci && ENDINGS.contains(&(id & 0xffff)) {
            id |= 0x40;
        }
        let regs = &mut cell::area().regs;
        regs[0] = id;
        if psci && id & 0xffff == CPU_ON {
            // A CPU that does not exist, or one that is on; or ours, at the only place that it knows.
            if self.rng.one_in(2) {
                regs[1] |= 1 << (8 + self.rng.below(16));
            } else {
                regs[2] = start::secondary_entry();
                regs[1] = 0;
            }
        }
        let immediate = if self.rng.one_in(3) { self.rng.bits() as u32 & 0xffff } else { 0 };
        let insn = if self.rng.one_in(2) { HVC } else { SMC };
        self.run(&[insn | immediate << 5]);
        // Whatever it was, the next one is answered.
        if psci::status(psci::VERSION, 0, 0, 0) != 0x1_0001 {
            found(self.step, format_args!("PSCI_VERSION is another after call {id:#x}"));
        }
    }

    /// Many writes to the GIC, then what comes of it.
    fn storm(&mut self) {
        let gic = gic::get();
        for _ in 0..self.rng.below(40) {
            let value = self.rng.bits() as u32;
            let intid = self.rng.below(1020) as u32;
            match self.rng.below(12) {
                0 => gic.enable(intid),
                1 => gic.disable(intid),
                2 => gic.pend(intid),
                3 => gic.unpend(intid),
                4 => write32(gic.bit_reg(dist::ISACTIVER, intid), value),
                5 => write32(gic.bit_reg(dist::ICACTIVER, intid), value),
                6 => gic.set_priority(intid, value as u8),
                7 => gic.set_edge(intid.max(32), value & 1 != 0),
                8 => gic.route(intid.max(32), (value & 7) as usize),
                9 => gic.sgi(intid & 15, To::List(value as u8)),
                10 => gic.eoi(intid),
                _ => {
                    let _ = crate::probe::store32(
                        gic.dist() + self.rng.below(0x1_0000),
                        u64::from(value),
                    );
                }
            }
        }
        gic::forget();
        gic::window();
        if self.rng.one_in(4) {
            gic.init();
        }
    }

    fn timers(&mut self) {
        for _ in 0..4 {
            let value = match self.rng.below(3) {
                0 => self.rng.hostile(),
                1 => timer::now() + self.rng.below(timer::ticks(1)),
                _ => timer::now().wrapping_sub(self.rng.below(1 << 32)),
            };
            match self.rng.below(8) {
                0 => write!("cntv_cval_el0", value),
                1 => write!("cntv_tval_el0", value),
                2 => write!("cntv_ctl_el0", value),
                3 => write!("cntp_cval_el0", value),
                4 => write!("cntp_tval_el0", value),
                5 => write!("cntp_ctl_el0", value),
                6 => write!("cntkctl_el1", value & 0x3ff),
                _ => gic::get().enable(27 + 3 * self.rng.below(2) as u32),
            }
        }
        gic::window();
    }

    /// A walk through tables of noise. Loads and translations only: a store could go anywhere (see
    /// `cell`, I1).
    fn tables(&mut self) {
        let (slot, va) = cell::wild_slot();
        let table = cell::scratch() + BLOCK / 2 + (self.rng.below(BLOCK / 4) & !0xfff);
        for n in 0..8 {
            let descriptor = self.address() & !0xfff | self.rng.bits() & 0xfff | 3;
            let own = table | 3 | 1 << 10;
            let word = if self.rng.one_in(2) { own } else { descriptor };
            let _ = crate::probe::store64(table + 8 * n, word);
        }
        let top = if self.rng.one_in(3) { self.address() & !0xfff } else { table };
        let _ = crate::probe::store64(slot, top | 3);
        self.registers();
        let area = cell::area();
        area.regs[0] =
            va + (self.rng.below(8) << 21 | self.rng.below(8) << 12 | self.rng.below(4096));
        let loads = [0, 1, 2, 3, 6, 12, 33, 34, 35, 36];
        let insn = self.rng.pick(&loads).and_then(|n: usize| ACCESSES.get(n)).copied();
        self.run(&[insn.unwrap_or(BRK)]);
        let _ = crate::probe::store64(slot, 0);
    }

    /// Code that was just written is what runs.
    fn rewrite(&mut self) {
        let value = self.rng.bits() as u32 & 0xffff;
        // MOVZ x0, #value; then a BRK that `run` appends.
        self.run(&[0xd280_0000 | value << 5]);
        let area = cell::area();
        let done = area.kind & 3 == 0 && area.esr >> 26 & 0x3f == 0x3c;
        if done && area.x0 != u64::from(value) {
            let what = format_args!("code that sets x0 to {value:#x} has set {:#x}", area.x0);
            found(self.step, what);
        }
        if !done && area.kind & 3 == 0 {
            found(self.step, format_args!("plain code ended with {:#x}", area.esr));
        }
    }

    /// Waits of all kinds, with something that ends them.
    fn wait(&mut self) {
        let gic = gic::get();
        gic.init();
        gic.enable(VIRTUAL_PPI);
        let micros = self.rng.below(300);
        let due = timer::now() + timer::ticks(1) * micros / 1000;
        write!("cntv_cval_el0", due);
        write!("cntv_ctl_el0", ENABLE);
        // Another CPU may close the distributor while this one sleeps.
        let alone = machine::get().cpus == 1;
        let kind = if alone { self.rng.below(5) } else { 1 + self.rng.below(3) };
        let outcome = match kind {
            0 => try_insn!("wfi"),
            1 => try_insn!("sevl\nwfe\nwfe"),
            2 => wait_until(due),
            3 => try_insn!("sev\nwfe"),
            _ => {
                psci::status(psci::CPU_SUSPEND, 0, 0, 0);
                Ok(())
            }
        };
        if outcome.is_err() {
            found(self.step, format_args!("a wait ended in {outcome:x?}"));
        }
        write!("cntv_ctl_el0", 0);
        gic::window();
    }

    /// Returns to any state at any address.
    fn eret(&mut self) {
        self.registers();
        let area = cell::area();
        area.pc = self.address();
        area.pstate = match self.rng.below(4) {
            0 => self.rng.hostile() | 0x100,
            1 => 0x3c0 | self.rng.below(16),
            2 => 0x1d0 | self.rng.below(16),
            _ => self.rng.bits() & 0xffff_ffff,
        };
        // At an address of scratch memory there may be anything, also a loop: not there, unless it
        // is this CPU's and the timer ends it.
        let scratch = SCRATCH..SHARED + BLOCK;
        if scratch.contains(&area.pc) || scratch.contains(&area.pc.wrapping_sub(USER)) {
            area.pc |= 1 << 40;
        }
        cell::enter();
        self.judge();
    }
}

/// WFIT; where there is none it is undefined.
fn wait_until(due: u64) -> Outcome<()> {
    const UNDEFINED: u64 = 0;
    trap::arm();
    // SAFETY:
    // 1. Waits until `due`, or the armed trap steps over it.
    unsafe { asm!(".inst 0xd5031020", in("x0") due, options(nostack)) }
    trap::disarm().filter(|fault| fault.ec() != UNDEFINED).map_or(Ok(()), Err)
}
