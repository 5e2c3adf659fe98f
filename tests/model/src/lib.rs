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
pub mod power;
mod state;
mod step;

pub use invariant::broken;
pub use state::{Map, Page, Phase, State, Vcpu, Vm, World};
pub use step::{Answer, Call, exit, step, step_in_place};

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;
    use hyp_abi::run::{Exit, entry, exit_flags};
    use hyp_abi::{Gfn, Hypercall, Pfn, Prot, Refusal, Ret};

    fn boot() -> State {
        let world = World {
            ram: vec![(Pfn::new(0x100).unwrap(), 64)],
            private: vec![],
            host_pages: 1 << 28,
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
            Call { cpu: 0, regs: [call.function_id(), a, b, c, d], entry: 0 },
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

    /// A VM whose only vCPU is loaded.
    fn loaded() -> State {
        let mut s = boot();
        let h = run(&mut s, Hypercall::ReserveVm, [0; 4], 1 << 8) as u64;
        run(&mut s, Hypercall::InitVm, [h, 1, 0x102, 0], 0);
        run(&mut s, Hypercall::ShareHyp, [0x104, 0, 0, 0], 0);
        run(&mut s, Hypercall::InitVcpu, [h, 0, 0x104, 0], 0);
        run(&mut s, Hypercall::VcpuLoad, [h, 0, 0, 0], 0);
        s
    }

    fn enter(s: &mut State, entry: u64) -> Answer {
        let regs = [Hypercall::VcpuRun.function_id(), 0, 0, 0, 0];
        step_in_place(s, Call { cpu: 0, regs, entry }, Ret::default())
    }

    #[test]
    fn an_exit_is_answered_once_and_by_what_suits_it() {
        let refused = Answer::Ret(Ret { x1: Refusal::Invalid.code(), ..Ret::default() });
        let told = |why: Exit, x5| Ret { x1: why as i64, x5, ..Ret::default() };
        let all = [entry::COMPLETE, entry::SET_RESULT, entry::INJECT_ABORT, entry::INJECT_UNDEF];
        for (told, suits) in [
            (told(Exit::Irq, 0), 0),
            (told(Exit::Abort, 0), entry::INJECT_ABORT),
            (told(Exit::Abort, exit_flags::DECODED), entry::INJECT_ABORT | entry::COMPLETE),
            (told(Exit::Hvc, 0), entry::SET_RESULT | entry::INJECT_UNDEF),
            (told(Exit::Sysreg, 0), entry::COMPLETE | entry::INJECT_UNDEF),
            (told(Exit::Wfx, 0), 0),
        ] {
            for answer in all {
                let mut s = loaded();
                assert_eq!(enter(&mut s, entry::LOAD_CONTEXT | answer), refused, "nothing yet");
                assert_eq!(enter(&mut s, entry::LOAD_CONTEXT), Answer::Run);
                assert_eq!(exit(&mut s, 0, told), Ok(()));
                assert_eq!(enter(&mut s, answer | 1 << 63), refused);
                assert_eq!(enter(&mut s, answer | entry::MASK), refused, "two answers");
                let first = enter(&mut s, answer);
                let expected = if answer & suits == 0 { refused } else { Answer::Run };
                assert_eq!(first, expected, "{told:?} {answer:#x}");
                assert_eq!(enter(&mut s, 0), Answer::Run);
                assert_eq!(enter(&mut s, answer), refused, "answered already");
            }
        }
    }

    #[test]
    fn no_exit_says_more_than_its_reason_has() {
        let mut s = loaded();
        for told in [
            Ret { x1: Exit::Irq as i64, x2: 1, ..Ret::default() },
            Ret { x1: Exit::Hvc as i64, x3: 1, ..Ret::default() },
            Ret { x1: Exit::Sysreg as i64, x4: 1, x5: exit_flags::SYSREG_READ, ..Ret::default() },
            Ret { x1: Exit::Abort as i64, x4: 1, x5: exit_flags::WRITE, ..Ret::default() },
            Ret { x1: -1, ..Ret::default() },
            Ret { x1: 8, ..Ret::default() },
        ] {
            assert!(exit(&mut s, 0, told).is_err(), "{told:?}");
        }
        assert!(exit(&mut s, 1, Ret::default()).is_err(), "nothing is loaded there");
        assert_eq!(s, loaded());
    }

    #[test]
    fn tables_are_counted_by_the_spans_that_have_a_mapping() {
        let mut vm = Vm::reserved(hyp_abi::Handle::from_raw(0x100));
        let gfn = |n| Gfn::new(n).unwrap();
        let map = Map { pfn: Pfn::new(1).unwrap(), prot: Prot::R, young: true, device: false };
        for (at, missing, tables) in [
            (0x40000, 2, 2),
            (0x401ff, 0, 2),
            (0x40200, 1, 3),
            (0x3ffff, 2, 5),
            (0, 1, 6),
            ((1 << 28) - 1, 2, 8),
        ] {
            assert_eq!(vm.tables_missing(gfn(at)), missing, "{at:#x}");
            vm.maps.insert(gfn(at), map);
            assert_eq!((vm.tables(), vm.tables_missing(gfn(at))), (tables, 0), "{at:#x}");
        }
    }
}
