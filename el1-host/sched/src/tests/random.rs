//! Long random lives: everything that may happen, in any order.

use super::{At, Machine, SLICE, steps, task};

struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % sides as u64) as usize
    }
}

const VMS: usize = 5;
const VCPUS: usize = 3;

fn live(seed: u64) {
    let mut dice = Dice(seed);
    let cpus = 1 + dice.roll(8);
    let mut machine = Machine::new(cpus);
    let mut alive = [false; VMS];
    for _ in 0..steps(3000) {
        let cpu = dice.roll(cpus);
        let vm = dice.roll(VMS);
        match dice.roll(10) {
            0 if !alive[vm] && !machine.at.contains(&At::Ending(vm)) => {
                alive[vm] = true;
                machine.sched.add(vm, VCPUS);
                machine.wake(task(vm, 0));
            }
            1 if dice.roll(8) == 0 => {
                machine.stop(vm);
            }
            2 | 3 => machine.wake(task(vm, dice.roll(VCPUS))),
            4 => machine.now += dice.roll(SLICE as usize) as u64,
            5 | 6 => {
                if let At::Running(..) = machine.at[cpu] {
                    let until = (dice.roll(2) == 0).then(|| machine.now + dice.roll(300) as u64);
                    machine.block(cpu, until);
                }
            }
            7 => {
                if let At::Running(..) = machine.at[cpu] {
                    machine.sched.release(cpu, dice.roll(2) == 0, machine.now);
                    machine.next(cpu);
                }
            }
            _ => match machine.at[cpu] {
                At::Ending(vm) => {
                    alive[vm] = false;
                    machine.next(cpu);
                }
                _ => machine.look(cpu),
            },
        }
        let mut running = machine.running();
        let all = running.len();
        running.sort_unstable();
        running.dedup();
        assert_eq!(running.len(), all, "a task on two CPUs");
    }
    // Whatever is ready runs sooner or later, and everything can be ended.
    (0..VMS).for_each(|vm| machine.stop(vm));
    for _ in 0..VMS * 2 {
        machine.settle();
        for cpu in 0..cpus {
            if let At::Ending(_) = machine.at[cpu] {
                machine.next(cpu);
            }
        }
    }
    assert!(machine.sched.is_empty(), "seed {seed}: {:?} {:#?}", machine.at, machine.sched);
    assert!(machine.at.iter().all(|at| matches!(at, At::Idle(_))), "{:?}", machine.at);
}

#[test]
fn no_task_is_on_two_cpus_or_forgotten_whatever_happens() {
    (1..=steps(300)).for_each(live);
}
