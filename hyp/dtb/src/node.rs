//! A node in its place: properties decoded with checks, addresses translated to the CPU's.
//!
//! Only `fdt`'s generic accessors are used here: `all_nodes` (for the root), `children` and
//! `property`. Its typed helpers and `find_node` panic, or follow aliases in circles.

use core::fmt;

use fdt::node::FdtNode;

use crate::{Dtb, DtbError};

/// An address range of the CPU's, in bytes.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct Region {
    /// First byte.
    pub base: u64,
    /// Bytes; `base + size` does not wrap.
    pub size: u64,
}

impl fmt::Debug for Region {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}+{:#x}", self.base, self.size)
    }
}

/// A node with the nodes that it is in.
#[derive(Clone, Copy)]
pub(crate) struct At<'p, 'b, 'a> {
    node: FdtNode<'b, 'a>,
    up: Option<&'p At<'p, 'b, 'a>>,
}

impl<'a> Dtb<'a> {
    /// Visits all nodes, parents first, until `pick` finds something.
    pub(crate) fn find<T>(&self, mut pick: impl FnMut(&At<'_, '_, 'a>) -> Option<T>) -> Option<T> {
        self.root()?.search(&mut pick)
    }

    /// Calls `with` on the node of an absolute path. A component without unit address matches a
    /// node with one.
    pub(crate) fn at_path<T>(
        &self,
        path: &str,
        with: impl FnOnce(&At<'_, '_, 'a>) -> T,
    ) -> Option<T> {
        self.root()?.descend(path.strip_prefix('/')?, with)
    }

    fn root(&self) -> Option<At<'_, '_, 'a>> {
        let node = self.fdt.all_nodes().next()?;
        Some(At { node, up: None })
    }
}

impl<'a> At<'_, '_, 'a> {
    fn search<T>(&self, pick: &mut impl FnMut(&At<'_, '_, 'a>) -> Option<T>) -> Option<T> {
        if let Some(found) = pick(self) {
            return Some(found);
        }
        self.node.children().find_map(|node| At { node, up: Some(self) }.search(pick))
    }

    fn descend<T>(&self, path: &str, with: impl FnOnce(&At<'_, '_, 'a>) -> T) -> Option<T> {
        if path.is_empty() {
            return Some(with(self));
        }
        let (name, rest) = path.split_once('/').unwrap_or((path, ""));
        let node = self.node.children().find(|child| names(child.name, name))?;
        At { node, up: Some(self) }.descend(rest, with)
    }

    /// Calls `each` on every child that is enabled.
    pub(crate) fn each_child(
        &self,
        mut each: impl FnMut(&At<'_, '_, 'a>) -> Result<(), DtbError>,
    ) -> Result<(), DtbError> {
        self.each_child_in_any_state(|child| if child.enabled() { each(child) } else { Ok(()) })
    }

    /// Calls `each` on every child.
    pub(crate) fn each_child_in_any_state(
        &self,
        mut each: impl FnMut(&At<'_, '_, 'a>) -> Result<(), DtbError>,
    ) -> Result<(), DtbError> {
        self.node.children().try_for_each(|node| each(&At { node, up: Some(self) }))
    }

    /// A property's bytes.
    pub(crate) fn bytes(&self, name: &str) -> Option<&'a [u8]> {
        self.node.property(name).map(|p| p.value)
    }

    /// The first string of a property.
    pub(crate) fn text(&self, name: &str) -> Option<&'a str> {
        self.strings(name).next()
    }

    /// All strings of a property; a piece that is not UTF-8 is left out.
    pub(crate) fn strings(&self, name: &str) -> impl Iterator<Item = &'a str> + use<'a> {
        let pieces = self.bytes(name).into_iter().flat_map(|value| {
            let value = value.strip_suffix(&[0]).unwrap_or(value);
            value.split(|b| *b == 0)
        });
        pieces.filter_map(|s| core::str::from_utf8(s).ok())
    }

    /// A property that is one number of 32 or 64 bits.
    pub(crate) fn number(&self, name: &'static str) -> Result<Option<u64>, DtbError> {
        let decode = |v| number(v).ok_or(DtbError::Bad(name));
        self.bytes(name).map(decode).transpose()
    }

    /// `compatible` has one of these.
    pub(crate) fn is_compatible(&self, with: &[&str]) -> bool {
        self.strings("compatible").any(|c| with.contains(&c))
    }

    /// The name, with the unit address.
    pub(crate) fn name(&self) -> &'a str {
        self.node.name
    }

    /// This node or one that it is in is called one of these, but for the unit address.
    pub(crate) fn is_within(&self, called: &[&str]) -> bool {
        let own = called.iter().any(|name| names(self.node.name, name));
        own || self.up.is_some_and(|up| up.is_within(called))
    }

    /// No `status`, or one that says so.
    pub(crate) fn enabled(&self) -> bool {
        matches!(self.text("status"), None | Some("okay" | "ok"))
    }

    /// The entries of `reg`, translated; none without the property.
    pub(crate) fn reg(&self) -> Result<impl Iterator<Item = Result<Region, DtbError>>, DtbError> {
        let value = self.bytes("reg").unwrap_or_default();
        let cells = self.up.map_or(Ok(Cells { address: 2, size: 1 }), At::cells)?;
        if cells.address == 0 {
            return Err(DtbError::Cells);
        }
        let entries = Entries::new(value, [cells.address, cells.size], "reg")?;
        Ok(entries.map(move |[base, size]| {
            self.up.map_or(Ok(base), |bus| bus.translate(base, size)).and_then(|base| {
                base.checked_add(size).ok_or(DtbError::Bad("reg"))?;
                Ok(Region { base, size })
            })
        }))
    }

    /// The first address of `reg` as it stands: for nodes whose number is no memory address (CPUs).
    pub(crate) fn unit(&self) -> Result<Option<u64>, DtbError> {
        let cells = self.up.map_or(Ok(Cells { address: 2, size: 1 }), At::cells)?;
        let Some(value) = self.bytes("reg") else { return Ok(None) };
        let mut entries = Entries::new(value, [cells.address, cells.size], "reg")?;
        Ok(entries.next().map(|[unit, _]| unit))
    }

    /// Entry `index` of `interrupts` as an INTID, if this node's controller speaks the GIC's
    /// language: (type, number, flags ..), type 0 an SPI, 1 a PPI.
    pub(crate) fn gic_interrupt(&self, cells: usize, index: usize) -> Option<u32> {
        let value = self.bytes("interrupts")?;
        let bytes = cells.checked_mul(4)?;
        let entry = value.get(index.checked_mul(bytes)?..)?.get(..bytes)?;
        let word = |o: usize| Some(u32::from_be_bytes(*entry.get(o..)?.first_chunk()?));
        match (word(0)?, word(4)?) {
            (0, spi @ 0..988) => spi.checked_add(32),
            (1, ppi @ 0..16) => ppi.checked_add(16),
            _ => None,
        }
    }

    /// The interrupt controller's phandle, from here or the nearest parent that says.
    pub(crate) fn interrupt_parent(&self) -> Option<u64> {
        match self.bytes("interrupt-parent") {
            Some(value) => number(value),
            None => self.up?.interrupt_parent(),
        }
    }

    /// The cells of this node's children.
    fn cells(&self) -> Result<Cells, DtbError> {
        let count = |name, default| match self.bytes(name).map(number) {
            None => Ok(default),
            Some(Some(n @ 0..=2)) => usize::try_from(n).map_err(|_| DtbError::Cells),
            Some(_) => Err(DtbError::Cells),
        };
        Ok(Cells { address: count("#address-cells", 2)?, size: count("#size-cells", 1)? })
    }

    /// Translates an address on this node's bus to the CPU's: up through `ranges`, bus by bus. The
    /// whole of `base .. base + size` must lie in one window of each.
    fn translate(&self, base: u64, size: u64) -> Result<u64, DtbError> {
        let Some(up) = self.up else { return Ok(base) };
        let ranges = self.bytes("ranges").ok_or(DtbError::Untranslatable(base))?;
        if ranges.is_empty() {
            return up.translate(base, size); // the same address
        }
        let (own, above) = (self.cells()?, up.cells()?);
        let mut windows = Entries::new(ranges, [own.address, above.address, own.size], "ranges")?;
        let found = windows.find_map(|[child, parent, length]| {
            let offset = base.checked_sub(child)?;
            let inside = offset.checked_add(size).is_some_and(|end| end <= length);
            if inside { parent.checked_add(offset) } else { None }
        });
        up.translate(found.ok_or(DtbError::Untranslatable(base))?, size)
    }
}

/// How many cells an address and a size of a bus have: 0, 1 or 2.
struct Cells {
    address: usize,
    size: usize,
}

/// A property that is a list of entries, each of `N` numbers of so many cells.
struct Entries<'a, const N: usize> {
    value: &'a [u8],
    cells: [usize; N],
}

impl<'a, const N: usize> Entries<'a, N> {
    /// Refuses a property that is not a whole number of entries.
    fn new(value: &'a [u8], cells: [usize; N], name: &'static str) -> Result<Self, DtbError> {
        let bytes = cells.iter().sum::<usize>().saturating_mul(4);
        match value.len().checked_rem(bytes) {
            Some(0) => Ok(Self { value, cells }),
            _ => Err(DtbError::Bad(name)),
        }
    }
}

impl<const N: usize> Iterator for Entries<'_, N> {
    type Item = [u64; N];
    fn next(&mut self) -> Option<[u64; N]> {
        let mut entry = [0; N];
        for (slot, cells) in entry.iter_mut().zip(self.cells) {
            let (head, rest) = self.value.split_at_checked(cells.checked_mul(4)?)?;
            *slot = if cells == 0 { 0 } else { number(head)? };
            self.value = rest;
        }
        // All cells 0 would be an entry for ever; `new` has refused it.
        Some(entry)
    }
}

/// A big-endian number of one or two cells.
fn number(value: &[u8]) -> Option<u64> {
    if let Ok(word) = <[u8; 4]>::try_from(value) {
        return Some(u64::from(u32::from_be_bytes(word)));
    }
    Some(u64::from_be_bytes(value.try_into().ok()?))
}

/// Does a node's full name answer to this component of a path?
fn names(full: &str, component: &str) -> bool {
    full == component || full.split_once('@').is_some_and(|(base, _)| base == component)
}
