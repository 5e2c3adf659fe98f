//! A hostile host with hostile guests, driven by a seed: hypercalls beside their specification,
//! accesses all over the physical address space, registers, random guests; and canaries in all that
//! is not the culprit's. The first thing that is wrong ends the run, with its call and seed.
//!
//! On several CPUs each has a stream of its own from the seed, and in each round of steps one of two
//! parts. Either it keeps to pages and VMs of its own, where every answer is exactly what the
//! specification says, whatever the others do; or it races the others for pages, VMs and vCPUs that are
//! everybody's (`race`), where it is judged what must hold in any order. Between rounds all stand still
//! and everything is compared.
//!
//! `redan.seed=` and `redan.calls=` on the command line, and `redan.counted` where QEMU counts
//! instructions; `cargo xtask attack` gives them. Foreign
//! code runs here, so the verdict is the last line with the run's nonce, and no exit status.

mod access;
mod calls;
mod canary;
pub mod finding;
mod guest;
pub mod insn;
mod land;
mod ledger;
mod muster;
mod oracle;
mod race;
mod registers;
pub mod rng;
mod scene;
mod verdicts;
mod witness;

use alloc::boxed::Box;
use core::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use core::sync::atomic::{AtomicBool, AtomicU64};

use canary::Field;
use finding::{CALLS, SEED};
use land::Land;
use oracle::Oracle;
use race::Racer;
use rng::Rng;
use witness::Witness;

use hyp_abi::Hypercall;
use hyp_abi::run::Exit;

use crate::cpu::{self, Barrier, CPUS, Lock, PerCpu};
use crate::{gic, host, machine, println, read, report, start, timer, write};

/// Steps of a round: after them everything is looked at.
const LOOK: u64 = 512;
/// Rounds after which what all race for is given back and begun anew.
const ANEW: u64 = 4;
/// Lines of progress.
const LINES: u64 = 10;
/// Another stream for each CPU and round; odd.
const SPREAD: u64 = 0xd6e8_feb8_6659_fd93;

/// The attacker, as one CPU has it.
pub struct Attack {
    rng: Rng,
    oracle: Oracle,
    land: Land,
    witness: Witness,
    racer: Racer,
    /// How many CPUs attack.
    crew: usize,
    /// Digest of the ownership of all pages that are in nobody's play.
    outside: u64,
    /// Time is counted in instructions.
    counted: bool,
    /// A page for stage-1 tables.
    table: u64,
    /// A page for two instructions.
    snippet: u64,
    /// A handle of the past.
    stale: u64,
    /// How the last run ended.
    last_exit: Option<Exit>,
    tally: Tally,
}

/// What was done, by one CPU or by all.
#[derive(Clone, Copy, Default)]
struct Tally {
    /// Runs that EL2 accepted.
    runs: u64,
    /// How they ended.
    exits: [u64; Exit::ALL.len()],
    /// Pages that guests were seen to have written.
    writes: u64,
    /// Steps other than hypercalls.
    others: u64,
    /// Steps in races.
    races: u64,
    /// In ticks, the watchdog's time included.
    longest_run: u64,
    /// For each hypercall of the table, how often it was made and how often it was not refused.
    tried: [(u64, u64); Hypercall::ALL.len()],
}

/// Each CPU finds its attacker here.
static SEATS: PerCpu<Lock<Option<Box<Attack>>>> = PerCpu([const { Lock::new(None) }; CPUS]);
/// So many CPUs are in a step at a time, any of them. EL2 serves in turn, and QEMU has fewer processors to
/// lend than this machine has: if all called at once each would wait for those that are not lent one.
const ABREAST: u64 = 3;
static BUSY: AtomicU64 = AtomicU64::new(0);
static MEETING: Barrier = Barrier::new();
/// Whose turn it is to look at everything, counted over all rounds.
static TURN: AtomicU64 = AtomicU64::new(0);
/// This was the last round.
static DONE: AtomicBool = AtomicBool::new(false);
static TALLY: Lock<Option<Tally>> = Lock::new(None);

/// The payload.
pub fn run() {
    machine::assume_smc();
    let seed = finding::option("redan.seed=").unwrap_or(1);
    let calls = finding::option("redan.calls=").unwrap_or(10_000);
    SEED.store(seed, Relaxed);
    let crew = crew();
    println!("attack with seed {seed}, {calls} calls, CPUs: {crew}");
    gic::get().init();
    let clean = host::digest(&[]);
    let (field, land) = (Field::new(crew), Land::survey());
    println!("EL2 keeps {} pages to itself", land.el2_pages());
    let outside = oracle::outside(field, |_, _| {});
    let racers = Racer::all(crew, field);
    for (n, racer) in racers.into_iter().enumerate() {
        let attack = Attack {
            rng: Rng::new(seed.wrapping_add(SPREAD.wrapping_mul(n as u64))),
            oracle: Oracle::new(n, field),
            land: land.clone(),
            witness: Witness::default(),
            racer,
            crew,
            outside,
            counted: machine::counted(),
            table: host::pages(1),
            snippet: host::pages(1),
            stale: 0,
            last_exit: None,
            tally: Tally::default(),
        };
        *SEATS.0[n % CPUS].lock() = Some(Box::new(attack));
    }
    for n in 1..crew {
        let on = start::cpu_on(n, attend, calls);
        crate::ensure!(on == 0, "CPU_ON of CPU {n} answers {on}");
    }
    attend(calls);
    crate::ensure!(host::digest(&[]) == clean, "not every page is the host's again");
    crate::ensure!(report::failures() == 0, "something failed on the way");
    let tally = TALLY.lock().unwrap_or_default();
    let (total, longest) = (CALLS.load(Relaxed), tally.longest_run / timer::ticks(1).max(1));
    tally.say();
    println!("the longest run took {longest} ms");
    finding::end(format_args!(
        "ok {total} calls, {} runs, {} pages written by guests, {} accesses, {} steps of races, seed {seed}",
        tally.runs, tally.writes, tally.others, tally.races
    ))
}

