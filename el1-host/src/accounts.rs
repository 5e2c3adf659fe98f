//! What a VM has, counted by everybody who counts, and given back.

use alloc::format;
use alloc::string::String;
use core::sync::atomic::Ordering;

use host_mirror::Calls;
use host_vmm::vm::{Summary, Vm};
use log::info;

use crate::ground::Ground;

/// Root tables of a VM, donated as a pair; the others come one by one.
const ROOTS: u64 = 2;

/// The mirror, EL2 and the account of frames must agree to the page.
pub fn count_pages(ground: &Ground<'_>, name: &str, vm: &Vm<'_>) -> Result<(), String> {
    let audit =
        vm.audit(ground).map_err(|why| format!("the mirror is not what EL2 maps: {why:?}"))?;
    let el2 = ground.vm_stats(vm.handle()).map_err(|why| format!("vm_stats refused: {why:?}"))?;
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
pub fn tear_down(ground: &Ground<'_>, name: &str, vm: Vm<'_>) -> Result<(), String> {
    let summary = vm.destroy(ground);
    let Summary { pages, stuck, tables, run_pages, refused } = summary;
    info!("{name}: returned {pages} pages, {tables} table pages, {run_pages} run page(s)");
    if let Some((call, why)) = refused {
        return Err(format!("EL2 refuses {} ({why:?}), {stuck} pages are stuck", call.name()));
    }
    match ground.frames.load(Ordering::Relaxed) {
        0 => Ok(()),
        missing => Err(format!("{missing} frames did not come back")),
    }
}
