//! The executable specification: what each hypercall must answer and change, over sets and maps.
//!
//! Written from the hypercall table (`hyp_abi::hcall`) and pKVM's semantics, with none of
//! `hyp-core`'s code, to be read in one sitting. Knows who owns each page, who may see it how, and
//! the lives of VMs and vCPUs. Must not know: tables, descriptors, barriers, locks, registers.
//!
//! [`step()`] is a function of the state and the call. Where the implementation may choose (which
//! page comes back first), the specification says what is allowed and takes the choice from the
//! answer it is compared with.
#![no_std]
extern crate alloc;

mod invariant;
mod state;
mod step;

pub use invariant::broken;
pub use state::{Map, Page, Phase, State, Vcpu, Vm, World};
pub use step::{Answer, Call, step};

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;
    use hyp_abi::{Hypercall, Pfn, Refusal, Ret};

    fn boot() -> State {
        let world = World {
            ram: vec![(Pfn::new(0x100).unwrap(), 64)],
            guest_pages: 1 << 28,
            gicv: None,
            cpus: 1,
            memcache: 32,
        };
        State::boot(world, [Pfn::new(0x100).unwrap()])
    }

    fn run(s: &mut State, call: Hypercall, args: [u64; 4], seen: i64) -> i64 {
        let [a, b, c, d] = args;
        let (after, answer) = step(
            s,
            Call { cpu: 0, regs: [call.function_id(), a, b, c, d] },
            Ret { x1: seen, ..Ret::default() },
        );
        assert_eq!(broken(&after), None, "{call:?}");
        *s = after;
        match answer {
            Answer::Ret(ret) => ret.x1,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_whole_life_of_a_vm_ends_where_it_began() {
        let mut s = boot();
        let h = 1 << 8;
        assert_eq!(run(&mut s, Hypercall::ReserveVm, [0; 4], h), h);
        let h = h as u64;
        let of = |p: u64| 0x100 + p;
        assert_eq!(run(&mut s, Hypercall::InitVm, [h, 1, of(2), 0], 0), 0);
        assert_eq!(run(&mut s, Hypercall::ShareHyp, [of(4), 0, 0, 0], 0), 0);
        assert_eq!(run(&mut s, Hypercall::InitVcpu, [h, 0, of(4), 0], 0), 0);
        assert_eq!(run(&mut s, Hypercall::VcpuLoad, [h, 0, 0, 0], 0), 0);
        let share = [of(5), 0x40000, 1, 15];
        let short = Refusal::NoMemory.code();
        assert_eq!(run(&mut s, Hypercall::ShareGuest, share, 0), short);
        assert_eq!(run(&mut s, Hypercall::MemcacheTopup, [of(6), 0, 0, 0], 0), 1);
        assert_eq!(run(&mut s, Hypercall::ShareGuest, share, 0), short);
        assert_eq!(run(&mut s, Hypercall::MemcacheTopup, [of(7), 0, 0, 0], 0), 2);
        assert_eq!(run(&mut s, Hypercall::ShareGuest, share, 0), 0);
        assert_eq!(run(&mut s, Hypercall::VcpuPut, [0; 4], 0), 0);
        assert_eq!(run(&mut s, Hypercall::StartTeardownVm, [h, 0, 0, 0], 0), 0);
        let busy = Refusal::Busy.code();
        assert_eq!(run(&mut s, Hypercall::FinalizeTeardownVm, [h, 0, 0, 0], 0), busy);
        assert_eq!(run(&mut s, Hypercall::UnshareGuest, [h, 0x40000, 1, 0], 0), 0);
        assert_eq!(run(&mut s, Hypercall::ReclaimVmPage, [h, 0, 0, 0], of(7) as i64), of(7) as i64);
        assert_eq!(run(&mut s, Hypercall::ReclaimVmPage, [h, 0, 0, 0], of(6) as i64), of(6) as i64);
        let none = Refusal::NotFound.code();
        assert_eq!(run(&mut s, Hypercall::ReclaimVmPage, [h, 0, 0, 0], none), none);
        assert_eq!(run(&mut s, Hypercall::FinalizeTeardownVm, [h, 0, 0, 0], 0), 0);
        assert_eq!(run(&mut s, Hypercall::UnshareHyp, [of(4), 0, 0, 0], 0), 0);
        assert_eq!(s, boot());
    }
}
