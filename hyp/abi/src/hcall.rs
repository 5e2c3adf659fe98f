//! The hypercall table: the only place where a hypercall number is written.
//!
//! Convention (SMCCC 1.2, HVC64, immediate 0): w0 = [`BASE`] + number, arguments in x1..x4. Answer:
//! x0 = SMCCC status (0, or -1 if the number is unknown), x1 = result (a value, or a negative
//! [`Refusal`](crate::Refusal) code), x2..x5 = further values of the calls that have them, else 0.
//! Numbers 9..50 are pKVM's (Linux 7.3); those from 64 on are Redan's own.

/// First function id: fast call, 64-bit, owner "vendor-specific hypervisor service".
pub const BASE: u32 = 0xc600_0000;
/// SMCCC: unknown function.
pub const NOT_SUPPORTED: u64 = u64::MAX;
/// `version()` answers this: major in bits 31:16, minor in 15:0.
pub const VERSION: u64 = 0x0000_0001;
/// Most VMs that exist at one time.
pub const MAX_VMS: usize = 64;
/// Most vCPUs of a VM.
pub const MAX_VCPUS: usize = 8;
/// Most pages that `test_clear_young` looks at in one call (one word of answer).
pub const YOUNG_MAX: u64 = 64;
/// Most pages that `wrprotect` visits in one call before it answers how far it came.
pub const RANGE_BATCH: u64 = 4096;
/// `features()` bit: the GIC is a GICv2 (GICH is EL2's; `map_gicv` exists).
pub const FEATURE_GICV2: u64 = 1 << 0;
/// `features()` bit: the GIC is a GICv3.
pub const FEATURE_GICV3: u64 = 1 << 1;

/// An answer: x1..x5.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ret {
    /// Result: a value, or a negative refusal code.
    pub x1: i64,
    /// Further values, 0 where the call has none.
    pub x2: u64,
    /// See `x2`.
    pub x3: u64,
    /// See `x2`.
    pub x4: u64,
    /// See `x2`.
    pub x5: u64,
}

macro_rules! hypercalls {
    ($( $(#[doc = $doc:literal])+ $num:literal $variant:ident $name:literal ($($arg:literal),*) -> $ret:literal; )*) => {
        /// Every hypercall there is.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u32)]
        pub enum Hypercall {
            $( $(#[doc = $doc])+ $variant = $num, )*
        }

        impl Hypercall {
            /// The whole table, by number.
            pub const ALL: &'static [Self] = &[ $( Self::$variant, )* ];

            /// Decodes w0; the upper half of x0 is ignored, as SMCCC says. `None`: not supported.
            #[must_use]
            pub const fn from_function_id(x0: u64) -> Option<Self> {
                match (x0 & 0xffff_ffff).wrapping_sub(BASE as u64) {
                    $( $num => Some(Self::$variant), )*
                    _ => None,
                }
            }
            /// Name, as in the reference page.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $( Self::$variant => $name, )* }
            }
            /// Names of the arguments x1, x2, ...
            #[must_use]
            pub const fn args(self) -> &'static [&'static str] {
                match self { $( Self::$variant => &[ $( $arg ),* ], )* }
            }
            /// What x1 (and x2..) answer.
            #[must_use]
            pub const fn answer(self) -> &'static str {
                match self { $( Self::$variant => $ret, )* }
            }
            /// The description, for the reference page.
            #[must_use]
            pub const fn doc(self) -> &'static str {
                match self { $( Self::$variant => concat!($($doc, "\n"),+), )* }
            }
        }
    };
}

