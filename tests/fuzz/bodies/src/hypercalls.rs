//! Hypercalls of several CPUs, beside their specification.

use hyp_abi::{Gfn, Hypercall, Pfn};
use props::Rig;

use crate::Tape;

/// Pages that calls are about: the host's own, the run pages and tables it gives away, the last ones
/// of each region, and some of EL2's and of nobody's.
const PAGES: [u64; 16] = [
    0x40240, 0x40242, 0x40244, 0x40246, 0x40248, 0x40249, 0x4024a, 0x4024b, 0x40000, 0x403ff,
    0x80000, 0x8003f, 0x40200, 0x8040, 0x8030, 0x9000,
];
/// Guest frames: neighbours in one table, in the next, at the ends.
const GFNS: [u64; 8] = [0, 0x1ff, 0x200, 0x40000, 0x40001, 0x3ffff, (1 << 28) - 1, (1 << 28) - 2];
const CPUS: u8 = 3;
/// Actions that are no hypercall have numbers that no hypercall has.
const TOUCH: u8 = 1;
const GUEST_TOUCH: u8 = 2;
const HOSTILE: u8 = 3;

/// Runs the tape's calls on `hyp-core`, on the fake machine, and on the specification.
///
/// After each the answers are equal, a refused one has changed nothing, and no maintenance is
/// missing; in the end all tables and all owners are as specified.
pub fn hypercalls(bytes: &[u8]) {
    let mut tape = Tape::new(bytes);
    let mut rig = Rig::new();
    while tape.more() {
        let (what, cpu) = (tape.byte() & 0x7f, usize::from(tape.below(CPUS)));
        match what {
            TOUCH => rig.touch(cpu, Pfn::new(tape.pick(&PAGES)).expect("a frame")),
            GUEST_TOUCH => {
                let (slot, write) = (usize::from(tape.below(3)), tape.flag());
                rig.guest_touch(cpu, slot, Gfn::new(tape.pick(&GFNS)).expect("a frame"), write);
            }
            HOSTILE => {
                let regs = [0; 5].map(|_| tape.number());
                rig.call(cpu, regs);
            }
            number => {
                let id = u64::from(hyp_abi::hcall::BASE) | u64::from(number);
                let args = Hypercall::from_function_id(id)
                    .map_or([0; 4], |call| arguments(call, &rig, &mut tape));
                rig.call(cpu, [id, args[0], args[1], args[2], args[3]]);
            }
        }
    }
    rig.compare();
}

/// Plausible arguments, by the names in the table; a byte of each says whether it is to be another.
fn arguments(call: Hypercall, rig: &Rig, tape: &mut Tape<'_>) -> [u64; 4] {
    let mut args = [0; 4];
    for (arg, name) in args.iter_mut().zip(call.args()) {
        let odd = tape.byte();
        *arg = match *name {
            _ if odd == 0xff => tape.number(),
            "handle" => handle(rig, odd),
            "pfn" | "pgd_pfn" | "run_pfn" => PAGES[usize::from(odd) % PAGES.len()],
            "gfn" => GFNS[usize::from(odd) % GFNS.len()],
            "prot" => [15, 1, 3, 13][usize::from(odd) % 4],
            "nr" if matches!(call, Hypercall::Wrprotect | Hypercall::TestClearYoung) => {
                1 + u64::from(odd)
            }
            "nr" | "vcpus" => 1 + u64::from(odd >> 6),
            "idx" => u64::from(odd >> 6),
            "mkold" => u64::from(odd & 1),
            _ => 0,
        };
    }
    args
}

fn handle(rig: &Rig, odd: u8) -> u64 {
    let live: Vec<u64> = rig.model().slots.iter().flatten().map(|vm| vm.handle.raw()).collect();
    let Some(handle) = live.get(usize::from(odd & 3) % live.len().max(1)) else { return 0 };
    // Of another generation than the live one, with the top bit.
    if odd & 0x80 != 0 { handle ^ u64::from(odd) << 8 } else { *handle }
}
