//! Every reachable state of a tiny world: two VMs of one vCPU each, two CPUs, two gfns, a pair of
//! root pages for each VM, and three pages and a run page that may become anything.
//!
//! The specification is explored to the end, no depth or count cuts it short. States that differ only in which
//! page plays which role count as one. What is covered: every order of all calls that change
//! something, on either CPU, with every one of these pages and gfns. What is not: VMs of several vCPUs, gfns
//! in different tables, the GICV page, numbers out of range; the random walk (`random.rs`) has those.

use hyp_abi::hcall::MAX_VMS;
use hyp_abi::{Gfn, Hypercall, PageState, Pfn, Ret};
use hyp_model::{Answer, Call, Page, Phase, State, Vm, World, broken, step};
use props::tiny::{CPUS, GFNS, Tiny, VMS, frame};
use stateright::{Checker, HasDiscoveries, Model, Property};

const RAM: u64 = 0x100;

/// The specification, visited.
struct Spec {
    tiny: Tiny,
    boot: State,
    /// A mistake put into it.
    mistake: fn(&Call, &mut State),
}

impl Spec {
    fn new(mistake: fn(&Call, &mut State)) -> Self {
        let world = World {
            ram: vec![(frame(RAM), 16)],
            private: vec![],
            host_pages: 1 << 28,
            guest_pages: 1 << 28,
            gicv: None,
            cpus: CPUS,
            memcache: 32,
        };
        let mut boot = State::boot(world, [frame(RAM)]);
        // The other slots would only be copied around.
        assert!(boot.slots.len() == MAX_VMS && VMS <= MAX_VMS);
        boot.slots.truncate(VMS);
        let roots = vec![RAM + 2, RAM + 4];
        Self { tiny: Tiny { roots, pages: (RAM + 6..RAM + 10).collect() }, boot, mistake }
    }

    /// Makes a call that must be accepted.
    fn accepted(state: &mut State, cpu: usize, which: Hypercall, args: &[u64], seen: i64) -> bool {
        let mut regs = [0; 5];
        regs[0] = which.function_id();
        regs[1..=args.len()].copy_from_slice(args);
        let (after, answer) =
            step(state, Call { cpu, regs, entry: 0 }, Ret { x1: seen, ..Ret::default() });
        *state = after;
        matches!(answer, Answer::Ret(ret) if ret.x1 >= 0)
    }

    /// Whether the host can end every VM from here and has every page back then.
    fn ends_at_boot(&self, from: &State) -> bool {
        use Hypercall as H;
        let mut s = from.clone();
        let mut ok = true;
        for cpu in 0..CPUS {
            ok &= s.loaded(cpu).is_none() || Self::accepted(&mut s, cpu, H::VcpuPut, &[], 0);
        }
        for vm in from.slots.iter().flatten() {
            let h = vm.handle.raw();
            if vm.phase == Phase::Reserved {
                ok &= Self::accepted(&mut s, 0, H::UnreserveVm, &[h], 0);
                continue;
            }
            ok &=
                vm.phase == Phase::Dying || Self::accepted(&mut s, 0, H::StartTeardownVm, &[h], 0);
            for gfn in vm.maps.keys() {
                ok &= Self::accepted(&mut s, 0, H::UnshareGuest, &[h, gfn.raw(), 1], 0);
            }
            for page in &vm.donated {
                ok &= Self::accepted(&mut s, 0, H::ReclaimVmPage, &[h], page.raw() as i64);
            }
            ok &= Self::accepted(&mut s, 0, H::FinalizeTeardownVm, &[h], 0);
        }
        for page in self
            .tiny
            .pages
            .iter()
            .filter(|p| from.page(frame(**p)).hyp == PageState::SharedBorrowed)
        {
            ok &= Self::accepted(&mut s, 0, H::UnshareHyp, &[*page], 0);
        }
        ok && s == self.boot
    }
}

/// No guest sees a page that is EL2's, or a table, or a root, or a run page of anybody.
fn nothing_private_is_visible(s: &State) -> bool {
    let vms = || s.slots.iter().flatten();
    let private = |page| {
        s.page(page).hyp != PageState::NoPage
            || vms().any(|vm: &Vm| {
                let root = vm.root.is_some_and(|r| r == page || r.add(1) == Some(page));
                let run = vm.vcpus.iter().flatten().any(|v| v.run == page);
                root || run || vm.donated.contains(&page)
            })
    };
    vms().all(|vm| vm.maps.values().all(|map| !private(map.pfn)))
}

