//! A world small enough to visit every state of it: two VMs of one vCPU, two gfns, and few pages.
//!
//! Knows which calls can be made in a state, and which states are one and the same but for the names
//! of pages. Must not know: how states are visited, or what makes them right.

use hyp_abi::{Gfn, Handle, Hypercall, Pfn, Ret};
use hyp_model::{Call, State};

/// VMs at once.
pub const VMS: usize = 2;
/// CPUs; either may load either VM's vCPU.
pub const CPUS: usize = 2;
/// Two guest frames that share their tables.
pub const GFNS: [u64; 2] = [0x40, 0x41];
const RWX: u64 = 15;
const R: u64 = 1;
const W: u64 = 2;

/// The pages of a tiny world.
#[derive(Clone, Debug)]
pub struct Tiny {
    /// The first of the two root pages that a VM may be given.
    pub roots: Vec<u64>,
    /// Pages for everything else: run pages, tables, guest memory.
    pub pages: Vec<u64>,
}

impl Tiny {
    /// Every call worth a try in `state`, with the implementation's choice where it has one (the
    /// new handle, the page that comes back).
    #[must_use]
    pub fn calls(&self, state: &State) -> Vec<(Call, Ret)> {
        use Hypercall as H;
        let mut all = Vec::new();
        let mut add = |cpu: usize, which: H, args: &[u64], seen: Ret| {
            let mut regs = [0; 5];
            regs[0] = which.function_id();
            regs[1..=args.len()].copy_from_slice(args);
            all.push((Call { cpu, regs, entry: 0 }, seen));
        };
        let done = Ret::default();
        for page in &self.pages {
            add(0, H::ShareHyp, &[*page], done);
            add(0, H::UnshareHyp, &[*page], done);
        }
        for cpu in 0..CPUS {
            add(cpu, H::VcpuPut, &[], done);
            for page in &self.pages {
                add(cpu, H::MemcacheTopup, &[*page], done);
                for gfn in GFNS {
                    add(cpu, H::ShareGuest, &[*page, gfn, 1, RWX], done);
                    add(cpu, H::ShareGuest, &[*page, gfn, 1, R], done);
                }
            }
            for gfn in GFNS {
                add(cpu, H::RelaxPerms, &[gfn, W], done);
                add(cpu, H::Mkyoung, &[gfn], done);
            }
        }
        let live = state.slots.iter().flatten().count();
        if live < VMS {
            let free = state.slots.iter().position(Option::is_none).unwrap_or(0);
            let handle = Handle::compose(free as u8, 1).raw();
            add(0, H::ReserveVm, &[], Ret { x1: handle as i64, ..done });
        }
        for vm in state.slots.iter().flatten() {
            let h = vm.handle.raw();
            for call in [H::UnreserveVm, H::StartTeardownVm, H::FinalizeTeardownVm] {
                add(0, call, &[h], done);
            }
            for root in &self.roots {
                add(0, H::InitVm, &[h, 1, *root, 0], done);
            }
            for page in &self.pages {
                add(0, H::InitVcpu, &[h, 0, *page], done);
            }
            for cpu in 0..CPUS {
                add(cpu, H::VcpuLoad, &[h, 0], done);
            }
            for gfn in GFNS {
                add(0, H::UnshareGuest, &[h, gfn, 1], done);
                add(0, H::Wrprotect, &[h, gfn, 1], Ret { x2: 1, ..done });
                add(0, H::TestClearYoung, &[h, gfn, 1, 1], done);
            }
            // Refused if there is none; otherwise any of them may come.
            add(0, H::ReclaimVmPage, &[h], done);
            for page in vm.donated.iter().skip(1) {
                add(0, H::ReclaimVmPage, &[h], Ret { x1: page.raw() as i64, ..done });
            }
        }
        all
    }

    /// The same state with the pages renamed so that all states that differ in their names
    /// only become one. No call knows one page from another, save the roots, which are pairs.
    #[must_use]
    pub fn canonical(&self, state: &State) -> State {
        let mut roles: Vec<_> = self.pages.iter().map(|p| (role(state, frame(*p)), *p)).collect();
        roles.sort();
        let renamed = |page: Pfn| {
            let at = roles.iter().position(|(_, p)| *p == page.raw());
            at.and_then(|i| self.pages.get(i)).map_or(page, |p| frame(*p))
        };
        let mut same = state.clone();
        same.pages = state.pages.iter().map(|(p, page)| (renamed(*p), *page)).collect();
        for vm in same.slots.iter_mut().flatten() {
            vm.donated = vm.donated.iter().map(|p| renamed(*p)).collect();
            for map in vm.maps.values_mut() {
                map.pfn = renamed(map.pfn);
            }
            for vcpu in vm.vcpus.iter_mut().flatten() {
                vcpu.run = renamed(vcpu.run);
            }
        }
        same
    }
}

/// All that a state says of a page. Pages of equal roles can be exchanged.
fn role(state: &State, page: Pfn) -> Vec<u64> {
    let is = state.page(page);
    let mut role = vec![u64::from(is.shares), u64::from(is.pins), is.host as u64, is.hyp as u64];
    for vm in &state.slots {
        let Some(vm) = vm else { continue };
        role.push(u64::from(vm.donated.contains(&page)));
        role.push(vm.vcpus.iter().flatten().filter(|v| v.run == page).count() as u64);
        for gfn in GFNS {
            let map = Gfn::new(gfn).and_then(|g| vm.maps.get(&g));
            role.push(u64::from(map.is_some_and(|m| m.pfn == page)));
        }
    }
    role
}

/// A frame by its number.
///
/// # Panics
/// If it is none.
#[must_use]
pub fn frame(n: u64) -> Pfn {
    Pfn::new(n).expect("a frame")
}
