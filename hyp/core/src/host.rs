//! The host's memory: its stage 2, the ownership of every page, EL2's pool.
//!
//! Knows: what the host may reach, and how a page comes to EL2 and goes back. Must not know: VMs.
//!
//! Invariants:
//! - I1: a page that is not the host's ([`PageState::NoPage`]), and every EL2-private device page, has
//!   an annotation in the host's stage 2, and no other page has one.
//! - I2: when a page has come to EL2, no CPU can reach it through the host's map any more.
//!
//! Lock rank: host, the outermost.

use hyp_abi::{Gfn, PageState, Pfn, Refusal, Ret};
use hyp_s2::host::{AnnotateRefusal, TouchRefusal};
use hyp_s2::{Annotation, Attrs, Geometry, HostMap, Regime};

use crate::bits::union;
use crate::board::{Config, ConfigError};
use crate::devices::Devices;
use crate::hcall::value;
use crate::machine::Machine;
use crate::memmap::PageRange;
use crate::owner::{Ownership, Pages, Word};
use crate::pool::Pool;

/// Whose a page is that was taken from the host, in its annotation.
const EL2: Annotation = Annotation::new(Annotation::HYP, 0);
/// Entries visited before looking whether enough tables came free.
const ZAP_BATCH: usize = 512;
/// Tables that answer any touch: one for each level below a level-0 entry.
const ENOUGH_TABLES: usize = 3;
/// Most pages that one `audit_host` call looks at.
const AUDIT_BATCH: u64 = hyp_abi::hcall::RANGE_BATCH;

/// What the host lock guards.
#[derive(Debug)]
pub struct HostState {
    /// The right to change page ownership.
    pub ownership: Ownership,
    /// What the host may reach.
    pub tables: HostTables,
}

/// The host's stage 2.
#[derive(Debug)]
pub struct HostTables {
    /// The tables.
    pub map: HostMap,
    /// Pages for them.
    pub pool: Pool,
    /// Which devices may be in them.
    pub devices: Devices,
}

impl HostState {
    /// The state at boot: EL2's memory and private devices are hidden, everything else is the
    /// host's, mapped when touched.
    ///
    /// # Errors
    /// See [`ConfigError`].
    pub fn new<M: Machine>(
        pages: Pages<'_, M>,
        config: &Config<'_>,
        geometry: Geometry,
        regime: Regime,
    ) -> Result<Self, ConfigError> {
        for pfn in config.el2_owned.iter().flat_map(|range| range.iter()) {
            match pages.word(pfn).map(Word::donate_hyp) {
                Some(Ok(word)) => pages.set_word(pfn, word),
                _ => return Err(ConfigError::Memory),
            }
        }
        let mut pool = Pool::new();
        for pfn in config.pool.iter().flat_map(|range| range.iter()) {
            if !pool.add(pages, pfn) {
                return Err(ConfigError::Memory);
            }
        }
        let map = HostMap::new(geometry, regime, &pages).ok_or(ConfigError::Ipa)?;
        let mut tables = HostTables { map, pool, devices: Devices::default() };
        let mut devices = config.private_devices.iter().flat_map(|range| range.iter());
        if devices.any(|pfn| pages.map.contains(pfn)) {
            return Err(ConfigError::Memory);
        }
        let private = config.el2_owned.iter().chain(config.private_devices);
        for pfn in private.flat_map(|range| range.iter()) {
            tables.hide(pages, pfn).map_err(|why| match why {
                Refusal::NoMemory => ConfigError::Pool,
                _ => ConfigError::Memory,
            })?;
        }
        Ok(Self { ownership: Ownership::new(), tables })
    }

    /// Takes a page from the host for EL2.
    ///
    /// # Errors
    /// `NotPermitted`: not exclusively the host's; `NoMemory`: EL2's pool is empty.
    pub fn donate<M: Machine>(&mut self, pages: Pages<'_, M>, pfn: Pfn) -> Result<(), Refusal> {
        let owner = self.ownership.check(pages, pfn, Word::donate_hyp)?;
        self.tables.hide(pages, pfn)?;
        owner.commit(pages);
        Ok(())
    }

    /// Gives a page of EL2's to the host: zeroed, and zero in memory too, whatever the host's
    /// caches do.
    ///
    /// # Errors
    /// `NotPermitted`: not EL2's; `Busy`: still in use there.
    pub fn release<M: Machine>(&mut self, pages: Pages<'_, M>, pfn: Pfn) -> Result<(), Refusal> {
        let owner = self.ownership.check(pages, pfn, Word::donate_host)?;
        let HostTables { map, pool, .. } = &mut self.tables;
        let shown = map.check_release(pages.machine, pfn).map_err(|_| Refusal::NotPermitted)?;
        pages.machine.zero(pfn);
        pages.machine.clean_to_poc(pfn);
        owner.commit(pages);
        shown.commit(pages.mmu(), &mut pool.source(pages));
        Ok(())
    }

