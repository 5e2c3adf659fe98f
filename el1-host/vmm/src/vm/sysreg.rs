//! System registers that EL2 leaves to the host: the physical timer, the counter, GICv3 SGIs and
//! deactivation. Any other is undefined to the guest.

use host_mirror::RunExit;
use hyp_abi::run::exit_flags;

use super::{Reply, State};
use crate::vgic::Version;

/// (op0, op1, CRn, CRm, op2), as in the ISS of ESR_EL2 (DDI0487 D24.2.39).
type Encoding = (u64, u64, u64, u64, u64);

const CNTPCT_EL0: Encoding = (3, 3, 14, 0, 1);
const CNTP_TVAL_EL0: Encoding = (3, 3, 14, 2, 0);
const CNTP_CTL_EL0: Encoding = (3, 3, 14, 2, 1);
const CNTP_CVAL_EL0: Encoding = (3, 3, 14, 2, 2);
const ICC_DIR_EL1: Encoding = (3, 0, 12, 11, 1);
const ICC_SGI1R_EL1: Encoding = (3, 0, 12, 11, 5);
const ICC_ASGI1R_EL1: Encoding = (3, 0, 12, 11, 6);
const ICC_SGI0R_EL1: Encoding = (3, 0, 12, 11, 7);

const fn encoding(esr: u64) -> Encoding {
    ((esr >> 20) & 3, (esr >> 14) & 7, (esr >> 10) & 15, (esr >> 1) & 15, (esr >> 17) & 7)
}

impl State {
    pub(super) fn sysreg(&mut self, now: u64, idx: usize, exit: &RunExit) -> Reply {
        let register = encoding(exit.esr);
        let reply = if exit.flags & exit_flags::SYSREG_READ != 0 {
            self.read_sysreg(now, idx, register)
        } else {
            self.write_sysreg(now, idx, register, exit.value).map(|()| 0)
        };
        self.update_lines(idx, now);
        reply.map_or(Reply::Undef, Reply::Complete)
    }

    fn read_sysreg(&self, now: u64, idx: usize, register: Encoding) -> Option<u64> {
        let timer = &self.vcpus.get(idx)?.physical;
        Some(match register {
            CNTPCT_EL0 => now,
            CNTP_TVAL_EL0 => timer.tval(now),
            CNTP_CTL_EL0 => timer.ctl(now),
            CNTP_CVAL_EL0 => timer.cval(),
            _ => return None,
        })
    }

    fn write_sysreg(&mut self, now: u64, idx: usize, register: Encoding, value: u64) -> Option<()> {
        let timer = &mut self.vcpus.get_mut(idx)?.physical;
        let v3 = self.vgic.version() == Version::V3;
        match register {
            CNTP_TVAL_EL0 => timer.set_tval(now, value),
            CNTP_CTL_EL0 => timer.set_ctl(value),
            CNTP_CVAL_EL0 => timer.set_cval(value),
            ICC_SGI1R_EL1 if v3 => self.vgic.write_sgi_register(idx, value, true),
            ICC_ASGI1R_EL1 | ICC_SGI0R_EL1 if v3 => {
                self.vgic.write_sgi_register(idx, value, false);
            }
            ICC_DIR_EL1 if v3 => {
                self.vgic.deactivate(idx, u32::try_from(value & 0xff_ffff).unwrap_or(0));
            }
            _ => return None,
        }
        Some(())
    }
}
