//! The VMs of the bundle, one after the other: built, run to their end, torn down, accounted for.
//!
//! Whatever is wrong with one VM is said in one line and fails the verdict; the others run.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use host_mirror::Calls;
use host_vmm::bundle::{Bundle, Folder};
use host_vmm::manifest::{self, Manifest};
use host_vmm::stats::Exits;
use host_vmm::vm::{Config, Platform, Summary, Vm};
use hyp_abi::run::Exit;
use log::{error, info};

use crate::shim::Shim;
use crate::vcpu::{self, End, Limit};

/// Most resets of one VM: a guest that resets for ever ends like one that runs for ever.
const RESETS_MAX: u32 = 100;

/// What came of all VMs.
#[derive(Default)]
pub struct Outcome {
    /// VMs that ended as they should.
    pub good: u32,
    /// What went wrong, one line each.
    pub bad: Vec<String>,
    /// Exits by kind, of all VMs.
    pub exits: [u64; Exit::ALL.len()],
    /// Exits that a device model answered.
    pub mmio: u64,
}

impl Outcome {
    fn fail(&mut self, why: String) {
        error!("{why}");
        self.bad.push(why);
    }

    fn count(&mut self, exits: &Exits) {
        for (sum, (_, n)) in self.exits.iter_mut().zip(exits.iter()) {
            *sum += n;
        }
        self.mmio += exits.mmio;
    }
}

/// Runs all VMs of the bundle.
pub fn run_all(shim: &Shim, bundle: Option<&'static [u8]>, timeout: Option<u64>) -> Outcome {
    let mut outcome = Outcome::default();
    let Some(bytes) = bundle else {
        outcome.fail("there is no bundle: pass one as initrd (a newc cpio archive)".to_string());
        return outcome;
    };
    let Some(platform) = shim.features().ok().and_then(|features| Platform::new(&features)) else {
        outcome.fail("EL2 does not say what interrupt controller it has".to_string());
        return outcome;
    };
    let bundle = Bundle::read(bytes);
    if let Some(why) = bundle.error {
        outcome.fail(why.to_string());
    } else if bundle.folders.is_empty() {
        outcome.fail("the bundle holds no VM: no folder in it has a vm.toml".to_string());
    }
    for folder in &bundle.folders {
        if let Err(why) = run_folder(shim, folder, platform, timeout, &mut outcome) {
            outcome.fail(format!("{}: {why}", folder.name));
        } else {
            outcome.good += 1;
        }
    }
    outcome
}

fn run_folder(
    shim: &Shim,
    folder: &Folder<'static>,
    platform: Platform,
    timeout: Option<u64>,
    outcome: &mut Outcome,
) -> Result<(), String> {
    let manifest = read_manifest(folder).map_err(|why| format!("vm.toml: {why}"))?;
    let config =
        Config::new(manifest, |name| folder.file(name)).map_err(|why| format!("vm.toml: {why}"))?;
    let (name, vcpus) = (config.manifest().name.as_str(), config.manifest().vcpus);
    if vcpus != 1 {
        return Err(format!("vm.toml: vcpus = {vcpus}: this host runs VMs with one vCPU"));
    }
    let before = shim.frames_out();
    let limit = timeout.map(Limit::from_now);
    let mut resets = 0;
    loop {
        info!("{name}: starting, with {} MiB of memory", config.manifest().memory_mib);
        let vm = Vm::create(shim, &config, platform).map_err(|why| why.to_string())?;
        let end = vcpu::run(shim, &vm, limit);
        info!("{name}: {end}");
        outcome.count(&vm.exits());
        let counted = count_pages(shim, name, &vm);
        let torn_down = tear_down(shim, name, vm, before);
        counted.and(torn_down)?;
        match end {
            End::PowerOff => return Ok(()),
            End::Reset if resets < RESETS_MAX => resets += 1,
            End::Reset => return Err(format!("stopped: it has reset itself {resets} times")),
            other => return Err(other.to_string()),
        }
    }
}

fn read_manifest(folder: &Folder<'static>) -> Result<Manifest, manifest::Error> {
    let bytes = folder.manifest().unwrap_or_default();
    let text = core::str::from_utf8(bytes).map_err(|why| manifest::Error {
        line: 1 + bytes[..why.valid_up_to()].iter().filter(|b| **b == b'\n').count(),
        reason: "not UTF-8".to_string(),
    })?;
    manifest::parse(text)
}

/// Root tables of a VM, donated as a pair; the others come one by one.
const ROOTS: u64 = 2;

/// The mirror, EL2 and the account of frames must agree to the page.
fn count_pages(shim: &Shim, name: &str, vm: &Vm<'_>) -> Result<(), String> {
    let audit =
        vm.audit(shim).map_err(|why| format!("the mirror is not what EL2 maps: {why:?}"))?;
    let el2 = shim.vm_stats(vm.handle()).map_err(|why| format!("vm_stats refused: {why:?}"))?;
    let (mirror, frames) = (vm.mirror().pages(), vm.accounts());
    let pages = format!(
        "{mirror} pages mapped: mirror {mirror}, EL2 {}, frames {}",
        el2.pages, frames.guest
    );
    let el2_tables = el2.tables + el2.cached;
    let tables = format!(
        "{} table pages in use, {} in reserve: EL2 {el2_tables}, frames {}",
        el2.tables,
        el2.cached,
        frames.tables + ROOTS
    );
    info!("{name}: {pages}");
    info!("{name}: {tables}");
    if [audit.pages, el2.pages, frames.guest].iter().any(|n| *n != mirror) {
        return Err(pages);
    }
    if el2_tables == frames.tables + ROOTS { Ok(()) } else { Err(tables) }
}

/// Ends the VM; every frame that it took must be back in the pool.
fn tear_down(shim: &Shim, name: &str, vm: Vm<'_>, before: u64) -> Result<(), String> {
    let summary = vm.destroy(shim);
    let Summary { pages, stuck, tables, run_pages, refused } = summary;
    info!("{name}: returned {pages} pages, {tables} table pages, {run_pages} run page(s)");
    if let Some((call, why)) = refused {
        return Err(format!("EL2 refuses {} ({why:?}), {stuck} pages are stuck", call.name()));
    }
    match shim.frames_out().abs_diff(before) {
        0 => Ok(()),
        missing => Err(format!("{missing} frames did not come back")),
    }
}
