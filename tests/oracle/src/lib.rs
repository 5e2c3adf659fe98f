//! `hyp-core` beside its specification: each call is made by one, foreseen by the other, and judged.
//!
//! The same code runs at EL2 (feature `oracle` of package `hyp`) and on a PC (`tests/props`). What is
//! found is put together without the core's help from raw numbers: metadata words, descriptors by a walk of
//! our own, chains of free pages, and what a VM's slot holds.
//!
//! After each call everything that it names is compared: answer, pages, mappings, VM, vCPUs. After every
//! [`Oracle::EVERY`] calls and exits, and when the last VM has ended, everything is: each page, each entry
//! of each stage 2 with the host's, each table page's count and each free page.
//!
//! One caller at a time, for all CPUs: [`Oracle`] is `&mut`, and who shares it locks it around whole
//! calls. A guest on another CPU may run meanwhile; it changes access flags only, and those of VMs
//! that have run may be found set without a call's doing.
#![no_std]
extern crate alloc;

mod found;
pub mod walk;

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

use hyp_abi::{Gfn, Handle, Hypercall, Ipa, Pfn, Ret};
use hyp_core::machine::Machine;
use hyp_core::observe::VcpuFacts;
use hyp_core::{CpuLocal, GuestNext, HostAbort, Hyp, Outcome, RawExit};
use hyp_model::{Answer, Call, State, exit, step_in_place};

/// Where implementation and specification differ, in words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Divergence(String);

impl From<String> for Divergence {
    fn from(what: String) -> Self {
        Self(what)
    }
}

impl fmt::Display for Divergence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Divergence {
    /// Says when it was found.
    fn at(self, when: impl fmt::Display) -> Self {
        Self(format!("{when}: {self}"))
    }
}

/// `Ok` if the two are equal.
fn same<T: PartialEq + fmt::Debug>(
    what: impl fmt::Display,
    found: T,
    expected: T,
) -> Result<(), Divergence> {
    if found == expected {
        return Ok(());
    }
    Err(Divergence(format!("{what}: found {found:x?}, expected {expected:x?}")))
}

/// The specification's state, and what was seen of vCPUs that are away.
#[derive(Clone, Debug)]
pub struct Oracle {
    model: State,
    /// The vCPU that each CPU had after its last call: nobody else can look at it.
    away: Vec<Option<VcpuFacts>>,
    every: u32,
    since: u32,
    trust_devices: bool,
    /// Calls and exits judged.
    pub judged: u64,
    /// Times that everything was compared.
    pub rounds: u64,
}

/// What a call names, in the slots that it can be about.
#[derive(Debug, Default)]
struct Named {
    slots: Vec<usize>,
    pages: Vec<Pfn>,
    gfns: Vec<(usize, Gfn)>,
}

impl Oracle {
    /// Calls and exits from one comparison of everything to the next, unless told otherwise.
    pub const EVERY: u32 = 1024;

    /// So many at least, when the last VM has ended.
    const SOON: u32 = 64;

    /// Beside a hypervisor in this state.
    #[must_use]
    pub fn new(boot: State, every: u32) -> Self {
        let away = (0..boot.world.cpus).map(|_| None).collect();
        Self { model: boot, away, every, since: 0, trust_devices: false, judged: 0, rounds: 0 }
    }

    /// Whether the implementation decides, unjudged, which device pages the host may touch.
    #[must_use]
    pub fn trusting_devices(mut self, trust: bool) -> Self {
        self.trust_devices = trust;
        self
    }

    /// What the specification has come to.
    #[must_use]
    pub fn model(&self) -> &State {
        &self.model
    }

    /// Makes a hypercall, and foresees it. `entry` is asked afterwards for the entry flags that a
    /// `vcpu_run` has read.
    ///
    /// # Errors
    /// The two differ.
    pub fn hypercall<M: Machine>(
        &mut self,
        hyp: &Hyp<M>,
        cpu: &mut CpuLocal,
        regs: [u64; 5],
        entry: impl FnOnce() -> u64,
    ) -> Result<Outcome, Divergence> {
        let number = cpu.cpu();
        let mut named = self.name(number, regs);
        let outcome = hyp.hypercall(cpu, regs);
        let seen = if let Outcome::Ret(ret) = outcome { ret } else { Ret::default() };
        let answer =
            step_in_place(&mut self.model, Call { cpu: number, regs, entry: entry() }, seen);
        named.pages.extend(u64::try_from(seen.x1).ok().and_then(Pfn::new));
        named.slots.extend(self.model.loaded(number).map(|(slot, _)| slot));
        named.slots.extend(u64::try_from(seen.x1).ok().map(|x1| Handle::from_raw(x1).index()));
        let judged = judge_answer(outcome, answer)
            .and_then(|()| self.compare_named(hyp, cpu, &named))
            .and_then(|()| {
                let ended = regs[0] == Hypercall::FinalizeTeardownVm.function_id() && seen.x1 == 0;
                let last = ended && self.model.slots.iter().all(Option::is_none);
                self.next(hyp, cpu, last && self.since >= Self::SOON)
            });
        let [x0, args @ ..] = regs;
        let name = Hypercall::from_function_id(x0).map_or("an unknown function", Hypercall::name);
        let call = || format!("{name} {x0:#x} {args:x?} on CPU {number}");
        judged.map_err(|why| why.at(call())).map(|()| outcome)
    }

