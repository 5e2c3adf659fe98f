//! No panic from outside: what runs at EL2 once the host has started cannot reach a panic, but for
//! those that stand for a broken invariant of our own (`ALLOWED`).
//!
//! The judge is the release image itself, after inlining and dead code removal: a check that the
//! compiler could prove is gone, one that it could not is a call that we see. From the two exception
//! vector tables, which are all ways into EL2, we follow the call graph (`graph`) to whatever
//! leads to the panic handler.

mod a64;
mod graph;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use anyhow::{Result, ensure};

use graph::{Graph, Id, Location};

/// The exception vectors: VBAR_EL2 holds one of them from the host's first instruction on.
const ROOTS: [&str; 2] = ["hyp_vector_host", "hyp_vector_guest"];

/// The entry of the image. Its address is taken because the image's memory begins there; nobody
/// calls it, and boot, which may stop for good reasons, is over when the host runs.
const ENTRY: &str = "hyp_head";

/// Panics that may be there, since they can only mean a bug of ours: EL2 stops, by design.
struct Allowed {
    /// How the file's name ends, as its package or the repository sees it.
    file: &'static str,
    /// What the name of the function contains that the code came to be in.
    by: &'static str,
    /// What the compiler calls.
    panics: &'static [&'static str],
    /// How many places of that file: one more fails, and one less does, lest the list go stale.
    places: usize,
    /// Why no caller can bring it about.
    why: &'static str,
}

const ALLOWED: [Allowed; 10] = [
    Allowed {
        file: "hyp/src/panic.rs",
        by: "hyp::panic::from_el2",
        panics: &["panic_fmt"],
        places: 2,
        why: "EL2 took an exception from itself, and says so",
    },
    Allowed {
        file: "hyp/src/arch/vectors.rs",
        by: "host_async",
        panics: &["panic_fmt"],
        places: 1,
        why: "HCR_EL2 routes no interrupt or SError to EL2 while the host runs",
    },
    Allowed {
        file: "hyp/src/arch/percpu.rs",
        by: "host_sync",
        panics: &["expect_failed"],
        places: 2,
        why: "TPIDR_EL2 is EL2's own, and boot fills the CPU's state in before it lets the host run",
    },
    Allowed {
        file: "hyp/src/el2.rs",
        by: "hyp::",
        panics: &["expect_failed"],
        places: 2,
        why: "boot sets both statics before it lets the host run",
    },
    Allowed {
        file: "hyp/src/smp.rs",
        by: "hyp::",
        panics: &["expect_failed"],
        places: 1,
        why: "boot sets the static before it lets the host run, and start another CPU",
    },
    Allowed {
        file: "hyp/src/trap.rs",
        by: "host_sync",
        panics: &["panic_fmt"],
        places: 1,
        why: "the core answers `Outcome::Run` and `GuestNext::Resume` only with a vCPU loaded",
    },
    Allowed {
        file: "hyp/src/machine.rs",
        by: "",
        panics: &["panic_fmt"],
        places: 1,
        why: "`MemMap::index` stays below the number of RAM pages, for which boot made the table",
    },
    Allowed {
        file: "/spin-0.12.3/src/mutex/ticket.rs",
        by: "",
        panics: &["panic_const_add_overflow"],
        places: 1,
        why: "a lock would have to be taken 2^64 times",
    },
    Allowed {
        file: "/buddy_system_allocator-0.13.0/src/lib.rs",
        by: "hyp::heap::Shared",
        panics: &[
            "expect_failed",
            "panic_bounds_check",
            "panic_const_add_overflow",
            "panic_const_sub_overflow",
        ],
        places: 8,
        why: "sizes are constants (a VM's, a vCPU's), and `Boxed` frees once and with the same size",
    },
    Allowed {
        file: "core/src/num/mod.rs",
        by: "hyp::heap::Shared",
        panics: &["panic_const_add_overflow"],
        places: 1,
        why: "the power of two that the allocator rounds such a size up to",
    },
];

/// A panic that can be reached.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Finding {
    /// Where it is in the source, if the code says.
    location: Option<Location>,
    /// What is called.
    panic: String,
    /// The functions that lead there, outermost first.
    chain: Vec<String>,
    /// The address of the call.
    site: u64,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.location {
            Some(at) => write!(f, "{}:{}:{}: ", at.file, at.line, at.column)?,
            None => write!(f, "(no source line): ")?,
        }
        write!(f, "{} at {:#x}, by {}", self.panic, self.site, self.chain.join(" > "))
    }
}

