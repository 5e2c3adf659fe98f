//! The comparison of the mirror with EL2's own tables, page by page.

use hyp_abi::{Gfn, PageState, Prot, Refusal};

use crate::answers::GuestRun;
use crate::hypercalls::{Calls, Hypercalls};
use crate::mirror::Mirror;
use crate::runs::Runs;

/// Both sides agree on this much.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AuditReport {
    /// Pages mapped.
    pub pages: u64,
    /// Device pages that EL2 maps by other calls (GICV); not in the mirror.
    pub device_pages: u64,
    /// Pages that are write-protected at the moment.
    pub protected: u64,
}

/// Where they disagree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AuditError {
    /// EL2 did not answer.
    Refused(Refusal),
    /// EL2 maps a page that the mirror has not, or has otherwise.
    Differs(Gfn),
    /// The mirror has pages that EL2 does not map.
    Missing {
        /// Pages in the mirror.
        mirror: u64,
        /// Pages at EL2.
        el2: u64,
    },
}

impl Mirror {
    /// Compares the whole mirror with EL2. Runs with the read lock held: nothing can be mapped or
    /// unmapped meanwhile.
    ///
    /// # Errors
    /// The first disagreement.
    pub fn audit<H: Hypercalls + ?Sized>(&self, hyp: &H) -> Result<AuditReport, AuditError> {
        let runs = self.runs.read();
        let mut report = AuditReport::default();
        let mut at = 0;
        while let Some(run) = hyp.audit_vm(self.handle, at).map_err(AuditError::Refused)? {
            at = run.next;
            if run.device {
                report.device_pages = report.device_pages.saturating_add(run.nr);
                continue;
            }
            report.protected = report.protected.saturating_add(compare(&runs, &run)?);
            report.pages = report.pages.saturating_add(run.nr);
        }
        // EL2's pages are all in the mirror; with equal numbers the mirror's are all at EL2.
        let mirror = runs.pages();
        if mirror == report.pages {
            Ok(report)
        } else {
            Err(AuditError::Missing { mirror, el2: report.pages })
        }
    }
}

/// Checks that each page of EL2's run is in the mirror; answers how many lack a right to write that
/// was granted.
fn compare(runs: &Runs, run: &GuestRun) -> Result<u64, AuditError> {
    let mut protected = 0_u64;
    let mut seen = 0_u64;
    while seen < run.nr {
        let at = run.gfn.add(seen).ok_or(AuditError::Differs(run.gfn))?;
        let limit = run.gfn.raw().saturating_add(run.nr);
        let (first, piece) = runs.next_in(at, limit).ok_or(AuditError::Differs(at))?;
        // A write protection may have taken W away; nothing else may differ.
        let same_rights = run.prot == piece.prot || run.prot == piece.prot.without(Prot::W);
        let same_page = first == at && run.pfn.add(seen) == Some(piece.pfn);
        if !(same_page && same_rights && run.state == PageState::SharedBorrowed) {
            return Err(AuditError::Differs(at));
        }
        if run.prot != piece.prot {
            protected = protected.saturating_add(piece.nr);
        }
        seen = seen.saturating_add(piece.nr);
    }
    Ok(protected)
}
