//! From a linked ELF to the flat bytes that memory holds when it runs.
//!
//! Our images are position-independent and relocate themselves, so the flat binary is the PT_LOAD
//! segments at their addresses (`.rela.dyn` among them), gaps and bss as zeros. Nothing here
//! applies a relocation; it only refuses an ELF whose relocations would not be in the binary.

use std::collections::BTreeMap;
use std::ops::Range;

use anyhow::{Context, Result, bail, ensure};
use object::elf::{
    EM_AARCH64, ET_DYN, ET_EXEC, FileHeader64, PT_LOAD, R_AARCH64_RELATIVE, SHF_ALLOC, SHF_WRITE,
};
use object::read::elf::{ElfFile64, FileHeader, ProgramHeader, Rela, SectionHeader};
use object::{Endianness, Object, ObjectSection, ObjectSymbol, SectionKind, SymbolKind};

/// The largest flat binary we believe in: more is a linker script gone wrong.
const LIMIT: u64 = 256 << 20;

/// The flat image of `elf`, from its lowest to its highest loaded address.
pub fn flatten(elf: &[u8]) -> Result<Vec<u8>> {
    let file = parse(elf)?;
    let endian = file.endian();
    let range = load_range(&file)?;
    let len = range.end - range.start;
    ensure!(len <= LIMIT, "the loaded segments span {len:#x} bytes: wrong linker script?");
    let mut flat = vec![0; usize::try_from(len)?];
    for segment in file.elf_program_headers() {
        if segment.p_type(endian) != PT_LOAD {
            continue;
        }
        let data = segment.data(endian, elf).ok().context("a segment lies outside the file")?;
        let at = usize::try_from(segment.p_vaddr(endian) - range.start)?;
        let place = flat.get_mut(at..at + data.len()).context("a segment exceeds its memory")?;
        place.copy_from_slice(data);
    }
    check_relocations(&file, elf, &range)?;
    Ok(flat)
}

/// The lowest address a segment is loaded at: what a debugger subtracts.
pub fn link_base(elf: &[u8]) -> Result<u64> {
    Ok(load_range(&parse(elf)?)?.start)
}

/// Bytes of an image by what they are for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sizes {
    /// Machine code.
    pub text: u64,
    /// Constants, vectors' tables, relocations.
    pub rodata: u64,
    /// Initialised variables.
    pub data: u64,
    /// Zeroed variables and stacks.
    pub bss: u64,
}

/// Sum the allocated sections of `elf` by kind.
pub fn sizes(elf: &[u8]) -> Result<Sizes> {
    let file = parse(elf)?;
    let mut sum = Sizes::default();
    for section in file.sections() {
        let header = section.elf_section_header();
        let flags = header.sh_flags(file.endian());
        if !flags.contains(SHF_ALLOC) {
            continue;
        }
        let slot = match section.kind() {
            SectionKind::Text => &mut sum.text,
            SectionKind::UninitializedData => &mut sum.bss,
            _ if flags.contains(SHF_WRITE) => &mut sum.data,
            _ => &mut sum.rodata,
        };
        *slot += section.size();
    }
    Ok(sum)
}

/// A name in an executable section.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CodeSymbol {
    /// As the compiler mangled it.
    pub name: String,
    /// Where it is.
    pub address: u64,
    /// How long it is, if anybody said.
    pub size: u64,
    /// A compiler's function (`STT_FUNC`), not a label in assembly.
    pub function: bool,
    /// Where data follows, or the section ends.
    pub code_end: u64,
}

/// All names of code in `elf`, the mapping symbol `$x` among them. Names of data between code are
/// left out: the mapping symbol `$d` says where it begins (AAELF64, "Mapping symbols").
pub fn code_symbols(elf: &[u8]) -> Result<Vec<CodeSymbol>> {
    let file = parse(elf)?;
    let mut symbols = Vec::new();
    let mut maps = BTreeMap::new();
    for symbol in file.symbols() {
        let section = symbol.section_index().and_then(|at| file.section_by_index(at).ok());
        let Some(section) = section.filter(|s| s.kind() == SectionKind::Text) else { continue };
        let name = symbol.name().context("a symbol without a name")?.to_owned();
        let (address, size) = (symbol.address(), symbol.size());
        let code_end = section.address() + section.size();
        if name.starts_with('$') {
            maps.insert(address, name.starts_with("$d"));
        }
        if symbol.kind() != SymbolKind::Section && address < code_end {
            let function = symbol.kind() == SymbolKind::Text && size > 0;
            symbols.push(CodeSymbol { name, address, size, function, code_end });
        }
    }
    symbols.retain_mut(|symbol| {
        let data = maps.range(symbol.address + 1..).find(|(_, data)| **data);
        symbol.code_end = data.map_or(symbol.code_end, |(at, _)| symbol.code_end.min(*at));
        maps.range(..=symbol.address).next_back().is_some_and(|(_, data)| !data)
    });
    Ok(symbols)
}