/// One CPU's part, from its first step until all have given everything back.
fn attend(calls: u64) {
    if cpu::me() != 0 {
        gic::get().init_cpu();
    }
    guest::mark_host();
    let seat = SEATS.lock().take();
    if let Some(mut attack) = seat {
        attack.call_witness();
        attack.go(calls);
        attack.raze_all();
        attack.oracle.check_all();
        attack.tally.tried = attack.tally.all_tried(&attack.oracle.tried);
        let mut all = TALLY.lock();
        *all = Some(all.unwrap_or_default().and(&attack.tally));
    }
    MEETING.wait_with(crew(), nap);
}

/// Sleeps for a millisecond, and does not spin: QEMU has better use for the processor.
fn nap() {
    write!("cntp_cval_el0", read!("cntpct_el0") + timer::ticks(1));
    write!("cntp_ctl_el0", timer::ENABLE);
    let _ = crate::try_insn!("wfi");
    write!("cntp_ctl_el0", 0);
}

/// How many CPUs attack.
fn crew() -> usize {
    (machine::get().cpus as usize).clamp(1, CPUS)
}

impl Attack {
    fn go(&mut self, calls: u64) {
        let mut line = 1;
        for round in 0.. {
            let races = self.races(round);
            if races {
                self.put();
            }
            for _ in 0..LOOK {
                if CALLS.load(Relaxed) >= calls {
                    break;
                }
                let one_more = |busy| (busy < ABREAST).then_some(busy + 1);
                while BUSY.fetch_update(Acquire, Relaxed, one_more).is_err() {
                    nap();
                }
                if races {
                    self.tally.races += 1;
                    self.race();
                } else {
                    self.step();
                }
                BUSY.fetch_sub(1, Release);
            }
            self.leave_race();
            MEETING.wait_with(self.crew, nap);
            // In turn: what is to be compared is asked of EL2 page by page.
            let turn = round * self.crew as u64 + cpu::me() as u64;
            while TURN.load(Acquire) != turn {
                nap();
            }
            self.look();
            if cpu::me() == 0 {
                let done = CALLS.load(Relaxed) >= calls;
                self.muster(done || round % ANEW == ANEW - 1);
                if CALLS.load(Relaxed) >= calls * line / LINES {
                    line += 1;
                    println!("{} calls, {} runs here", CALLS.load(Relaxed), self.tally.runs);
                }
                DONE.store(done, Release);
            }
            TURN.store(turn + 1, Release);
            MEETING.wait_with(self.crew, nap);
            if DONE.load(Acquire) {
                break;
            }
        }
    }

    /// Whether this CPU races in this round. The seed says so: one round in four everybody, one in four
    /// nobody, any of them in the others.
    fn races(&self, round: u64) -> bool {
        let mut rng = Rng::new(SEED.load(Relaxed) ^ (round + 1).wrapping_mul(SPREAD));
        let some = rng.bits() >> (20 + cpu::me()) & 1 != 0;
        self.crew > 1
            && match rng.below(4) {
                0 => true,
                1 => false,
                _ => some,
            }
    }

    /// One step with what is this CPU's own.
    fn step(&mut self) {
        match self.rng.below(100) {
            0..=69 => self.hypercall(),
            70..=71 => self.raise_one(),
            72..=73 => self.run_guest(),
            74..=86 => self.other(Self::access),
            _ => self.other(Self::register),
        }
    }

    fn other(&mut self, step: fn(&mut Self)) {
        self.tally.others += 1;
        step(self);
    }

    /// Everything of this CPU's that can be compared.
    fn look(&mut self) {
        self.still_there();
        self.ask_witness();
        self.oracle.check_all();
        self.check_gic();
        crate::ensure!(read!("daif") == 0x3c0, "the host's interrupts are not masked");
    }
}

impl Tally {
    /// With another's.
    fn and(mut self, other: &Self) -> Self {
        self.runs += other.runs;
        self.writes += other.writes;
        self.others += other.others;
        self.races += other.races;
        self.longest_run = self.longest_run.max(other.longest_run);
        for (n, more) in self.exits.iter_mut().zip(other.exits) {
            *n += more;
        }
        self.tried = self.all_tried(&other.tried);
        self
    }

    /// The calls counted here and there.
    fn all_tried(&self, there: &[(u64, u64)]) -> [(u64, u64); Hypercall::ALL.len()] {
        let mut tried = self.tried;
        for (n, more) in tried.iter_mut().zip(there) {
            *n = (n.0 + more.0, n.1 + more.1);
        }
        tried
    }

    /// How far the attack came: a call that is always refused tests little.
    fn say(&self) {
        println!("hypercalls, and how many of them were not refused:");
        for (call, (made, accepted)) in Hypercall::ALL.iter().zip(self.tried) {
            println!("  {:28} {made:8} {accepted:8}", call.name());
        }
        println!("ends of runs:");
        for (exit, n) in Exit::ALL.iter().zip(self.exits) {
            println!("  {:28} {n:8}", format_args!("{exit:?}"));
        }
    }
}
