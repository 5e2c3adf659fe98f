//! Every order in which CPUs that start one and that one, which goes off, can take their steps: each
//! call of [`Power`] is one, and so is each call of the firmware between two of them.

use super::*;

/// The CPU that goes off and is started.
const TARGET: usize = 2;

/// What the firmware knows of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Firmware {
    On,
    Off,
    /// It is on its way to EL2's entry.
    Starting,
}

/// Where a CPU is in its call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum At {
    Begin,
    Firmware,
    Cancel,
    Done,
}

#[derive(Clone, Debug)]
struct World {
    power: Power,
    firmware: Firmware,
    /// CPUs 0 and 1 start the target; the target goes off.
    steps: [At; 3],
    /// How often each begins again.
    tries: [u32; 3],
    /// Firmware may refuse so many calls more, for no reason.
    moods: u32,
    successes: usize,
    arrivals: usize,
}

impl World {
    fn new(tries: [u32; 3], moods: u32) -> Self {
        let mut power = Power::new(0, [1, 2]);
        for n in [1, TARGET] {
            power.begin_on(0, n as u64, start_of(0), true).unwrap();
            power.arrive(n).unwrap();
        }
        Self {
            power,
            firmware: Firmware::On,
            steps: [At::Begin; 3],
            tries,
            moods,
            successes: 0,
            arrivals: 0,
        }
    }

    /// All that can happen next.
    fn next(&self) -> Vec<Self> {
        let mut next = vec![];
        for cpu in 0..2 {
            next.extend(self.starts(cpu));
        }
        next.extend(self.leaves());
        if self.firmware == Firmware::Starting {
            let mut world = self.clone();
            let start = world.power.arrive(TARGET).expect("it was started");
            // The one who started it told it where to go.
            assert!([start_of(0), start_of(1)].contains(&start));
            world.firmware = Firmware::On;
            world.arrivals += 1;
            next.push(world);
        }
        next
    }

    fn again(&mut self, cpu: usize) -> bool {
        let left = self.tries[cpu].checked_sub(1);
        self.tries[cpu] = left.unwrap_or(0);
        left.is_some()
    }

    /// The same with the firmware in a bad mood, if it may be.
    fn refused(&self, cpu: usize) -> Option<Self> {
        let mut world = self.clone();
        world.moods = self.moods.checked_sub(1)?;
        world.steps[cpu] = At::Cancel;
        Some(world)
    }

    fn starts(&self, cpu: usize) -> Vec<Self> {
        let mut world = self.clone();
        let step = match self.steps[cpu] {
            At::Begin => match world.power.begin_on(cpu, TARGET as u64, start_of(cpu), true) {
                Ok(n) => {
                    assert_eq!(n, TARGET);
                    At::Firmware
                }
                Err(_) => At::Done,
            },
            At::Firmware if self.firmware == Firmware::Off => {
                world.firmware = Firmware::Starting;
                world.successes += 1;
                At::Done
            }
            At::Firmware => At::Cancel,
            At::Cancel => {
                world.power.cancel_on(cpu, TARGET);
                At::Done
            }
            At::Done => match world.again(cpu) {
                true => At::Begin,
                false => return vec![],
            },
        };
        world.steps[cpu] = step;
        let moody = (self.steps[cpu] == At::Firmware).then(|| self.refused(cpu)).flatten();
        moody.into_iter().chain([world]).collect()
    }

    fn leaves(&self) -> Vec<Self> {
        let mut world = self.clone();
        let step = match self.steps[TARGET] {
            At::Begin => {
                world.power.begin_off(TARGET).expect("others run");
                At::Firmware
            }
            At::Firmware => {
                assert_eq!(self.firmware, Firmware::On, "it makes the call itself");
                world.firmware = Firmware::Off;
                At::Done
            }
            // It tries again until it can.
            At::Cancel if !world.power.cancel_off(TARGET) => return vec![],
            At::Cancel => At::Done,
            // Only while it runs can it do anything.
            At::Done => match self.firmware == Firmware::On && world.again(TARGET) {
                true => At::Begin,
                false => return vec![],
            },
        };
        world.steps[TARGET] = step;
        let moody = (self.steps[TARGET] == At::Firmware).then(|| self.refused(TARGET)).flatten();
        moody.into_iter().chain([world]).collect()
    }

    /// Nothing happens any more: EL2 and the firmware say the same, and nobody was told a lie.
    fn judge(&self) {
        assert_eq!(self.successes, self.arrivals, "{self:?}");
        let believed = self.power.affinity(TARGET as u64, 0);
        let expected = match self.firmware {
            Firmware::On => Affinity::Answer(ON),
            Firmware::Off | Firmware::Starting => Affinity::Off(TARGET),
        };
        assert_eq!(believed, expected, "{self:?}");
    }
}

fn start_of(cpu: usize) -> Start {
    Start { entry: 0x1000 * (1 + cpu as u64), context: cpu as u64 }
}

/// Takes every way through; answers how many there are.
fn explore(world: &World) -> usize {
    let next = world.next();
    if next.is_empty() {
        world.judge();
        return 1;
    }
    next.iter().map(explore).sum()
}

#[test]
fn starters_and_a_cpu_that_goes_off_agree_with_the_firmware_in_every_order() {
    // Miri looks for undefined behaviour, which does not depend on the order.
    let tries = if cfg!(miri) { [0, 0, 0] } else { [1, 1, 1] };
    let ways = explore(&World::new(tries, 0));
    assert!(cfg!(miri) || ways > 1000, "only {ways} ways");
}

#[test]
fn they_agree_even_if_the_firmware_refuses_for_no_reason() {
    let (tries, moods) = if cfg!(miri) { ([0, 0, 0], 1) } else { ([1, 0, 1], 1) };
    let ways = explore(&World::new(tries, moods));
    assert!(cfg!(miri) || ways > 1000, "only {ways} ways");
}
