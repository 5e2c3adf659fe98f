//! A guest whose only CPU switches itself off: nobody can start it again, so the VM is over.

use crate::{check, println, psci};

/// The payload.
pub fn run() {
    println!("switching the only CPU off");
    psci::call(psci::CPU_OFF, 0, 0, 0);
    check!(false, "CPU_OFF does not return");
}
