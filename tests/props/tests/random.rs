//! Random hosts against the specification. `REDAN_SEED` and `REDAN_STEPS` make long runs.

use props::{Rig, Rng};

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |v| v.parse().expect("a number"))
}

fn run(seed: u64, steps: u64) -> Rig {
    let mut rng = Rng::new(seed);
    let mut rig = Rig::new();
    for n in 0..steps {
        rig.random(&mut rng);
        if n % 64 == 0 {
            rig.compare();
        }
    }
    rig.compare();
    rig
}

#[test]
fn random_hosts_never_leave_the_specification() {
    let steps = number("REDAN_STEPS", if cfg!(miri) { 100 } else { 4000 });
    let first = number("REDAN_SEED", 1);
    let (mut calls, mut refused) = (0, 0);
    for seed in first..first + 3 {
        println!("seed {seed}");
        let rig = run(seed, steps);
        calls += rig.calls;
        refused += rig.refused;
    }
    // The walk must reach both sides: neither all refusals nor none.
    assert!(refused * 10 > calls && (calls - refused) * 10 > calls, "{refused} of {calls}");
}
