//! A flattened device tree, taken apart to be changed, and put together again.
//!
//! Knows: the format (Devicetree Specification 0.4, chapter 5). Must not know what nodes mean. Reads trees
//! that come from Debian or from here; what strangers hand over is `hyp_dtb`'s business.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail, ensure};

const MAGIC: u32 = 0xd00d_feed;
const BEGIN_NODE: u32 = 1;
const END_NODE: u32 = 2;
const PROP: u32 = 3;
const NOP: u32 = 4;
const END: u32 = 9;
/// Version 17, which readers of version 16 understand.
const VERSION: [u32; 2] = [17, 16];
const HEADER: usize = 40;

/// A tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tree {
    /// The memory reservation block: base and size.
    pub reserved: Vec<(u64, u64)>,
    /// The root.
    pub root: Node,
    boot_cpu: u32,
}

/// A node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Node {
    name: String,
    properties: Vec<(String, Vec<u8>)>,
    children: Vec<Node>,
}

impl Tree {
    /// Takes a tree apart.
    ///
    /// # Errors
    /// It is none, or ends too early.
    pub fn parse(blob: &[u8]) -> Result<Self> {
        ensure!(word(blob, 0)? == MAGIC, "this is no device tree");
        let field = |number: usize| Ok::<_, anyhow::Error>(word(blob, 4 * number)? as usize);
        let (structure, strings, mut at) = (field(2)?, field(3)?, field(4)?);
        let mut reserved = Vec::new();
        loop {
            let pair = [at, at + 4, at + 8, at + 12].map(|at| word(blob, at).map(u64::from));
            let [a, b, c, d] = pair;
            let entry = (a? << 32 | b?, c? << 32 | d?);
            if entry == (0, 0) {
                break;
            }
            reserved.push(entry);
            at += 16;
        }
        let mut reader = Reader { blob, at: structure, strings };
        ensure!(reader.token()? == BEGIN_NODE, "the structure does not begin with a node");
        let root = reader.node()?;
        ensure!(reader.token()? == END, "the structure does not end after the root");
        Ok(Self { reserved, root, boot_cpu: word(blob, 28)? })
    }

    /// Puts it together.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let (mut structure, mut strings) = (Vec::new(), Strings::default());
        self.root.write(&mut structure, &mut strings);
        push(&mut structure, END);
        let mut reserved = Vec::new();
        for (base, size) in self.reserved.iter().chain(&[(0, 0)]) {
            reserved.extend([base.to_be_bytes(), size.to_be_bytes()].concat());
        }
        let at = HEADER + reserved.len();
        let end = at + structure.len();
        let mut blob = Vec::new();
        for number in [
            MAGIC,
            (end + strings.bytes.len()) as u32,
            at as u32,
            end as u32,
            HEADER as u32,
            VERSION[0],
            VERSION[1],
            self.boot_cpu,
            strings.bytes.len() as u32,
            structure.len() as u32,
        ] {
            push(&mut blob, number);
        }
        [blob, reserved, structure, strings.bytes].concat()
    }

    /// The node at `path`, such as `/chosen`; names with their unit address.
    pub fn node(&mut self, path: &str) -> Option<&mut Node> {
        path.split('/').filter(|name| !name.is_empty()).try_fold(&mut self.root, |node, name| {
            node.children.iter_mut().find(|child| child.name == name)
        })
    }
}

impl Node {
    /// A property's bytes.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&[u8]> {
        let found = self.properties.iter().find(|(known, _)| known == name);
        found.map(|(_, value)| value.as_slice())
    }

    /// Gives a property this value, whether or not it had one.
    pub fn set(&mut self, name: &str, value: Vec<u8>) {
        match self.properties.iter_mut().find(|(known, _)| known == name) {
            Some((_, old)) => *old = value,
            None => self.properties.push((name.to_owned(), value)),
        }
    }

    /// The same with text.
    pub fn set_text(&mut self, name: &str, text: &str) {
        self.set(name, [text.as_bytes(), &[0]].concat());
    }

    fn write(&self, structure: &mut Vec<u8>, strings: &mut Strings) {
        push(structure, BEGIN_NODE);
        structure.extend(self.name.bytes().chain([0]));
        pad(structure);
        for (name, value) in &self.properties {
            let head = [PROP, value.len() as u32, strings.at(name)];
            head.into_iter().for_each(|number| push(structure, number));
            structure.extend(value);
            pad(structure);
        }
        self.children.iter().for_each(|child| child.write(structure, strings));
        push(structure, END_NODE);
    }
}

#[derive(Default)]
struct Strings {
    bytes: Vec<u8>,
    known: BTreeMap<String, u32>,
}

impl Strings {
    fn at(&mut self, name: &str) -> u32 {
        *self.known.entry(name.to_owned()).or_insert_with(|| {
            let at = self.bytes.len() as u32;
            self.bytes.extend(name.bytes().chain([0]));
            at
        })
    }
}

