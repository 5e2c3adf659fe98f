//! System registers, system instructions, SMCs and HVCs that a host may not have.

use core::arch::asm;

use super::Attack;
use crate::ensure;
use crate::hcall;
use crate::host;
use crate::psci::{self, Regs};
use crate::trap::{self, SYNC, ec};

const RET: u32 = 0xd65f_03c0;
/// `MRS x0`, `SYSL` and so on; without bit 21 the write.
const READ: u32 = 0xd520_0000;
const WRITE: u32 = 0xd500_0000;

/// PSCI functions that end or suspend the machine or a CPU of several, by the low 16 bits.
const ENDINGS: [u64; 7] = [0x08, 0x09, 0x12, 0x01, 0x0c, 0x0e, 0x02];

impl Attack {
    /// One register of EL2's, of EL3's or of nobody's; or a read of one that may be EL1's.
    pub fn register(&mut self) {
        let bits = self.rng.bits() as u32;
        let (crn, crm, op2) = (bits >> 12 & 15, bits >> 8 & 15, bits >> 5 & 7);
        let encode =
            |op0: u32, op1: u32, crn: u32| op0 << 19 | op1 << 16 | crn << 12 | crm << 8 | op2 << 5;
        let write = self.rng.one_in(2);
        let base = if write { WRITE } else { READ };
        match self.rng.below(8) {
            // EL2's and EL3's registers, and EL2's names of EL1's: op1 is 4, 5 or 6.
            0..=3 => self.undefined(base | encode(3, 4 + bits % 3, crn)),
            // Their maintenance and translation instructions.
            4 => {
                self.undefined(WRITE | encode(1, [4, 6][(bits & 1) as usize], 7 + (bits >> 1 & 1)))
            }
            // Implementation-defined registers; Arm's own CPUs have theirs among these few.
            5 if bits >> 20 & 1 == 0 => {
                let enc = encode(3, 1, [11, 15][(bits & 1) as usize]) & !(0xc << 8 | 4 << 5);
                self.undefined(base | enc);
            }
            5 => self.undefined(base | encode(3, bits & 7, [11, 15][(bits >> 4 & 1) as usize])),
            // Reads of whatever EL1 may have or not. Some acknowledge interrupts.
            6 if !(crn == 12 && [8, 12].contains(&crm)) => {
                let op1 = [0, 1, 2, 3][(bits & 3) as usize];
                let (fault, _) = self.execute(READ | encode(2 + (bits >> 2 & 1), op1, crn), 0);
                ensure!(fault.is_none_or(|f| f.kind == SYNC), "a read ended in {fault:x?}");
            }
            _ => self.call_elsewhere(),
        }
    }

    fn undefined(&mut self, insn: u32) {
        let value = self.rng.hostile();
        let (fault, _) = self.execute(insn, value);
        let undefined = fault.is_some_and(|f| f.kind == SYNC && f.ec() == ec::UNDEF);
        ensure!(undefined, "instruction {insn:#x} ended in {fault:x?}");
    }

    /// Executes `insn x0`, catching its exception.
    fn execute(&mut self, insn: u32, x0: u64) -> (Option<trap::Fault>, u64) {
        host::poke(self.snippet, u64::from(RET) << 32 | u64::from(insn));
        trap::arm();
        let mut x0 = x0;
        // SAFETY:
        // 1. The trap is armed, and the snippet's second instruction returns here.
        // 2. The snippet's first instruction changes x0 only, or is undefined (the caller's choice).
        unsafe {
            asm!(
                "dc cvau, {at}", "dsb ish", "ic ivau, {at}", "dsb ish", "isb",
                "blr {at}",
                at = in(reg) self.snippet,
                inout("x0") x0,
                clobber_abi("C"),
            );
        }
        (trap::disarm(), x0)
    }

    /// SMCs, and HVCs that are no hypercalls.
    fn call_elsewhere(&mut self) {
        let mut regs: Regs = core::array::from_fn(|_| self.rng.hostile());
        let base = [0x8400_0000, 0xc400_0000, 0x8000_0000, 0xc600_0000, 0x8600_0000, 0];
        if !self.rng.one_in(3) {
            regs[0] = self.rng.pick(&base).unwrap_or(0) | self.rng.below(0x30);
        }
        // The only CPU cannot go off.
        let off = self.crew == 1 && regs[0] & 0xffff == 0x02;
        if ENDINGS.contains(&(regs[0] & 0xffff)) && !off {
            regs[0] ^= 0x40;
        }
        trap::arm();
        let with_immediate = self.rng.below(4);
        match with_immediate {
            0 => psci::smc_imm(&mut regs),
            1 => psci::hvc_imm(&mut regs),
            _ => psci::smc(&mut regs),
        }
        let fault = trap::disarm();
        let undefined = fault.is_some_and(|f| f.kind == SYNC && f.ec() == ec::UNDEF);
        ensure!(fault.is_none() || undefined, "a call ended in {fault:x?}");
        let refused = undefined || regs[0] == u64::MAX;
        ensure!(with_immediate > 1 || refused, "a call with an immediate answered {:#x}", regs[0]);
        self.still_there();
        let version = hcall::call(hyp_abi::Hypercall::Version, [0; 4]).x1;
        ensure!(version == 1, "EL2 answers {version} after a call of something else");
    }
}
