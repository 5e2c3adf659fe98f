//! The call graph of a linked image, on the safe side: an edge too many, never one too few.
//!
//! * Nodes are the symbols of code, each up to the next. Edges are branches out of a node.
//! * An indirect call may go to every function whose address is written anywhere: formed by code
//!   (ADR, or ADRP and ADD), or stored in data, where the image being position-independent makes
//!   each such word a relocation.
//! * BR after an ADD of registers is a `match` made into a table, whose targets are in the same
//!   function; any other BR is an indirect call.
//! * Assembly may run into the next symbol; compiled functions do not.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use anyhow::{Context, Result, ensure};
use rustc_demangle::demangle;

use super::a64::{self, Flow, Forms};
use crate::elf;

/// A function's number in [`Graph::functions`].
pub type Id = usize;

/// How far back the ADD of registers of a table jump may stand.
const TABLE_JUMP: u64 = 8;
/// How many instructions before a call may form its arguments.
const ARGUMENTS: usize = 64;

/// One function and where it leads.
#[derive(Debug)]
pub struct Function {
    /// Its demangled name.
    pub name: String,
    start: u64,
    end: u64,
    /// By the compiler, not in assembly.
    compiled: bool,
    /// Branches out of it: from where, to whom.
    pub calls: Vec<(u64, Id)>,
    /// It calls or jumps by a register.
    pub indirect: bool,
    /// Addresses of BRK and UDF.
    pub traps: Vec<u64>,
}

/// All code of an image.
#[derive(Debug)]
pub struct Graph {
    /// By address.
    pub functions: Vec<Function>,
    /// Whose address is taken.
    pub taken: BTreeSet<Id>,
    /// Memory as it is loaded, from `base`.
    flat: Vec<u8>,
    base: u64,
    /// Words that hold addresses, and which.
    pointers: BTreeMap<u64, u64>,
    /// Branches within functions, by target.
    into: BTreeMap<u64, Vec<u64>>,
}

impl Graph {
    /// Reads an ELF file that keeps its symbols.
    pub fn new(file: &[u8]) -> Result<Self> {
        let mut graph = Self {
            functions: functions(elf::code_symbols(file)?),
            taken: BTreeSet::new(),
            flat: elf::flatten(file)?,
            base: elf::link_base(file)?,
            pointers: elf::relative_relocations(file)?,
            into: BTreeMap::new(),
        };
        ensure!(!graph.functions.is_empty(), "the image has no symbols");
        let mut taken: BTreeSet<u64> = graph.pointers.values().copied().collect();
        for id in 0..graph.functions.len() {
            graph.scan(id, &mut taken)?;
        }
        graph.taken = taken.into_iter().filter_map(|address| graph.at_start(address)).collect();
        Ok(graph)
    }

    /// The one function that `is` true of.
    pub fn find(&self, what: &str, is: impl Fn(&str) -> bool) -> Result<Id> {
        let found = self.functions.iter().position(|f| is(&f.name));
        found.with_context(|| format!("the image has no {what}"))
    }

    /// Everything that `roots` lead to, with who led to it first; functions of `stop` lead nowhere.
    pub fn reach(&self, roots: &[Id], stop: &BTreeSet<Id>) -> BTreeMap<Id, Option<Id>> {
        let mut from: BTreeMap<Id, Option<Id>> = roots.iter().map(|root| (*root, None)).collect();
        let mut queue: VecDeque<Id> = roots.iter().copied().collect();
        while let Some(id) = queue.pop_front() {
            let Some(function) = self.functions.get(id) else { continue };
            if stop.contains(&id) {
                continue;
            }
            let direct = function.calls.iter().map(|(_, to)| *to);
            let by_pointer = self.taken.iter().copied().filter(|_| function.indirect);
            for to in direct.chain(by_pointer) {
                from.entry(to).or_insert_with(|| {
                    queue.push_back(to);
                    Some(id)
                });
            }
        }
        from
    }

    /// The source lines that the panic called at `site` names: the `Location` whose address the
    /// code before it forms, on each way to it. `None` stands for a way without one.
    pub fn locations(&self, site: u64) -> BTreeSet<Option<Location>> {
        let mut found = BTreeSet::new();
        let mut seen = BTreeSet::new();
        // On each way: the sums met so far, whose bases are still to come.
        let mut ways = vec![(site, BTreeSet::new(), 0)];
        while let Some((pc, sums, steps)) = ways.pop() {
            let before = self.before(pc);
            if before.is_empty() || steps > ARGUMENTS {
                found.insert(None);
            }
            for pc in before {
                let mut sums = sums.clone();
                let forms = self.word(pc).map_or(Forms::Nothing, |word| a64::forms(word, pc));
                if let Forms::Sum(_, base, offset) = forms {
                    sums.insert((base, offset));
                }
                let hit = if let Forms::Base(rd, at) = forms {
                    let offsets = sums.iter().filter(|(base, _)| *base == rd);
                    let mut places = offsets.map(|(_, offset)| at + offset).chain([at]);
                    places.find_map(|at| self.location(at))
                } else {
                    None
                };
                if hit.is_some() {
                    found.insert(hit);
                } else if seen.insert((pc, sums.clone())) {
                    ways.push((pc, sums, steps + 1));
                }
            }
        }
        found
    }