impl Model for Spec {
    type State = State;
    type Action = (Call, Ret);

    fn init_states(&self) -> Vec<State> {
        vec![self.boot.clone()]
    }

    fn actions(&self, state: &State, actions: &mut Vec<(Call, Ret)>) {
        // From a state with wrong counts nothing follows: no rule is written for it.
        if broken(state).is_none() {
            *actions = self.tiny.calls(state);
        }
    }

    fn next_state(&self, last: &State, (call, seen): (Call, Ret)) -> Option<State> {
        let (mut next, _) = step(last, call, seen);
        if next == *last {
            return None;
        }
        (self.mistake)(&call, &mut next);
        Some(self.tiny.canonical(&next))
    }

    fn properties(&self) -> Vec<Property<Self>> {
        fn vms(s: &State) -> impl Iterator<Item = &Vm> {
            s.slots.iter().flatten()
        }
        vec![
            Property::always("the invariants hold", |_, s| broken(s).is_none()),
            Property::always("nothing private is visible", |_, s| nothing_private_is_visible(s)),
            Property::always("every VM can be torn down", |m: &Self, s| {
                broken(s).is_some() || m.ends_at_boot(s)
            }),
            Property::sometimes("both vCPUs are loaded", |_, s: &State| {
                (0..CPUS).all(|cpu| s.loaded(cpu).is_some())
            }),
            Property::sometimes("one VM has both gfns", |_, s: &State| {
                vms(s).any(|vm| GFNS.iter().all(|g| vm.maps.contains_key(&gfn(*g))))
            }),
            Property::sometimes("one page is seen twice", |_, s: &State| {
                s.pages.values().any(|page: &Page| page.shares == 2)
            }),
            Property::sometimes("both VMs die, one with a page", |_, s: &State| {
                vms(s).filter(|vm| vm.phase == Phase::Dying).count() == VMS
                    && vms(s).any(|vm| !vm.maps.is_empty())
            }),
        ]
    }
}

fn gfn(n: u64) -> Gfn {
    Gfn::new(n).expect("a gfn")
}

#[test]
fn in_every_state_of_the_tiny_world_the_specification_is_sound() {
    let checker = Spec::new(|_, _| {}).checker().threads(2).spawn_bfs().join();
    println!(
        "{} states, {} steps, depth {}",
        checker.unique_state_count(),
        checker.state_count(),
        checker.max_depth()
    );
    checker.assert_properties();
    assert!(checker.is_done() && checker.unique_state_count() > 10_000);
}

/// Explores a specification with a mistake in it until the property is found broken.
fn finds(name: &'static str, mistake: fn(&Call, &mut State)) {
    let checker = Spec::new(mistake).checker().finish_when(HasDiscoveries::AnyFailures);
    let checker = checker.spawn_bfs().join();
    assert!(checker.discovery(name).is_some(), "{name}: not noticed");
}

/// The page that most guests' frames show, and how many do.
fn most_shared(s: &State) -> Option<(Pfn, Page)> {
    s.pages.iter().map(|(p, page)| (*p, *page)).max_by_key(|(_, page)| page.shares)
}

#[test]
fn a_root_that_stays_behind_is_found() {
    finds("every VM can be torn down", |call, s| {
        if call.regs[0] == Hypercall::FinalizeTeardownVm.function_id() {
            s.set(frame(RAM + 2), Page::EL2);
        }
    });
}

#[test]
fn a_table_made_of_a_page_that_a_guest_sees_is_found() {
    finds("nothing private is visible", |call, s| {
        let put = call.regs[0] == Hypercall::VcpuPut.function_id();
        if let Some((page, _)) = most_shared(s).filter(|(_, page)| put && page.shares > 0) {
            s.slots.iter_mut().flatten().for_each(|vm| {
                vm.donated.insert(page);
            });
        }
    });
}

#[test]
fn a_share_that_is_not_counted_is_found() {
    finds("the invariants hold", |_, s| {
        if let Some((pfn, page)) = most_shared(s).filter(|(_, page)| page.shares == 2) {
            s.set(pfn, Page { shares: 1, ..page });
        }
    });
}
