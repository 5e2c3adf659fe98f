//! The way to EL2 for everything above: counts each hypercall by kind and outcome.

use host_mirror::Hypercalls;
use host_vmm::stats::CallCounts;
use hyp_abi::{Hypercall, Refusal, Ret};

use crate::arch::firmware;

/// Hypercalls made.
pub static MADE: CallCounts = CallCounts::new();
/// Those of them that EL2 did not refuse.
pub static GRANTED: CallCounts = CallCounts::new();

/// EL2, by HVC.
#[derive(Clone, Copy)]
pub struct El2;

impl Hypercalls for El2 {
    fn call(&self, call: Hypercall, args: [u64; 4]) -> Ret {
        let unknown = Ret { x1: Refusal::Invalid.code(), ..Ret::default() };
        let ret = firmware::hypercall(call, args).unwrap_or(unknown);
        MADE.record(call);
        if ret.x1 >= 0 {
            GRANTED.record(call);
        }
        ret
    }
}