    /// From where control comes to `pc` with its registers intact.
    fn before(&self, pc: u64) -> Vec<u64> {
        let mut before = self.into.get(&pc).cloned().unwrap_or_default();
        let above = pc.wrapping_sub(4);
        if let Some(Flow::Next | Flow::Maybe(_)) = self.word(above).map(|w| a64::flow(w, above)) {
            before.push(above);
        }
        before
    }

    /// Fills in where one function leads, and adds the addresses that it takes.
    fn scan(&mut self, id: Id, taken: &mut BTreeSet<u64>) -> Result<()> {
        let function = self.functions.get(id).context("no such function")?;
        let (start, end, compiled) = (function.start, function.end, function.compiled);
        let (mut calls, mut traps, mut indirect) = (Vec::new(), Vec::new(), false);
        // All that ADRP put into each register, anywhere above: a jump may have brought us here.
        let mut bases: BTreeMap<u8, BTreeSet<u64>> = BTreeMap::new();
        let mut sums: BTreeMap<u8, u64> = BTreeMap::new();
        let mut last = Flow::Next;
        for pc in (start..end).step_by(4) {
            let word = self.word(pc).with_context(|| format!("no code at {pc:#x}"))?;
            match a64::forms(word, pc) {
                Forms::Base(rd, at) => {
                    bases.entry(rd).or_default().insert(at);
                    taken.insert(at);
                }
                Forms::Sum(_, rn, offset) => {
                    taken.extend(bases.get(&rn).into_iter().flatten().map(|base| base + offset));
                }
                Forms::Register(rd) => drop(sums.insert(rd, pc)),
                Forms::Nothing => {}
            }
            last = a64::flow(word, pc);
            match last {
                Flow::Maybe(to) | Flow::Jump(to) if (start..end).contains(&to) => {
                    self.into.entry(to).or_default().push(pc);
                }
                Flow::Maybe(to) | Flow::Jump(to) | Flow::Call(to) => {
                    calls.push((
                        pc,
                        self.containing(to).with_context(|| {
                            format!("a branch at {pc:#x} leaves the code for {to:#x}")
                        })?,
                    ));
                }
                Flow::CallRegister => indirect = true,
                Flow::JumpRegister(by) => {
                    indirect |= sums.get(&by).is_none_or(|sum| pc - sum > TABLE_JUMP);
                }
                Flow::Trap if compiled => traps.push(pc),
                Flow::Next | Flow::Away | Flow::Trap => {}
            }
        }
        let runs_on = !matches!(last, Flow::Jump(_) | Flow::JumpRegister(_) | Flow::Away);
        if let Some(next) = self.at_start(end).filter(|_| !compiled && runs_on) {
            calls.push((end - 4, next));
        }
        let function = self.functions.get_mut(id).context("no such function")?;
        (function.calls, function.traps, function.indirect) = (calls, traps, indirect);
        Ok(())
    }

    fn containing(&self, address: u64) -> Option<Id> {
        let id = self.functions.partition_point(|f| f.start <= address).checked_sub(1)?;
        self.functions.get(id).filter(|f| address < f.end).map(|_| id)
    }

    fn at_start(&self, address: u64) -> Option<Id> {
        self.functions.binary_search_by_key(&address, |f| f.start).ok()
    }

    fn bytes(&self, at: u64, len: u64) -> Option<&[u8]> {
        let start = usize::try_from(at.checked_sub(self.base)?).ok()?;
        self.flat.get(start..start.checked_add(usize::try_from(len).ok()?)?)
    }

    fn word(&self, at: u64) -> Option<u32> {
        Some(u32::from_le_bytes(self.bytes(at, 4)?.try_into().ok()?))
    }

    /// `core::panic::Location` at an address, as rustc lays it out: file, line, column.
    fn location(&self, at: u64) -> Option<Location> {
        let file = *self.pointers.get(&at)?;
        let file = self.bytes(file, u64::from(self.word(at + 8)?).min(1 << 10))?;
        let file = str::from_utf8(file).ok().filter(|file| file.ends_with(".rs"))?;
        // What cargo unpacked is known by its package.
        let file = file.split_once("/registry/src/").map_or(file, |(_, rest)| rest);
        let file = file.split_once("/library/").map_or(file, |(_, rest)| rest);
        Some(Location { file: file.into(), line: self.word(at + 16)?, column: self.word(at + 20)? })
    }
}

/// A place in the source.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Location {
    /// The file: from the repository's root, or from its package's.
    pub file: String,
    /// From 1.
    pub line: u32,
    /// From 1.
    pub column: u32,
}

/// One function for each address, up to the next; a function's name goes before a label's.
fn functions(mut symbols: Vec<elf::CodeSymbol>) -> Vec<Function> {
    symbols.sort_by_key(|s| (s.address, !s.function, s.name.starts_with('$')));
    symbols.dedup_by_key(|s| s.address);
    let ends: Vec<u64> = symbols.iter().skip(1).map(|s| s.address).collect();
    let ends = ends.into_iter().chain([u64::MAX]);
    symbols
        .into_iter()
        .zip(ends)
        .map(|(symbol, next)| Function {
            name: format!("{:#}", demangle(&symbol.name)),
            start: symbol.address,
            end: if symbol.function {
                next.min(symbol.address + symbol.size)
            } else {
                next.min(symbol.code_end)
            },
            compiled: symbol.function,
            calls: Vec::new(),
            indirect: false,
            traps: Vec::new(),
        })
        .collect()
}