    /// The first run of RAM pages at or after `from` that have equal state.
    ///
    /// # Errors
    /// `NotFound`: there is no RAM there.
    pub fn audit<M: Machine>(
        &self,
        pages: Pages<'_, M>,
        from: Option<Pfn>,
    ) -> Result<Ret, Refusal> {
        let from = from.ok_or(Refusal::NotFound)?;
        let region = pages.map.regions().find(|r| r.end() > from.raw()).ok_or(Refusal::NotFound)?;
        let first = Pfn::new(from.raw().max(region.start())).ok_or(Refusal::NotFound)?;
        let facts = |pfn| pages.word(pfn).map(visible);
        let nr = region.end().saturating_sub(first.raw()).min(AUDIT_BATCH);
        let candidates = PageRange::of(first, nr).ok_or(Refusal::NotFound)?;
        let other = candidates.iter().find(|pfn| facts(*pfn) != facts(first));
        let end = other.map_or(candidates.end(), Pfn::raw);
        let (states, counts) = facts(first).ok_or(Refusal::NotFound)?;
        Ok(Ret {
            x2: first.raw(),
            x3: states,
            x4: counts,
            x5: end,
            ..value(end.saturating_sub(first.raw()))
        })
    }
}

impl HostTables {
    /// Table pages in use, roots included.
    #[must_use]
    pub fn in_use(&self) -> usize {
        let roots = usize::try_from(self.map.geometry().root_pages()).unwrap_or(0);
        self.pool.in_use().saturating_add(roots)
    }

    /// Takes a page, or a device's registers, out of the host's sight: when this returns, no CPU
    /// can reach it through the host's map.
    ///
    /// # Errors
    /// `NotPermitted`: hidden already, or beyond the host's IPA space; `NoMemory`: EL2's pool is
    /// empty.
    pub fn hide<M: Machine>(&mut self, pages: Pages<'_, M>, pfn: Pfn) -> Result<(), Refusal> {
        let refusal = |_: AnnotateRefusal| Refusal::NotPermitted;
        let needed = self.map.check_annotate(pages.machine, pfn).map_err(refusal)?.tables();
        if self.pool.available() < needed {
            self.reclaim(pages);
        }
        let plan = self.map.check_annotate(pages.machine, pfn).map_err(refusal)?;
        let plan = plan.reserve(&mut self.pool.source(pages)).map_err(|_| Refusal::NoMemory)?;
        plan.commit(pages.mmu(), EL2);
        Ok(())
    }

    /// Answers the host's touch of a page that its stage 2 does not map: maps the largest block
    /// around it inside one RAM region or one hole between them. Returns whether the host may try
    /// again.
    pub fn touch<M: Machine>(&mut self, pages: Pages<'_, M>, pfn: Pfn) -> bool {
        match self.try_touch(pages, pfn) {
            Err(TouchRefusal::NoTables) => {
                self.reclaim(pages);
                self.try_touch(pages, pfn).is_ok()
            }
            other => other.is_ok(),
        }
    }

    fn try_touch<M: Machine>(&mut self, pages: Pages<'_, M>, pfn: Pfn) -> Result<(), TouchRefusal> {
        let (around, attrs) = match pages.map.region_of(pfn) {
            Some(region) => (Some(region), Attrs::HOST_RAM),
            None => {
                let hole = pages.map.hole_of(pfn);
                (hole.and_then(|hole| self.devices.around(pfn, hole)), Attrs::HOST_MMIO)
            }
        };
        let fits = |first: Pfn, nr| {
            PageRange::of(first, nr)
                .zip(around)
                .is_some_and(|(b, a)| a.start() <= b.start() && b.end() <= a.end())
        };
        self.map.touch(pages.mmu(), &mut self.pool.source(pages), pfn, attrs, fits)?;
        Ok(())
    }

    /// Unmaps devices until there are tables enough for any touch; they come back when touched.
    fn reclaim<M: Machine>(&mut self, pages: Pages<'_, M>) {
        let end = self.map.geometry().frames();
        let mut at = 0;
        for region in pages.map.regions().map(Some).chain([None]) {
            let hole_end = region.map_or(end, PageRange::start).min(end);
            self.reclaim_between(pages, at, hole_end);
            at = region.map_or(end, PageRange::end);
        }
    }

    /// The same, between two page numbers.
    fn reclaim_between<M: Machine>(&mut self, pages: Pages<'_, M>, start: u64, end: u64) {
        let mut at = Some(start);
        while let Some(from) = at {
            if self.pool.available() >= ENOUGH_TABLES {
                return;
            }
            let nr = end.saturating_sub(from);
            let span = Gfn::new(from).and_then(|gfn| self.map.geometry().span(gfn, nr));
            let Some(span) = span else { return };
            let mut freed = self.pool.source(pages);
            at = self.map.zap(pages.mmu(), span, ZAP_BATCH, &mut freed);
        }
    }
}

/// What the audit shows of a page. Table counts of EL2's own pages are its own business.
fn visible(word: Word) -> (u64, u64) {
    let states = union(&[word.host().bits(), word.hyp().bits() << 8]);
    let pins = if word.hyp() == PageState::Owned { 0 } else { word.pins() };
    (states, union(&[u64::from(word.shares()), u64::from(pins) << 32]))
}
