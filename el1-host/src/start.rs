//! Boot order: from the device tree to a host that can run guests.
//!
//! The order is forced: the console needs stage 1, the walk of the ownership table needs EL2, and
//! only what that walk says is the host's own may become heap and frames.

use hyp_dtb::Dtb;
use log::{error, info, warn};
use spin::Once;

use crate::arch::boot::{self, layout};
use crate::arch::firmware;
use crate::arch::gic::{Gic, GicV2, GicV3};
use crate::arch::mmu::Map;
use crate::arch::phys::{Memory, early_tree};
use crate::arch::uart::Uart;
use crate::el2::El2;
use crate::frames::Frames;
use crate::ledger::{Ledger, keep_own};
use crate::machine::{Controller, Machine, Voice};
use crate::ranges::{Range, Ranges};
use crate::shim::Shim;
use crate::words::Words;
use crate::{console, heap, smp, verdict, vms};

/// The heap's share of RAM: a sixty-fourth, within these bounds.
const HEAP_SHARE: u64 = 64;
const HEAP_MIN: u64 = 4 << 20;
const HEAP_MAX: u64 = 256 << 20;

/// The host, for all CPUs.
pub static SHIM: Once<Shim> = Once::new();

/// Runs on the boot stack with the early map, and ends the machine.
pub fn start(tree_at: u64) -> ! {
    // There is no console before the tree has named one: an unreadable tree ends silently here.
    // Redan's EL2 has refused it, with a message, before.
    let Some((tree, voice)) = tree(tree_at) else { firmware::power_off() };
    if voice.psci_by_hvc {
        firmware::use_hvc_for_psci();
    }
    let tree_bytes = Range { start: tree_at, end: tree_at + tree.bytes().len() as u64 };
    let mut map = Map::of_image();
    let _tree = map.read_only(tree_bytes.pages_around());
    map.activate();
    let uart = Uart::new(voice.kind, map.device(voice.uart)).expect("a UART has its registers");
    console::start(uart);

    let Some(version) = firmware::probe() else {
        error!("{}", firmware::NO_EL2);
        firmware::power_off();
    };
    let machine = match Machine::read(&tree) {
        Ok(machine) => machine,
        Err(why) => {
            error!("{why}");
            firmware::power_off();
        }
    };
    let words = Words::parse(machine.bootargs, |unknown| warn!("{unknown}"));
    log::set_max_level(words.log);
    info!("Redan EL2 is underneath, interface {}.{}", version >> 16, version & 0xffff);

    let (memory, bundle) = settle(&mut map, &machine, tree_bytes.pages_around());
    let Some(gic) = controller(&mut map, &machine.gic) else {
        panic!("the interrupt controller's registers do not fit their window");
    };
    let ledger = Ledger::take(&El2).expect("the table was walked before");
    let mut frames = Frames::new();
    for (first, end) in memory.frames() {
        frames.add(first, end);
    }
    info!(
        "{} MiB of RAM are the host's, {} MiB of them free for guests; GICv{}",
        ledger.own_pages() >> 8,
        frames.free() >> 8,
        gic.version(),
    );
    let shim = SHIM.call_once(|| Shim::new(memory, frames, gic, uart, &voice, &machine));
    let Some(mut cpu) = smp::boot_cpu(shim) else {
        panic!("the interrupt controller has no place for this CPU");
    };
    let cpus = smp::start(&machine.cpus, boot::own_mpidr());
    info!("CPUs: {cpus} of {}", machine.cpus.len());
    let outcome = vms::run_all(shim, &mut cpu, bundle, &words, &ledger);
    verdict::speak(&outcome, &ledger, &words);
    firmware::power_off()
}

/// The device tree and the console it names.
fn tree(at: u64) -> Option<(Dtb<'static>, Voice)> {
    let size = hyp_dtb::header_size(early_tree(at, hyp_dtb::HEADER_BYTES)?).ok()?;
    let tree = Dtb::parse(early_tree(at, size)?).ok()?;
    let voice = Voice::read(&tree)?;
    Some((tree, voice))
}

/// Divides the RAM: what is not the host's is left alone, the bundle stays where it is, and the
/// rest becomes heap and frames.
fn settle(map: &mut Map, machine: &Machine<'_>, tree: Range) -> (Memory, Option<&'static [u8]>) {
    let too_many = "the memory map has too many pieces";
    let mut ram = machine.ram.clone();
    if let Err(why) = keep_own(&El2, &mut ram) {
        panic!("{why}");
    }
    let bundle = machine.initrd.and_then(|bundle| claim_bundle(map, &ram, tree, bundle));
    let image = Range { start: layout().start, end: layout().end };
    let initrd = machine.initrd.unwrap_or_default().pages_around();
    for spoken_for in machine.reserved.iter().chain([image, tree, initrd]) {
        ram.remove(spoken_for).expect(too_many);
    }
    let total: u64 = ram.iter().map(|r| r.len()).sum();
    let heap = (total / HEAP_SHARE).clamp(HEAP_MIN, HEAP_MAX).next_power_of_two();
    let heap = ram.carve(heap, heap).or_else(|| ram.carve(HEAP_MIN, HEAP_MIN));
    heap::init(map.ram(heap.expect("there is no room for a heap")));
    let mut memory = Memory::new();
    for part in ram.iter() {
        let pages = part.pages_inside();
        if pages.len() > 0 {
            memory.add(map.ram(pages));
        }
    }
    map.publish();
    (memory, bundle)
}

/// The bundle's bytes, if all of them are RAM of the host and apart from its own image and tree.
fn claim_bundle(map: &mut Map, ram: &Ranges, tree: Range, bundle: Range) -> Option<&'static [u8]> {
    let pages = bundle.pages_around();
    let image = Range { start: layout().start, end: layout().end };
    let apart = |other: Range| pages.end <= other.start || other.end <= pages.start;
    let inside = ram.iter().any(|part| part.contains(pages));
    if bundle.len() == 0 || !inside || !apart(image) || !apart(tree) {
        warn!(
            "the initrd at {:#x}..{:#x} does not lie in the host's RAM",
            bundle.start, bundle.end
        );
        return None;
    }
    let pages = map.read_only(pages);
    map.publish();
    pages.bytes(bundle)
}

fn controller(map: &mut Map, gic: &Controller) -> Option<Gic> {
    let gic = match *gic {
        Controller::V2 { distributor, cpu } => {
            Gic::V2(GicV2::new(map.device(distributor), map.device(cpu))?)
        }
        Controller::V3 { distributor, redistributors, stride } => {
            let distributor = map.device(distributor);
            let regions = redistributors.iter().map(|region| map.device((*region).into()));
            Gic::V3(GicV3::new(distributor, regions, stride)?)
        }
    };
    Some(gic)
}