/// What the image was found to be.
#[derive(Debug)]
pub struct Verdict {
    /// Functions that trap code can reach.
    pub functions: usize,
    /// Panics that are allowed.
    pub allowed: usize,
}

/// Fails if trap code of this EL2 image can reach a panic that is not allowed.
pub fn check(elf: &[u8]) -> Result<Verdict> {
    let (functions, findings) = find(elf)?;
    let mut complaints: Vec<String> = Vec::new();
    let mut places: Vec<BTreeSet<&Location>> = ALLOWED.iter().map(|_| BTreeSet::new()).collect();
    for finding in &findings {
        let line = finding.location.as_ref().and_then(|at| {
            let n = ALLOWED.iter().position(|allowed| allowed.covers(finding))?;
            Some((places.get_mut(n)?, at))
        });
        match line {
            Some((places, at)) => drop(places.insert(at)),
            None => complaints.push(finding.to_string()),
        }
    }
    for (allowed, found) in ALLOWED.iter().zip(&places) {
        if found.len() != allowed.places {
            complaints.push(format!(
                "{}: {} in {} places, and the allow-list has {} ({})",
                allowed.file,
                allowed.panics.join(", "),
                found.len(),
                allowed.places,
                allowed.why
            ));
        }
    }
    ensure!(complaints.is_empty(), "EL2 can panic:\n    {}", complaints.join("\n    "));
    Ok(Verdict { functions, allowed: places.iter().map(BTreeSet::len).sum() })
}

impl Allowed {
    fn covers(&self, finding: &Finding) -> bool {
        finding.location.as_ref().is_some_and(|at| at.file.ends_with(self.file))
            && finding.chain.last().is_some_and(|by| by.contains(self.by))
            && self.panics.contains(&finding.panic.as_str())
    }
}

/// How many functions trap code reaches, and the panics among what they call.
fn find(elf: &[u8]) -> Result<(usize, BTreeSet<Finding>)> {
    let mut graph = Graph::new(elf)?;
    let entry = graph.find(ENTRY, |name| name == ENTRY)?;
    graph.taken.remove(&entry);
    let mut roots = Vec::new();
    for root in ROOTS {
        roots.push(graph.find(root, |name| name == root)?);
    }
    let ends = panics(&graph)?;
    let from = graph.reach(&roots, &ends);
    let mut findings = BTreeSet::new();
    for id in from.keys().filter(|id| !ends.contains(id)) {
        let Some(function) = graph.functions.get(*id) else { continue };
        let calls = function.calls.iter().filter(|(_, to)| ends.contains(to));
        let calls = calls.filter_map(|(site, to)| {
            Some((*site, graph.functions.get(*to)?.name.rsplit("::").next()?.to_owned()))
        });
        let traps = function.traps.iter().map(|site| (*site, "a trap instruction".to_owned()));
        for (site, panic) in calls.chain(traps) {
            for location in graph.locations(site) {
                let chain = chain(&graph, &from, *id);
                findings.insert(Finding { location, panic: panic.clone(), chain, site });
            }
        }
        // A pointer to the panic machinery itself: nobody should have one.
        if function.indirect && !graph.taken.is_disjoint(&ends) {
            let (location, panic) = (None, "a panic by function pointer".to_owned());
            let (chain, site) = (chain(&graph, &from, *id), 0);
            findings.insert(Finding { location, panic, chain, site });
        }
    }
    Ok((from.len(), findings))
}

/// The panic handler, and those functions of the standard library that call it or one another.
fn panics(graph: &Graph) -> Result<BTreeSet<Id>> {
    let handler = graph.find("panic handler", |name| name.ends_with("rust_begin_unwind"))?;
    let mut ends = BTreeSet::from([handler]);
    loop {
        let more: Vec<Id> = graph
            .functions
            .iter()
            .enumerate()
            .filter(|(id, f)| !ends.contains(id) && is_library(&f.name))
            .filter(|(_, f)| f.calls.iter().any(|(_, to)| ends.contains(to)))
            .map(|(id, _)| id)
            .collect();
        if more.is_empty() {
            return Ok(ends);
        }
        ends.extend(more);
    }
}

fn is_library(name: &str) -> bool {
    let name = name.trim_start_matches('<');
    name.starts_with("core::") || name.starts_with("alloc::")
}

fn chain(graph: &Graph, from: &BTreeMap<Id, Option<Id>>, to: Id) -> Vec<String> {
    let mut chain = Vec::new();
    let mut at = Some(to);
    while let Some(id) = at {
        chain.extend(graph.functions.get(id).map(|f| f.name.clone()));
        at = from.get(&id).copied().flatten();
    }
    chain.reverse();
    chain
}
