//! hyp-core in lock-step with the specification, in every state near three starting points of a
//! tiny world (see `tiny_world.rs`): two VMs being made, two that run, one that runs while one dies.
//!
//! A state is reached by a fresh hypervisor that makes the calls that lead there. From it every call of the
//! world is made, the refused ones too, and after each: the same answer and ownership, the same mappings by a
//! walk of our own, no mistake with barriers or table pages seen by the fake machine, and a
//! refused call left every bit as it was. What is covered: all sequences of calls from each start up
//! to a depth, one of each set that lead to states which differ in the names of pages only. Deeper ones
//! are for the random walk.

use std::cell::RefCell;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use hyp_abi::{Handle, Hypercall};
use hyp_model::{Call, State, broken};
use props::Rig;
use props::tiny::{CPUS, GFNS, Tiny};
use stateright::{Checker, Model, Property};

type Path = Arc<Vec<Call>>;

const RAM: [(u64, u64); 2] = [(0x40200, 0x50), (0x80000, 2)];
const ROOTS: [u64; 2] = [0x40240, 0x40242];
const PAGES: [u64; 4] = [0x40244, 0x40245, 0x40246, 0x40247];

/// A state of the hypervisor, by what it means and by how to get there.
#[derive(Clone, Debug)]
struct Reached {
    state: State,
    path: Path,
}

impl PartialEq for Reached {
    fn eq(&self, other: &Self) -> bool {
        self.state == other.state
    }
}

impl Hash for Reached {
    fn hash<H: Hasher>(&self, to: &mut H) {
        self.state.hash(to);
    }
}

thread_local! {
    /// The hypervisor of the last call, if that call left it in the state it was in.
    static LAST: RefCell<Option<(Path, Rig)>> = const { RefCell::new(None) };
}

struct Core {
    tiny: Tiny,
    start: Vec<Call>,
}

fn call(cpu: usize, which: Hypercall, args: &[u64]) -> Call {
    let mut regs = [0; 5];
    regs[0] = which.function_id();
    regs[1..=args.len()].copy_from_slice(args);
    Call { cpu, regs, entry: 0 }
}

fn reach(path: &[Call]) -> Rig {
    let mut rig = Rig::with_ram(RAM);
    for call in path {
        rig.call(call.cpu, call.regs);
    }
    rig
}

impl Core {
    fn new(start: Vec<Call>) -> Self {
        Self { tiny: Tiny { roots: ROOTS.to_vec(), pages: PAGES.to_vec() }, start }
    }

    fn reached(&self, rig: &Rig, path: Vec<Call>) -> Reached {
        Reached { state: self.tiny.canonical(rig.model()), path: Arc::new(path) }
    }
}

impl Model for Core {
    type State = Reached;
    type Action = Call;

    fn init_states(&self) -> Vec<Reached> {
        let mut rig = reach(&self.start);
        assert_eq!(rig.refused, 0, "the way to the start");
        rig.compare();
        vec![self.reached(&rig, self.start.clone())]
    }

    fn actions(&self, at: &Reached, actions: &mut Vec<Call>) {
        // The calls name the pages of the path, not those of the canonical state: all are tried.
        let mut calls: Vec<Call> =
            self.tiny.calls(&at.state).into_iter().map(|(call, _)| call).collect();
        // Which page comes back is the implementation's choice: one call is enough.
        calls.dedup();
        *actions = calls;
    }

    fn next_state(&self, at: &Reached, call: Call) -> Option<Reached> {
        let kept = LAST.take().filter(|(path, _)| Arc::ptr_eq(path, &at.path));
        let mut rig = kept.map_or_else(|| reach(&at.path), |(_, rig)| rig);
        let before = rig.model().clone();
        rig.call(call.cpu, call.regs);
        if *rig.model() == before {
            LAST.set(Some((Arc::clone(&at.path), rig)));
            return None;
        }
        rig.compare();
        let path = at.path.iter().copied().chain([call]).collect();
        Some(self.reached(&rig, path))
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("the invariants hold", |_, at: &Reached| broken(&at.state).is_none()),
            Property::sometimes("a call is accepted", |model: &Self, at: &Reached| {
                at.path.len() > model.start.len()
            }),
        ]
    }
}

/// Explores what can be reached in `depth` calls.
fn explore(start: Vec<Call>, depth: usize, at_least: usize) {
    // The start is depth 1.
    let checker = Core::new(start).checker().threads(CPUS).target_max_depth(depth + 1);
    let checker = checker.spawn_bfs().join();
    println!("{} states, {} calls", checker.unique_state_count(), checker.state_count());
    checker.assert_properties();
    assert!(checker.unique_state_count() >= at_least, "{}", checker.unique_state_count());
}

/// Both VMs with a vCPU on one run page, each loaded on a CPU.
fn two_vms() -> Vec<Call> {
    use Hypercall as H;
    let mut calls = vec![call(0, H::ShareHyp, &[PAGES[0]])];
    for (n, root) in ROOTS.into_iter().enumerate() {
        let h = Handle::compose(n as u8, 1).raw();
        calls.push(call(0, H::ReserveVm, &[]));
        calls.push(call(0, H::InitVm, &[h, 1, root, 0]));
        calls.push(call(0, H::InitVcpu, &[h, 0, PAGES[0]]));
        calls.push(call(n, H::VcpuLoad, &[h, 0]));
    }
    calls
}

/// The first VM has a page, the second dies.
fn one_maps_one_dies() -> Vec<Call> {
    use Hypercall as H;
    let mut calls = two_vms();
    calls.push(call(0, H::MemcacheTopup, &[PAGES[1]]));
    calls.push(call(0, H::MemcacheTopup, &[PAGES[2]]));
    calls.push(call(0, H::ShareGuest, &[PAGES[3], GFNS[0], 1, 15]));
    calls.push(call(1, H::VcpuPut, &[]));
    calls.push(call(1, H::StartTeardownVm, &[Handle::compose(1, 1).raw()]));
    calls
}

#[test]
fn from_boot_the_core_keeps_to_the_specification() {
    explore(vec![], 6, 100);
}

#[test]
fn with_two_vms_running_the_core_keeps_to_the_specification() {
    explore(two_vms(), 5, 300);
}

#[test]
fn while_one_vm_maps_and_one_dies_the_core_keeps_to_the_specification() {
    explore(one_maps_one_dies(), 5, 300);
}
