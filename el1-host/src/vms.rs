//! The VMs of the bundle, one after the other.

use crate::ledger::Ledger;
use crate::shim::Shim;
use crate::words::Words;

/// Runs them all.
pub fn run_all(_shim: &Shim, _bundle: Option<&'static [u8]>, _words: &Words<'_>, _ledger: &Ledger) {
}
