//! The bundle, round by round: all its VMs at once, and an account after each round.
//!
//! Whatever is wrong with one VM is said in one line and fails the verdict; the others run.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use host_mirror::Calls;
use host_vmm::bundle::Bundle;
use host_vmm::vm::{Config, Platform};
use hyp_abi::Handle;
use hyp_abi::hcall::MAX_VMS;
use log::info;

use crate::arch::timer;
use crate::cpu::Cpu;
use crate::el2::El2;
use crate::guests::Guests;
use crate::ledger::Ledger;
use crate::outcome::Outcome;
use crate::shares;
use crate::shim::Shim;
use crate::words::Words;

/// Of many rounds, every so manieth is reported.
const REPORT_EVERY: u32 = 10;

/// Runs all VMs of the bundle, as often as the command line says.
pub fn run_all(
    shim: &Shim,
    cpu: &mut Cpu<'_>,
    bundle: Option<&'static [u8]>,
    words: &Words<'_>,
    before: &Ledger,
) -> Outcome {
    let mut outcome = Outcome::default();
    let Some(bytes) = bundle else {
        outcome.fail("there is no bundle: pass one as initrd (a newc cpio archive)".to_string());
        return outcome;
    };
    let Some(platform) = El2.features().ok().and_then(|features| Platform::new(&features)) else {
        outcome.fail("EL2 does not say what interrupt controller it has".to_string());
        return outcome;
    };
    let configs = configs(bytes, &mut outcome);
    if configs.len() > 1 {
        let names: Vec<&str> = configs.iter().map(|c| c.manifest().name.as_str()).collect();
        info!(
            "{} VMs: {}; input goes to the first, Ctrl-] and a digit or n chooses another",
            names.len(),
            names.join(", ")
        );
    }
    let guests = shim.guests.call_once(|| Guests::new(configs, platform, words.timeout, outcome));
    let mut dice = words.kill.map(|kill| (Dice::new(kill.seed), ticks(kill.within_ms)));
    for round in 1..=words.rounds {
        guests.start_all(shim, || dice.as_mut().map(|(dice, within)| dice.below(*within)));
        cpu.run(|| guests.living() == 0);
        if let Some(percent) = words.fair
            && let Err(why) = shares::check(&guests.shares(), percent)
        {
            guests.outcome.lock().fail(why);
        }
        if words.rounds > 1
            && let Err(why) = account(shim, before, round, words.rounds)
        {
            guests.outcome.lock().fail(format!("round {round}: {why}"));
            break;
        }
    }
    let (made, most) = guests.made();
    info!("{made} VMs were made, at most {most} at once");
    core::mem::take(&mut *guests.outcome.lock())
}

/// Milliseconds as ticks.
fn ticks(ms: u64) -> u64 {
    ms.saturating_mul(timer::frequency()) / 1000
}

/// What can be run of a bundle.
fn configs(bytes: &'static [u8], outcome: &mut Outcome) -> Vec<Config<'static>> {
    let bundle = Bundle::read(bytes);
    if let Some(why) = bundle.error {
        outcome.fail(why.to_string());
    } else if bundle.folders.is_empty() {
        outcome.fail("the bundle holds no VM: no folder in it has a vm.toml".to_string());
    }
    let mut configs = Vec::new();
    for folder in &bundle.folders {
        match Config::from_folder(folder) {
            Ok(config) => configs.push(config),
            Err(why) => outcome.fail(format!("{}: vm.toml: {why}", folder.name)),
        }
    }
    configs
}

/// After a round nothing may be missing: no page, no frame, no slot for a VM.
fn account(shim: &Shim, before: &Ledger, round: u32, rounds: u32) -> Result<(), String> {
    let refused = |why| format!("EL2 refuses to tell who owns what: {why:?}");
    let now = Ledger::take(&El2).map_err(refused)?;
    if now != *before {
        let away = before.own_pages().abs_diff(now.own_pages());
        return Err(format!("{away} pages are not the host's again"));
    }
    match shim.frames_out() {
        0 => {}
        out => return Err(format!("{out} frames did not come back")),
    }
    let slots = free_slots();
    if slots != MAX_VMS {
        return Err(format!("EL2 has {slots} free slots for VMs, not {MAX_VMS}"));
    }
    if round.is_multiple_of(REPORT_EVERY) || round == rounds || rounds <= REPORT_EVERY {
        let own = now.own_pages();
        info!("round {round} of {rounds}: all {own} pages are here, and all {slots} slots for VMs");
    }
    Ok(())
}

/// How many VMs could be made now.
fn free_slots() -> usize {
    let reserved: Vec<Handle> =
        core::iter::from_fn(|| El2.reserve_vm().ok()).take(MAX_VMS + 1).collect();
    reserved.iter().filter(|handle| El2.unreserve_vm(**handle).is_ok()).count()
}

/// Numbers that look random, and are the same for the same seed.
struct Dice(u64);

impl Dice {
    fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % end.max(1)
    }
}