/// The words that the entry code relocates, and the addresses (as linked) that it puts there.
pub fn relative_relocations(elf: &[u8]) -> Result<BTreeMap<u64, u64>> {
    let file = parse(elf)?;
    let endian = file.endian();
    let mut words = BTreeMap::new();
    for section in file.sections() {
        let header = section.elf_section_header();
        let Some((entries, _)) = header.rela(endian, elf).ok().flatten() else { continue };
        for entry in entries {
            if entry.r_type(endian, false) == R_AARCH64_RELATIVE {
                words.insert(entry.r_offset(endian), entry.r_addend(endian).cast_unsigned());
            }
        }
    }
    Ok(words)
}

fn parse(elf: &[u8]) -> Result<ElfFile64<'_, Endianness>> {
    let file = ElfFile64::<Endianness>::parse(elf).context("not a 64-bit ELF file")?;
    let header = file.elf_header();
    let endian = file.endian();
    ensure!(header.e_machine(endian) == EM_AARCH64, "the ELF file is not for aarch64");
    let kind = header.e_type(endian);
    ensure!(kind == ET_DYN || kind == ET_EXEC, "the ELF file is not linked");
    Ok(file)
}

fn load_range(file: &ElfFile64<'_, Endianness>) -> Result<Range<u64>> {
    let endian = file.endian();
    let mut range: Option<Range<u64>> = None;
    for segment in file.elf_program_headers() {
        if segment.p_type(endian) != PT_LOAD || segment.p_memsz(endian) == 0 {
            continue;
        }
        let start = segment.p_vaddr(endian);
        let end = start.checked_add(segment.p_memsz(endian)).context("a segment wraps around")?;
        ensure!(segment.p_filesz(endian) <= segment.p_memsz(endian), "a segment shrinks");
        let so_far = range.get_or_insert(start..end);
        *so_far = so_far.start.min(start)..so_far.end.max(end);
    }
    range.context("the ELF file has nothing to load")
}

/// Only `R_AARCH64_RELATIVE` can be applied by the entry code, and only from loaded memory.
fn check_relocations(
    file: &ElfFile64<'_, Endianness>,
    elf: &[u8],
    loaded: &Range<u64>,
) -> Result<()> {
    let endian = file.endian();
    for section in file.sections() {
        let header: &<FileHeader64<Endianness> as FileHeader>::SectionHeader =
            section.elf_section_header();
        let Some((entries, _)) = header.rela(endian, elf).ok().flatten() else { continue };
        if !header.sh_flags(endian).contains(SHF_ALLOC) {
            continue;
        }
        let name = section.name().unwrap_or("?");
        let span = section.address()..section.address() + section.size();
        ensure!(
            loaded.start <= span.start && span.end <= loaded.end,
            "{name} is not inside a loaded segment"
        );
        for entry in entries {
            let kind = entry.r_type(endian, false);
            if kind != R_AARCH64_RELATIVE {
                bail!("{name} has a relocation of type {kind}, which the entry code cannot apply")
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A minimal ELF: one header, `segments` of (vaddr, bytes, memsz).
    fn elf(segments: &[(u64, &[u8], u64)]) -> Vec<u8> {
        let mut out = vec![0x7f, b'E', b'L', b'F', 2, 1, 1, 0];
        out.resize(16, 0);
        out.extend(ET_DYN.0.to_le_bytes());
        out.extend(EM_AARCH64.0.to_le_bytes());
        out.extend(1u32.to_le_bytes());
        out.extend(0u64.to_le_bytes()); // entry
        out.extend(64u64.to_le_bytes()); // program headers follow
        out.extend(0u64.to_le_bytes()); // no section headers
        out.extend(0u32.to_le_bytes());
        for half in [64u16, 56, u16::try_from(segments.len()).unwrap(), 64, 0, 0] {
            out.extend(half.to_le_bytes());
        }
        let mut offset = 64 + 56 * segments.len() as u64;
        for (vaddr, bytes, memsz) in segments {
            out.extend(PT_LOAD.0.to_le_bytes());
            out.extend(5u32.to_le_bytes());
            for word in [offset, *vaddr, *vaddr, bytes.len() as u64, *memsz, 0x1000] {
                out.extend(word.to_le_bytes());
            }
            offset += bytes.len() as u64;
        }
        for (_, bytes, _) in segments {
            out.extend_from_slice(bytes);
        }
        out
    }

    #[test]
    fn gaps_and_bss_become_zeros() {
        let flat = flatten(&elf(&[(0x1000, b"text", 4), (0x1008, b"da", 6)])).unwrap();
        assert_eq!(flat, b"text\0\0\0\0da\0\0\0\0");
    }

    #[test]
    fn the_lowest_segment_is_the_link_base() {
        assert_eq!(link_base(&elf(&[(0x9000, b"b", 1), (0x1000, b"a", 1)])).unwrap(), 0x1000);
    }

    #[test]
    fn what_is_no_elf_is_refused() {
        assert!(flatten(b"MZ not an elf at all, but long enough to look at it twice").is_err());
        assert!(flatten(&elf(&[])).is_err());
        assert!(flatten(&elf(&[(0, b"abcd", 2)])).is_err(), "file larger than memory");
        assert!(flatten(&elf(&[(0, b"a", 1), (1 << 40, b"b", 1)])).is_err(), "absurd span");
    }
}
