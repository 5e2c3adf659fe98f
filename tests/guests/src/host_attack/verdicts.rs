//! What a hypercall may answer when others race: the refusals that its entry in the hypercall table
//! names, and fewer where the caller knows more. Which of them it is depends on the order, and only EL2
//! knows that.

use hyp_abi::Hypercall::{self as H};
use hyp_abi::Refusal::{self, Busy, Invalid, NoMemory, NotFound, NotPermitted, OutOfRange, Raced};

use crate::hcall::Answer;

/// Every refusal of a call, whatever it is given.
pub const fn refusals(which: H) -> &'static [Refusal] {
    match which {
        H::ShareHyp => &[NotPermitted, Invalid],
        H::UnshareHyp => &[NotPermitted, Busy, Invalid],
        H::ShareGuest => &[Invalid, NotPermitted, Busy, NoMemory, OutOfRange],
        H::UnshareGuest | H::UnmapGicv => &[Invalid, NotFound, NotPermitted, OutOfRange],
        H::RelaxPerms => &[Raced, Invalid, NotPermitted, OutOfRange],
        H::Wrprotect | H::TestClearYoung | H::Mkyoung => &[Invalid, OutOfRange],
        H::ReserveVm => &[NoMemory],
        H::InitVm => &[Invalid, NoMemory],
        H::InitVcpu => &[Invalid, NotPermitted, Busy, NoMemory],
        H::FinalizeTeardownVm => &[Invalid, Busy],
        H::VcpuLoad => &[Invalid, NotFound, Busy],
        H::MemcacheTopup => &[Invalid, NotPermitted, Busy, NoMemory],
        H::ReclaimVmPage | H::AuditVm => &[Invalid, NotFound],
        H::AuditHost => &[NotFound],
        H::MapGicv => &[Invalid, NotPermitted, NoMemory, OutOfRange],
        H::VcpuRun
        | H::UnreserveVm
        | H::StartTeardownVm
        | H::VcpuPut
        | H::VcpuSyncState
        | H::TlbFlushVmid
        | H::VmStats => &[Invalid],
        H::Version | H::Features => &[],
    }
}

/// What is known of a call before it is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Known {
    /// Its numbers may be anything: any refusal of the table will do.
    Nothing,
    /// Its numbers are of the right kind and size, and what it needs to be loaded is; the VM that it
    /// names may be in any stage of its life.
    Sound,
    /// Likewise, and its VM lives for sure.
    Alive,
    /// It must be refused, as invalid.
    Refused,
}

/// Whether a call can have this answer.
pub fn possible(which: H, known: Known, answer: Answer) -> bool {
    let refusal = Refusal::from_code(answer.x1);
    if answer.x0 != 0 {
        return false;
    }
    let Some(refusal) = refusal else {
        return answer.x1 >= 0 && known != Known::Refused && plausible(which, answer);
    };
    // The one refusal that says more.
    let plain = answer.rest == [0; 4]
        || (which == H::FinalizeTeardownVm && refusal == Busy && answer.rest[2..] == [0; 2]);
    let named = refusals(which).contains(&refusal);
    let fits = match known {
        Known::Nothing => true,
        Known::Refused => refusal == Invalid,
        Known::Sound => {
            // Numbers of the right size leave the VM to be wrong, if the call names one.
            refusal != OutOfRange && (refusal != Invalid || super::calls::takes_handle(which))
        }
        Known::Alive => refusal != OutOfRange && refusal != Invalid,
    };
    plain && named && fits
}

/// Whether this is a form in which the call says yes.
fn plausible(which: H, answer: Answer) -> bool {
    let Answer { x1, rest, .. } = answer;
    match which {
        H::VcpuRun => hyp_abi::run::Exit::from_raw(x1 as u64).is_some(),
        H::MemcacheTopup => (1..=32).contains(&x1) && rest == [0; 4],
        H::TestClearYoung => (x1 == 1) == (rest[0] != 0) && x1 <= 1 && rest[1..] == [0; 3],
        H::Wrprotect => x1 == 0 && rest[1..] == [0; 3],
        H::ReserveVm | H::ReclaimVmPage | H::Version => x1 > 0 && rest == [0; 4],
        H::Features | H::AuditVm | H::AuditHost | H::VmStats => true,
        _ => x1 == 0 && rest == [0; 4],
    }
}
