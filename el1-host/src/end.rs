//! How a VM ends.

use core::fmt;

use host_vmm::vm::Fatal;
use hyp_abi::Refusal;

/// How a VM's run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The guest switched its machine off.
    PowerOff,
    /// The guest wants its machine reset.
    Reset,
    /// Its last vCPU switched itself off: nothing could ever wake the VM.
    Halted,
    /// It cannot go on.
    Fatal(Fatal),
    /// EL2 refuses to load or unload a vCPU of it.
    Refused(Refusal),
    /// It still ran after this many seconds, the most that the command line allows.
    TimedOut(u64),
    /// The command line wanted it killed.
    Killed,
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::PowerOff => write!(f, "powered off"),
            Self::Reset => write!(f, "reset"),
            Self::Halted => write!(f, "halted: its last vCPU is off"),
            Self::Fatal(why) => write!(f, "stopped: {why}"),
            Self::Refused(why) => write!(f, "stopped: EL2 refuses to load its vCPU ({why:?})"),
            Self::TimedOut(seconds) => write!(f, "stopped: still running after {seconds} s"),
            Self::Killed => write!(f, "killed"),
        }
    }
}
