//! A host's power calls on up to eight CPUs, beside their specification.

use hyp_core::power::{Affinity, OFF, Power, Start};
use hyp_core::psci::{self, Firmware, Request, SuspendFormat, status};
use hyp_model::power::{Around, Cpu, Cpus, Must, smc};

use crate::Tape;

/// The CPUs of two clusters, and of one far away.
const MPIDRS: [u64; 8] = [0, 1, 2, 3, 0x100, 0x101, 0x1_0000, 0x1_0000_0000];
/// What a host may take for one: no CPU's, bits that are no affinity, the last one's lower half.
const STRANGE: [u64; 6] = [4, 0x200, 0x8000_0000, 0x0100_0000, u64::MAX, 0xff_00ff_ffff];

/// Actions that are no call.
const ARRIVE: u8 = 0xf0;
const UNFIT: u8 = 0xf1;

struct World {
    power: Power,
    firmware: Firmware,
    cpus: Cpus,
    around: Around,
    /// Who has asked for the CPU of that number, and what it was told.
    asked: [Option<Start>; 8],
}

/// Runs the tape's SMCs on `hyp-core`, between firmware that agrees or refuses, and on the
/// specification. The answers and what they lead to are equal; the states of all CPUs are, after each; a CPU that
/// comes up begins where the one who started it said; and one CPU is always left.
pub fn power(bytes: &[u8]) {
    let mut tape = Tape::new(bytes);
    let mut world = World::new(&mut tape);
    while tape.more() {
        let (what, number) = (tape.byte(), usize::from(tape.below(8)));
        match what {
            ARRIVE => world.arrive(number),
            UNFIT => world.unfit(number),
            _ => world.call(what, number, &mut tape),
        }
        world.compare();
    }
}

impl World {
    fn new(tape: &mut Tape<'_>) -> Self {
        let (kind, count) = (tape.byte(), usize::from(tape.below(8)) + 1);
        let suspend = [None, Some(false), Some(true)][usize::from(kind >> 2) % 3];
        let formats = |extended| {
            if extended { SuspendFormat::Extended } else { SuspendFormat::Original }
        };
        let (relays, board_off) = (kind & 1 == 0, kind & 2 == 0);
        let firmware = if relays {
            Firmware::Psci { suspend: suspend.map(formats) }
        } else {
            Firmware::Own { off: board_off }
        };
        let around =
            Around { firmware: relays, suspend, board_off, reachable: true, loaded: false };
        // Named with the bits that an MPIDR has besides, and twice.
        let others = MPIDRS[..count].iter().flat_map(|mpidr| [mpidr | 0x8000_0000, *mpidr]);
        let power = Power::new(MPIDRS[0], others);
        let state = |mpidr| if mpidr == MPIDRS[0] { Cpu::On } else { Cpu::Off };
        let cpus = MPIDRS[..count].iter().map(|mpidr| (*mpidr, state(*mpidr))).collect();
        Self { power, firmware, cpus, around, asked: [None; 8] }
    }

    fn state(&self, number: usize) -> Option<Cpu> {
        self.cpus.get(&MPIDRS[number]).copied()
    }

    /// A CPU comes up in EL2.
    fn arrive(&mut self, number: usize) {
        let Some(before) = self.state(number) else { return };
        let start = self.power.arrive(number);
        if matches!(before, Cpu::Pending | Cpu::Asleep) {
            assert_eq!(start, self.asked[number], "it begins elsewhere than it was told");
            self.cpus.insert(MPIDRS[number], Cpu::On);
        } else {
            assert_eq!(start, None, "nobody has asked for it");
        }
    }

    /// A CPU that was started turns out to be of no use.
    fn unfit(&mut self, number: usize) {
        if self.state(number) == Some(Cpu::Pending) {
            self.power.refuse(number);
            self.cpus.insert(MPIDRS[number], Cpu::Unfit);
        }
    }