hypercalls! {
    /// Runs the loaded vCPU until something needs the host. Entry words of the run page are read
    /// once. -EINVAL: none loaded, or unknown or contradictory entry flags.
    9 VcpuRun "vcpu_run" () -> "exit reason; x2 ESR, x3 IPA, x4 value, x5 flags";
    /// Shares one host page with EL2. -EPERM: not RAM or not exclusively the host's;
    /// -EINVAL: no such address.
    29 ShareHyp "host_share_hyp" ("pfn") -> "0";
    /// Takes a page back from EL2. -EPERM: not shared with EL2; -EBUSY: pinned.
    30 UnshareHyp "host_unshare_hyp" ("pfn") -> "0";
    /// Maps host pages into the loaded vCPU's VM, shared. `nr` must be 1 (512 comes with blocks).
    /// -EINVAL: none loaded, bad prot, nr or address; -EPERM: page not the host's to share, or gfn
    /// taken; -EBUSY: share count full; -ENOMEM: memcache short; -ERANGE: beyond the IPA space.
    32 ShareGuest "host_share_guest" ("pfn", "gfn", "nr", "prot") -> "0";
    /// Takes a shared page back; also from a dying VM. -EINVAL: VM or nr; -ENOENT: nothing mapped;
    /// -EPERM: not a shared page (the GICV page); -ERANGE: beyond the IPA space.
    33 UnshareGuest "host_unshare_guest" ("handle", "gfn", "nr") -> "0";
    /// Adds rights to a mapping of the loaded vCPU's VM. -EAGAIN: nothing mapped (raced);
    /// -EINVAL: none loaded or bad prot; -EPERM: the GICV page; -ERANGE.
    34 RelaxPerms "host_relax_perms_guest" ("gfn", "prot") -> "0";
    /// Takes the right to write away from every page mapped in the range; holes are skipped. No TLB
    /// flush: use `tlb_flush_vmid` before trusting the log. At most `RANGE_BATCH` pages a call:
    /// resume after x2. -EINVAL: VM, or nr = 0; -ERANGE.
    35 Wrprotect "host_wrprotect_guest" ("handle", "gfn", "nr") -> "0; x2 pages done";
    /// Was any page of the range accessed since last aged? nr is 1..=64; bit i of x2 is gfn + i.
    /// `mkold` = 1 clears the access flags, without TLB flush (a stale "young" is allowed).
    /// -EINVAL: VM, nr or mkold; -ERANGE.
    36 TestClearYoung "host_test_clear_young_guest" ("handle", "gfn", "nr", "mkold") -> "1 or 0; x2 bitmap";
    /// Sets the access flag of a page of the loaded vCPU's VM; a hole is no error. -EINVAL: none
    /// loaded; -ERANGE.
    37 Mkyoung "host_mkyoung_guest" ("gfn") -> "0";
    /// Reserves a VM slot and mints its handle. -ENOMEM: none free.
    38 ReserveVm "reserve_vm" () -> "handle";
    /// Gives a slot back that was reserved and never initialised. -EINVAL: otherwise.
    39 UnreserveVm "unreserve_vm" ("handle") -> "0";
    /// Makes the reserved VM exist: `vcpus` 1..=8; `pgd` = two adjacent host pages, 8 KiB aligned,
    /// donated as its root tables; flags must be 0. -EINVAL: handle, vcpus, flags or address;
    /// -ENOMEM: the donation is refused, or EL2 has no room.
    40 InitVm "init_vm" ("handle", "vcpus", "pgd_pfn", "flags") -> "0";
    /// Makes vCPU `idx` exist, with its run page (already shared with EL2, pinned here).
    /// -EINVAL: handle, dying VM, index out of range or duplicate; -EPERM: page not shared with
    /// EL2; -EBUSY: pin count full; -ENOMEM: EL2 has no room.
    41 InitVcpu "init_vcpu" ("handle", "idx", "run_pfn") -> "0";
    /// No vCPU can be loaded any more. -EINVAL: unknown, not initialised, dying already or a vCPU
    /// is loaded.
    45 StartTeardownVm "start_teardown_vm" ("handle") -> "0";
    /// Ends a dying VM: flushes its VMID, unpins run pages, returns its root pages to the host.
    /// -EINVAL: not dying; -EBUSY: x2 guest pages are still mapped or x3 table pages not yet
    /// reclaimed.
    46 FinalizeTeardownVm "finalize_teardown_vm" ("handle") -> "0; with -EBUSY x2, x3";
    /// Loads a vCPU on this CPU. -EINVAL: one is loaded already, handle, dying VM or index;
    /// -ENOENT: not initialised; -EBUSY: loaded elsewhere.
    47 VcpuLoad "vcpu_load" ("handle", "idx") -> "0";
    /// Unloads this CPU's vCPU. -EINVAL: none loaded.
    48 VcpuPut "vcpu_put" () -> "0";
    /// Writes the loaded vCPU's full context to its run page. -EINVAL: none loaded.
    49 VcpuSyncState "vcpu_sync_state" () -> "0";
    /// Drops all TLB entries of the VM. -EINVAL: unknown VM.
    50 TlbFlushVmid "tlb_flush_vmid" ("handle") -> "0";
    /// The version of this interface.
    64 Version "version" () -> "version";
    /// What this EL2 has: bits `FEATURE_*`, x2 = IPA bits, x3 = list registers, x4 = host page
    /// tables in use.
    65 Features "features" () -> "feature bits; x2, x3, x4";
    /// Donates one host page to the loaded vCPU's memcache, for stage-2 tables. -EINVAL: none
    /// loaded or bad address; -EPERM: not exclusively the host's; -EBUSY: the cache is full;
    /// -ENOMEM: EL2 has no table left to hide it from the host.
    66 MemcacheTopup "memcache_topup" ("pfn") -> "pages now in the cache";
    /// Takes back one page that the dying VM no longer needs (tables freed, memcache), zeroed.
    /// -EINVAL: not dying; -ENOENT: no more.
    67 ReclaimVmPage "reclaim_vm_page" ("handle") -> "pfn";
    /// Streams a VM's stage 2: the first run of pages at or after `gfn` with adjacent gfn and pfn and
    /// equal attributes. x1 = pages in the run, 0 = none found yet, resume at x5; x2 = gfn, x3 = pfn,
    /// x4 = prot | state << 8 | young << 16 | device << 17, x5 = where to go on. -ENOENT: the end.
    /// -EINVAL: unknown VM.
    68 AuditVm "audit_vm" ("handle", "gfn") -> "pages; x2..x5";
    /// Streams the ownership table: the run of RAM pages at or after `pfn` in equal state. x1 = pages,
    /// x2 = first pfn, x3 = host state | EL2 state << 8, x4 = share count | pins << 32, x5 = where
    /// to go on. -ENOENT: the end.
    69 AuditHost "audit_host" ("pfn") -> "pages; x2..x5";
    /// Maps the GICv2 virtual CPU interface (its first page) at `gfn` in the loaded vCPU's VM.
    /// -EINVAL: none loaded, no GICv2 or bad address; -EPERM: gfn taken; -ENOMEM; -ERANGE.
    70 MapGicv "map_gicv" ("gfn") -> "0";
    /// Removes the GICV page again. -EINVAL: VM; -ENOENT: nothing mapped; -EPERM: another page.
    71 UnmapGicv "unmap_gicv" ("handle", "gfn") -> "0";
    /// EL2's own table count of a VM: x1 = table pages in use (roots included), x2 = pages in
    /// memcaches and free lists, x3 = guest pages mapped. -EINVAL: unknown VM.
    72 VmStats "vm_stats" ("handle") -> "tables; x2, x3";
}

impl Hypercall {
    /// The value for w0.
    #[must_use]
    pub const fn function_id(self) -> u64 {
        BASE as u64 | self as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_decodes_to_its_call_and_no_other_does() {
        for call in Hypercall::ALL {
            assert_eq!(Hypercall::from_function_id(call.function_id()), Some(*call));
            // SMCCC: bits 63:32 of x0 do not count.
            let dirty = call.function_id() | 0xdead_beef_0000_0000;
            assert_eq!(Hypercall::from_function_id(dirty), Some(*call));
        }
        let known = (0..0x1_0000u64)
            .filter(|n| Hypercall::from_function_id(u64::from(BASE) + n).is_some())
            .count();
        assert_eq!(known, Hypercall::ALL.len());
        for id in [0, 0x8400_0000, 0xc400_0003, u64::MAX, 0x8600_0009, 93 + u64::from(BASE)] {
            assert_eq!(Hypercall::from_function_id(id), None);
        }
    }

    #[test]
    fn the_table_is_sorted_and_documented() {
        assert!(Hypercall::ALL.is_sorted());
        for call in Hypercall::ALL {
            assert!(!call.name().is_empty() && !call.doc().is_empty() && call.args().len() <= 4);
        }
    }
}