    /// A guest's exit.
    ///
    /// # Errors
    /// It changed more than access flags, or the host is told what no exit can say.
    pub fn guest_exit<M: Machine>(
        &mut self,
        hyp: &Hyp<M>,
        cpu: &mut CpuLocal,
        raw: RawExit,
    ) -> Result<GuestNext, Divergence> {
        let number = cpu.cpu();
        let next = hyp.guest_exit(cpu, raw);
        let told = match next {
            GuestNext::Exit(told) => exit(&mut self.model, number, told)
                .map_err(|why| Divergence(format!("the host is told {told:x?}: {why}"))),
            GuestNext::Resume | GuestNext::Fp => Ok(()),
        };
        let slots = self.model.loaded(number).map(|(slot, _)| slot).into_iter().collect();
        let named = Named { slots, ..Named::default() };
        told.and_then(|()| self.compare_named(hyp, cpu, &named))
            .and_then(|()| self.next(hyp, cpu, false))
            .map_err(|why| why.at(format_args!("exit {raw:x?} on CPU {number}")))
            .map(|()| next)
    }

    /// A stage-2 abort of the host. It changes nothing that the specification knows.
    ///
    /// # Errors
    /// It is answered otherwise than the page's owner says.
    pub fn host_abort<M: Machine>(
        &mut self,
        hyp: &Hyp<M>,
        cpu: &mut CpuLocal,
        ipa: Ipa,
    ) -> Result<HostAbort, Divergence> {
        let answer = hyp.host_abort(cpu, ipa);
        let page = Pfn::new(ipa.frame().raw());
        let may = page.is_some_and(|pfn| self.model.host_may(pfn));
        let trust = self.trust_devices && page.is_some_and(|pfn| !self.model.world.is_ram(pfn));
        let expected = match (trust && may, may) {
            (true, _) => answer,
            (_, true) => HostAbort::Retry,
            (_, false) => HostAbort::Inject,
        };
        same("the answer", answer, expected)
            .and_then(|()| page.map_or(Ok(()), |page| self.compare_page(hyp, page)))
            .and_then(|()| self.compare_reach(hyp, page))
            .map_err(|why| {
                why.at(format_args!("abort of the host at {ipa:?} on CPU {}", cpu.cpu()))
            })
            .map(|()| answer)
    }

    /// Whatever a call's numbers can mean, before it is made.
    fn name(&self, cpu: usize, regs: [u64; 5]) -> Named {
        let [x0, a, b, c, _] = regs;
        let slot = Handle::from_raw(a).index();
        let loaded = self.model.loaded(cpu).map(|(slot, _)| slot);
        let slots: Vec<usize> = [Some(slot), loaded].into_iter().flatten().collect();
        let mut gfns: Vec<(usize, Gfn)> = Vec::new();
        let mut pages: Vec<Pfn> = [Some(a), Some(c), c.checked_add(1)]
            .into_iter()
            .flatten()
            .filter_map(Pfn::new)
            .collect();
        let ranges = [Hypercall::Wrprotect, Hypercall::TestClearYoung];
        let nr = if ranges.iter().any(|call| call.function_id() == x0) {
            c.clamp(1, hyp_abi::hcall::RANGE_BATCH)
        } else {
            1
        };
        for slot in &slots {
            let Some(vm) = self.model.slots.get(*slot).and_then(Option::as_ref) else { continue };
            // What its end gives back.
            pages.extend(vm.root.into_iter().chain(vm.root.and_then(|root| root.add(1))));
            pages.extend(vm.vcpus.iter().flatten().map(|vcpu| vcpu.run));
            gfns.extend([a, b].into_iter().filter_map(|n| Some((*slot, Gfn::new(n)?))));
            if let Some(first) = Gfn::new(b) {
                let end = b.saturating_add(nr);
                let mapped = vm.maps.range(first..).take_while(|(gfn, _)| gfn.raw() < end);
                gfns.extend(mapped.map(|(gfn, _)| (*slot, *gfn)));
            }
            let mapped = gfns.iter().filter(|(of, _)| of == slot);
            pages.extend(mapped.filter_map(|(_, gfn)| vm.maps.get(gfn)).map(|map| map.pfn));
        }
        Named { slots, pages, gfns }
    }

    fn compare_named<M: Machine>(
        &mut self,
        hyp: &Hyp<M>,
        cpu: &mut CpuLocal,
        named: &Named,
    ) -> Result<(), Divergence> {
        self.compare_loaded(cpu)?;
        for page in &named.pages {
            self.compare_page(hyp, *page)?;
        }
        for (slot, gfn) in &named.gfns {
            self.compare_gfn(hyp, *slot, *gfn)?;
        }
        for slot in &named.slots {
            self.compare_slot(hyp, cpu, *slot)?;
        }
        Ok(())
    }

    /// Once in a while, or `now`, everything.
    fn next<M: Machine>(
        &mut self,
        hyp: &Hyp<M>,
        cpu: &mut CpuLocal,
        now: bool,
    ) -> Result<(), Divergence> {
        self.judged += 1;
        self.since += 1;
        if now || self.since >= self.every {
            self.since = 0;
            return self.compare(hyp, cpu);
        }
        Ok(())
    }
}

fn judge_answer(outcome: Outcome, answer: Answer) -> Result<(), Divergence> {
    match (outcome, answer) {
        (Outcome::NotSupported, Answer::NotSupported)
        | (Outcome::Run, Answer::Run)
        | (Outcome::Ret(_), Answer::Reads) => Ok(()),
        (Outcome::Ret(found), Answer::Ret(expected)) => same("the answer", found, expected),
        (found, expected) => {
            Err(Divergence(format!("the answer: found {found:x?}, expected {expected:x?}")))
        }
    }
}