    /// An SMC of a CPU that runs.
    fn call(&mut self, what: u8, by: usize, tape: &mut Tape<'_>) {
        if self.state(by) != Some(Cpu::On) {
            return;
        }
        let flags = tape.byte();
        let (refuses, imm) = (flags & 1 != 0, u16::from(flags & 0xf0 == 0xf0));
        let around = Around { reachable: flags & 2 == 0, loaded: flags & 4 != 0, ..self.around };
        let args = arguments(what, tape);
        let must = smc(&self.cpus, MPIDRS[by], around, imm, args);
        let start = |entry, context| Start { entry, context };
        match psci::request(imm, args, self.firmware) {
            Request::Answer(x0) => assert_eq!(Must::Return(x0.cast_signed()), must, "{args:x?}"),
            Request::Forward(call) => assert_eq!(Must::Relay(call), must, "{args:x?}"),
            Request::End { reset } => assert_eq!(Must::End { reset }, must, "{args:x?}"),
            Request::On { target, entry, context } => {
                let start = start(entry, context);
                let begun = self.power.begin_on(by, target, start, around.reachable);
                let found = begun.map_or_else(
                    |x0| Must::Return(x0.cast_signed()),
                    |number| {
                        assert_eq!(self.power.mpidr(number), Some(target));
                        Must::Start(target)
                    },
                );
                assert_eq!(found, must, "{args:x?}");
                if let Ok(number) = begun {
                    if refuses {
                        self.power.cancel_on(by, number);
                    } else {
                        self.asked[number] = Some(start);
                        self.cpus.insert(target, Cpu::Pending);
                    }
                }
            }
            Request::Off => {
                let begun =
                    if around.loaded { Err(status::DENIED) } else { self.power.begin_off(by) };
                let found = begun.map_or_else(|x0| Must::Return(x0.cast_signed()), |()| Must::Stop);
                assert_eq!(found, must, "{args:x?}");
                if begun.is_ok() {
                    if refuses {
                        assert!(self.power.cancel_off(by), "nobody is starting it");
                    } else {
                        self.cpus.insert(MPIDRS[by], Cpu::Off);
                    }
                }
            }
            Request::Suspend { power_down, entry, context, .. } => {
                let found = match power_down {
                    true if around.loaded => Must::Return(-3),
                    true if !around.reachable => Must::Return(-9),
                    down => Must::Sleep { down },
                };
                assert_eq!(found, must, "{args:x?}");
                if must == (Must::Sleep { down: true }) {
                    let start = start(entry, context);
                    self.power.begin_suspend(by, start);
                    if refuses {
                        self.power.cancel_suspend(by);
                    } else {
                        self.asked[by] = Some(start);
                        self.cpus.insert(MPIDRS[by], Cpu::Asleep);
                    }
                }
            }
            Request::Affinity { target, level } => {
                let found = match self.power.affinity(target, level) {
                    Affinity::Answer(x0) => Must::Return(x0.cast_signed()),
                    Affinity::Off(number) => Must::Ask(MPIDRS[number]),
                };
                assert_eq!(found, must, "{args:x?}");
            }
        }
    }

    /// All states are equal, and somebody is left.
    fn compare(&self) {
        for (mpidr, cpu) in &self.cpus {
            let found = self.power.affinity(*mpidr, 0);
            let expected = match cpu {
                Cpu::On | Cpu::Asleep => Affinity::Answer(0),
                Cpu::Pending => Affinity::Answer(2),
                Cpu::Unfit => Affinity::Answer(OFF),
                Cpu::Off => Affinity::Off(self.power.number(*mpidr).expect("it has a number")),
            };
            assert_eq!(found, expected, "CPU {mpidr:#x}");
        }
        assert_eq!(self.power.count(), self.cpus.len());
        let lives = |cpu: &Cpu| matches!(cpu, Cpu::On | Cpu::Asleep);
        assert!(self.cpus.values().any(lives), "nobody is left");
    }
}

/// Likely calls with likely arguments, and any.
fn arguments(what: u8, tape: &mut Tape<'_>) -> [u64; 4] {
    let mpidr = |tape: &mut Tape<'_>| {
        let pick = usize::from(tape.byte());
        MPIDRS.iter().chain(&STRANGE).nth(pick % 14).copied().unwrap_or(0)
    };
    let base = if what & 0x20 == 0 { 0x8400_0000 } else { 0xc400_0000 };
    match what >> 6 {
        0 | 1 => {
            let id = base | u64::from(what & 0x1f);
            match what & 0x1f {
                3 => [id, mpidr(tape), tape.number(), tape.number()],
                4 => [id, mpidr(tape), u64::from(tape.below(5)), 0],
                0xa => [id, base ^ u64::from(tape.byte()) << 24 | u64::from(tape.byte()), 0, 0],
                _ => [id, tape.number(), tape.number(), tape.number()],
            }
        }
        2 => [0x8000_0000 | u64::from(what & 1), 0x8000_0000 | tape.number(), 0, 0],
        _ => [0; 4].map(|_| tape.number()),
    }
}
