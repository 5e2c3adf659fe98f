//! The same random host as in `random.rs`, its choices made by proptest: what fails, shrinks to few
//! calls. `PROPTEST_CASES` makes long runs.

use hyp_abi::Hypercall as H;
use props::{Rig, Rng};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::FileFailurePersistence;

/// Words that a step is made of: no step draws more.
const WORDS: usize = 14;

/// A machine with a VM that has a vCPU, and memory for tables: deep states are near.
fn rig() -> Rig {
    let mut rig = Rig::new();
    let mut call = |which: H, args: [u64; 4]| {
        let [a, b, c, d] = args;
        let ret = rig.call(0, [which.function_id(), a, b, c, d]).expect("an answer");
        assert!(ret.x1 >= 0, "{which:?} was refused: {ret:?}");
        ret.x1 as u64
    };
    let handle = call(H::ReserveVm, [0; 4]);
    call(H::InitVm, [handle, 2, 0x40240, 0]);
    call(H::ShareHyp, [0x40242, 0, 0, 0]);
    call(H::InitVcpu, [handle, 0, 0x40242, 0]);
    call(H::InitVcpu, [handle, 1, 0x40242, 0]);
    call(H::VcpuLoad, [handle, 0, 0, 0]);
    for page in 0x40243..0x40246 {
        call(H::MemcacheTopup, [page, 0, 0, 0]);
    }
    rig
}

fn cases() -> u32 {
    let asked = std::env::var("PROPTEST_CASES").ok().and_then(|n| n.parse().ok());
    asked.unwrap_or(if cfg!(miri) { 1 } else { 48 })
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: cases(),
        max_shrink_iters: 4096,
        failure_persistence: Some(Box::new(FileFailurePersistence::WithSource("regressions"))),
        ..ProptestConfig::default()
    })]

    #[test]
    fn whatever_several_cpus_call_is_answered_as_specified(
        steps in vec(vec(any::<u64>(), 0..WORDS), 1..300),
    ) {
        let mut rig = rig();
        for words in steps {
            rig.random(&mut Rng::told(words));
        }
        rig.compare();
    }
}