struct Reader<'a> {
    blob: &'a [u8],
    at: usize,
    strings: usize,
}

impl Reader<'_> {
    fn number(&mut self) -> Result<u32> {
        let number = word(self.blob, self.at)?;
        self.at += 4;
        Ok(number)
    }

    fn token(&mut self) -> Result<u32> {
        loop {
            match self.number()? {
                NOP => {}
                token => return Ok(token),
            }
        }
    }

    /// A node, of which the first token has been read.
    fn node(&mut self) -> Result<Node> {
        let name = text(self.blob, self.at)?;
        self.at = (self.at + name.len() + 1).next_multiple_of(4);
        let mut node = Node { name, ..Node::default() };
        loop {
            match self.token()? {
                PROP => {
                    let (len, name) = (self.number()? as usize, self.number()? as usize);
                    let value = self.blob.get(self.at..self.at + len);
                    let value = value.context("a property ends outside the tree")?.to_vec();
                    node.properties.push((text(self.blob, self.strings + name)?, value));
                    self.at = (self.at + len).next_multiple_of(4);
                }
                BEGIN_NODE => node.children.push(self.node()?),
                END_NODE => return Ok(node),
                token => bail!("unknown token {token:#x}"),
            }
        }
    }
}

fn word(blob: &[u8], at: usize) -> Result<u32> {
    let bytes = blob.get(at..at + 4).context("the tree ends too early")?;
    Ok(u32::from_be_bytes(bytes.try_into()?))
}

fn text(blob: &[u8], at: usize) -> Result<String> {
    let rest = blob.get(at..).context("a name outside the tree")?;
    let name = rest.split(|byte| *byte == 0).next().unwrap_or_default();
    Ok(std::str::from_utf8(name).context("a name that is no text")?.to_owned())
}

fn push(bytes: &mut Vec<u8>, number: u32) {
    bytes.extend(number.to_be_bytes());
}

fn pad(bytes: &mut Vec<u8>) {
    bytes.resize(bytes.len().next_multiple_of(4), 0);
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A small board: two cells of address, one of size, as the Raspberry Pi's.
    pub fn small() -> Tree {
        let node =
            |name: &str, children| Node { name: name.to_owned(), properties: Vec::new(), children };
        let children = ["aliases", "chosen", "memory@0"].map(|name| node(name, Vec::new()));
        let mut root = node("", children.into());
        root.set("#address-cells", vec![0, 0, 0, 2]);
        root.set("#size-cells", vec![0, 0, 0, 1]);
        let mut tree = Tree { reserved: vec![(0, 0x1000)], root, boot_cpu: 0 };
        tree.node("/memory@0").unwrap().set_text("device_type", "memory");
        tree.node("/aliases").unwrap().set_text("serial0", "/soc/a");
        tree
    }

    #[test]
    fn a_tree_survives_being_taken_apart_and_put_together() {
        let tree = small();
        let bytes = tree.to_bytes();
        assert_eq!(Tree::parse(&bytes).unwrap(), tree);
        assert_eq!(word(&bytes, 4).unwrap() as usize, bytes.len());
    }

    #[test]
    fn the_strict_reader_of_el2_finds_it_good() {
        let mut tree = small();
        tree.node("/memory@0")
            .unwrap()
            .set("reg", [[0; 8], [0, 0, 0, 0, 0, 1, 0, 0]].concat()[..12].to_vec());
        tree.node("/chosen").unwrap().set_text("bootargs", "redan.dma=strict");
        let bytes = tree.to_bytes();
        let read = hyp_dtb::Dtb::parse(&bytes).unwrap();
        assert_eq!(read.chosen().unwrap().bootargs, Some("redan.dma=strict"));
        assert_eq!(read.reserved().unwrap().iter().count(), 1);
    }

    #[test]
    fn a_property_is_replaced_or_added_and_a_node_that_is_not_there_not_found() {
        let mut tree = small();
        let chosen = tree.node("/chosen").unwrap();
        assert_eq!(chosen.get("x"), None);
        chosen.set_text("x", "1");
        chosen.set_text("x", "two");
        assert_eq!((chosen.get("x"), chosen.properties.len()), (Some(&b"two\0"[..]), 1));
        assert!(tree.node("/soc/serial@1").is_none());
        assert_eq!(tree.node("/").unwrap().name, "");
    }

    #[test]
    fn half_a_tree_is_refused() {
        let bytes = small().to_bytes();
        for len in [0, 3, HEADER, HEADER + 20, bytes.len() / 2] {
            assert!(Tree::parse(&bytes[..len]).is_err(), "{len}");
        }
        assert!(Tree::parse(&[0; 100]).is_err());
    }
}
