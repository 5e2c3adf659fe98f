//! From registers to a typed call.
//!
//! Pure: knows which argument is in which register, and no more. Numbers stay [`Claimed`] until
//! the call's own code has looked at them.

use hyp_abi::{Claimed, Gfn, Handle, Hypercall, Pfn, Ret};

/// A hypercall with its arguments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "hyp_abi::hcall is where calls and arguments are described")]
pub enum Call {
    VcpuRun,
    ShareHyp { pfn: Claimed<Pfn> },
    UnshareHyp { pfn: Claimed<Pfn> },
    ShareGuest { pfn: Claimed<Pfn>, gfn: Claimed<Gfn>, nr: u64, prot: u64 },
    UnshareGuest { vm: Handle, gfn: Claimed<Gfn>, nr: u64 },
    RelaxPerms { gfn: Claimed<Gfn>, prot: u64 },
    Wrprotect { vm: Handle, gfn: Claimed<Gfn>, nr: u64 },
    TestClearYoung { vm: Handle, gfn: Claimed<Gfn>, nr: u64, mkold: u64 },
    Mkyoung { gfn: Claimed<Gfn> },
    ReserveVm,
    UnreserveVm { vm: Handle },
    InitVm { vm: Handle, vcpus: u64, pgd: Claimed<Pfn>, flags: u64 },
    InitVcpu { vm: Handle, idx: u64, run_page: Claimed<Pfn> },
    StartTeardownVm { vm: Handle },
    FinalizeTeardownVm { vm: Handle },
    VcpuLoad { vm: Handle, idx: u64 },
    VcpuPut,
    VcpuSyncState,
    TlbFlushVmid { vm: Handle },
    Version,
    Features,
    MemcacheTopup { pfn: Claimed<Pfn> },
    ReclaimVmPage { vm: Handle },
    AuditVm { vm: Handle, gfn: Claimed<Gfn> },
    AuditHost { pfn: Claimed<Pfn> },
    MapGicv { gfn: Claimed<Gfn> },
    UnmapGicv { vm: Handle, gfn: Claimed<Gfn> },
    VmStats { vm: Handle },
}

/// Reads x0..x4. `None`: there is no such call.
#[must_use]
pub fn parse(regs: [u64; 5]) -> Option<Call> {
    let [x0, x1, x2, x3, x4] = regs;
    let vm = Handle::from_raw(x1);
    let pfn = Claimed::new(x1);
    Some(match Hypercall::from_function_id(x0)? {
        Hypercall::VcpuRun => Call::VcpuRun,
        Hypercall::ShareHyp => Call::ShareHyp { pfn },
        Hypercall::UnshareHyp => Call::UnshareHyp { pfn },
        Hypercall::ShareGuest => Call::ShareGuest { pfn, gfn: Claimed::new(x2), nr: x3, prot: x4 },
        Hypercall::UnshareGuest => Call::UnshareGuest { vm, gfn: Claimed::new(x2), nr: x3 },
        Hypercall::RelaxPerms => Call::RelaxPerms { gfn: Claimed::new(x1), prot: x2 },
        Hypercall::Wrprotect => Call::Wrprotect { vm, gfn: Claimed::new(x2), nr: x3 },
        Hypercall::TestClearYoung => {
            Call::TestClearYoung { vm, gfn: Claimed::new(x2), nr: x3, mkold: x4 }
        }
        Hypercall::Mkyoung => Call::Mkyoung { gfn: Claimed::new(x1) },
        Hypercall::ReserveVm => Call::ReserveVm,
        Hypercall::UnreserveVm => Call::UnreserveVm { vm },
        Hypercall::InitVm => Call::InitVm { vm, vcpus: x2, pgd: Claimed::new(x3), flags: x4 },
        Hypercall::InitVcpu => Call::InitVcpu { vm, idx: x2, run_page: Claimed::new(x3) },
        Hypercall::StartTeardownVm => Call::StartTeardownVm { vm },
        Hypercall::FinalizeTeardownVm => Call::FinalizeTeardownVm { vm },
        Hypercall::VcpuLoad => Call::VcpuLoad { vm, idx: x2 },
        Hypercall::VcpuPut => Call::VcpuPut,
        Hypercall::VcpuSyncState => Call::VcpuSyncState,
        Hypercall::TlbFlushVmid => Call::TlbFlushVmid { vm },
        Hypercall::Version => Call::Version,
        Hypercall::Features => Call::Features,
        Hypercall::MemcacheTopup => Call::MemcacheTopup { pfn },
        Hypercall::ReclaimVmPage => Call::ReclaimVmPage { vm },
        Hypercall::AuditVm => Call::AuditVm { vm, gfn: Claimed::new(x2) },
        Hypercall::AuditHost => Call::AuditHost { pfn },
        Hypercall::MapGicv => Call::MapGicv { gfn: Claimed::new(x1) },
        Hypercall::UnmapGicv => Call::UnmapGicv { vm, gfn: Claimed::new(x2) },
        Hypercall::VmStats => Call::VmStats { vm },
    })
}

/// Success without a value.
pub(crate) const DONE: Ret = Ret { x1: 0, x2: 0, x3: 0, x4: 0, x5: 0 };

/// Success with a value, which is below 2^63 (a count, a frame number, a handle).
pub(crate) fn value(x1: u64) -> Ret {
    Ret { x1: i64::try_from(x1).unwrap_or(i64::MAX), ..DONE }
}
