//! A hostile host with hostile guests, driven by a seed: hypercalls beside their specification,
//! accesses all over the physical address space, registers, random guests; and canaries in all that
//! is not the culprit's. The first thing that is wrong ends the run, with its call and seed.
//!
//! `redan.seed=` and `redan.calls=` on the command line; `cargo xtask attack` gives them. Foreign
//! code runs here, so the verdict is the last line with the run's nonce, and no exit status.

mod access;
mod calls;
mod canary;
pub mod finding;
mod guest;
pub mod insn;
mod land;
mod oracle;
mod registers;
pub mod rng;
mod witness;

use core::sync::atomic::Ordering::Relaxed;

use finding::{CALLS, SEED};
use land::Land;
use oracle::Oracle;
use rng::Rng;
use witness::Witness;

use hyp_abi::Hypercall;
use hyp_abi::run::Exit;

use crate::{gic, host, println, read, timer};

/// Steps between looks at everything.
const LOOK: u64 = 512;
/// Lines of progress.
const LINES: u64 = 10;

/// The attacker.
pub struct Attack {
    rng: Rng,
    oracle: Oracle,
    land: Land,
    witness: Witness,
    /// A page for stage-1 tables.
    table: u64,
    /// A page for two instructions.
    snippet: u64,
    /// A handle of the past.
    stale: u64,
    /// Runs that EL2 accepted.
    runs: u64,
    /// How they ended.
    exits: [u64; Exit::ALL.len()],
    /// How the last one did.
    last_exit: Option<Exit>,
    /// Pages that guests were seen to have written.
    writes: u64,
    /// Steps other than hypercalls.
    others: u64,
    /// In ticks, the watchdog's time included.
    longest_run: u64,
}

/// The payload.
pub fn run() {
    let seed = finding::option("redan.seed=").unwrap_or(1);
    let calls = finding::option("redan.calls=").unwrap_or(10_000);
    SEED.store(seed, Relaxed);
    println!("attack with seed {seed}, {calls} calls");
    gic::get().init();
    guest::mark_host();
    let clean = host::digest(&[]);
    let mut attack = Attack {
        rng: Rng::new(seed),
        oracle: Oracle::new(),
        land: Land::survey(),
        witness: Witness::default(),
        table: host::pages(1),
        snippet: host::pages(1),
        stale: 0,
        runs: 0,
        exits: [0; Exit::ALL.len()],
        last_exit: None,
        writes: 0,
        others: 0,
        longest_run: 0,
    };
    println!("EL2 keeps {} pages to itself", attack.land.el2_pages());
    attack.call_witness();
    attack.go(calls);
    attack.raze_all();
    attack.oracle.check_all();
    crate::ensure!(host::digest(&[]) == clean, "not every page is the host's again");
    let (total, longest) = (CALLS.load(Relaxed), attack.longest_run / timer::ticks(1).max(1));
    attack.say_what_was_done();
    println!("the longest run took {longest} ms");
    finding::end(format_args!(
        "ok {total} calls, {} runs, {} pages written by guests, {} accesses, seed {seed}",
        attack.runs, attack.writes, attack.others
    ))
}

impl Attack {
    fn go(&mut self, calls: u64) {
        let (mut steps, mut line) = (0u64, 1);
        while CALLS.load(Relaxed) < calls {
            match self.rng.below(100) {
                0..=69 => self.hypercall(),
                70..=71 => self.raise_one(),
                72..=73 => self.run_guest(),
                74..=86 => self.other(Self::access),
                _ => self.other(Self::register),
            }
            steps += 1;
            if steps % LOOK == 0 {
                self.look();
            }
            if CALLS.load(Relaxed) >= calls * line / LINES {
                line += 1;
                println!("{} calls, {} runs", CALLS.load(Relaxed), self.runs);
            }
        }
        self.look();
    }

    /// How far the attack came: a call that is always refused tests little.
    fn say_what_was_done(&self) {
        println!("hypercalls, and how many of them were not refused:");
        for (call, (made, accepted)) in Hypercall::ALL.iter().zip(self.oracle.tried) {
            println!("  {:28} {made:8} {accepted:8}", call.name());
        }
        println!("ends of runs:");
        for (exit, n) in Exit::ALL.iter().zip(self.exits) {
            println!("  {:28} {n:8}", format_args!("{exit:?}"));
        }
    }

    fn other(&mut self, step: fn(&mut Self)) {
        self.others += 1;
        step(self);
    }

    /// Everything that can be compared.
    fn look(&mut self) {
        self.still_there();
        self.ask_witness();
        self.oracle.check_all();
        self.check_gic();
        crate::ensure!(read!("daif") == 0x3c0, "the host's interrupts are not masked");
    }
}
