//! What came of all VMs.

use alloc::string::String;
use alloc::vec::Vec;

use host_vmm::stats::Exits;
use hyp_abi::run::Exit;
use log::error;

/// What came of all VMs.
#[derive(Debug, Default)]
pub struct Outcome {
    /// VMs that ended as they should.
    pub good: u32,
    /// What went wrong, one line each.
    pub bad: Vec<String>,
    /// Exits by kind, of all VMs.
    pub exits: [u64; Exit::ALL.len()],
    /// Exits that a device model answered.
    pub mmio: u64,
}

impl Outcome {
    /// Notes what went wrong, and says so.
    pub fn fail(&mut self, why: String) {
        error!("{why}");
        self.bad.push(why);
    }

    /// Adds a VM's exits.
    pub fn count(&mut self, exits: &Exits) {
        for (sum, (_, n)) in self.exits.iter_mut().zip(exits.iter()) {
            *sum += n;
        }
        self.mmio += exits.mmio;
    }
}
