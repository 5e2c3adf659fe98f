//! Every committed seed, and some neighbours of each, through its target's body: on stable, in seconds.

use std::fs;
use std::path::{Path, PathBuf};

use fuzz_bodies::TARGETS;

/// Neighbours of each seed.
const NEIGHBOURS: u64 = if cfg!(miri) { 0 } else { 8 };
/// All seeds together: a clone should not grow by what a fuzzer found.
const MOST_BYTES: u64 = 100 << 10;

fn seeds() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../seeds")
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap_or_else(|why| panic!("{folder:?}: {why}"));
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

fn run(name: &str) {
    let (_, body) = TARGETS.iter().find(|(target, _)| *target == name).expect("a target");
    let files = files(&seeds().join(name));
    assert!(!files.is_empty(), "no seeds for {name}");
    for file in files {
        let seed = fs::read(&file).unwrap();
        println!("{}", file.display());
        body(&seed);
        for n in 0..NEIGHBOURS {
            let neighbour = neighbour(&seed, n);
            println!("  neighbour {n}: {neighbour:02x?}");
            body(&neighbour);
        }
    }
}

/// The seed with a byte or two changed, or with a piece of it somewhere else.
fn neighbour(seed: &[u8], n: u64) -> Vec<u8> {
    let mut random = props::Rng::new(n + 1 + seed.len() as u64 * 64);
    let mut bytes = seed.to_vec();
    let len = bytes.len().max(1) as u64;
    let mut at = || random.below(len) as usize;
    let (from, to, more) = (at(), at(), at());
    let value = random.bits() as u8;
    match n % 4 {
        0 => bytes.truncate(from),
        1 => bytes.extend_from_within(from..),
        2 => bytes.rotate_left(from),
        _ => {}
    }
    for at in [to, more] {
        if let Some(byte) = bytes.get_mut(at) {
            *byte = if n % 8 < 4 { value } else { *byte ^ 1 << (value & 7) };
        }
    }
    bytes
}

macro_rules! targets {
    ($($name:ident)*) => {
        $(
            #[test]
            fn $name() {
                run(stringify!($name));
            }
        )*

        #[test]
        fn every_target_has_seeds_here_and_a_program_for_the_fuzzer() {
            let tested = [$(stringify!($name)),*];
            let names: Vec<&str> = TARGETS.iter().map(|(name, _)| *name).collect();
            assert_eq!(names, tested);
            let folder = files(&seeds());
            let stems = |files: Vec<PathBuf>| -> Vec<String> {
                files.iter().map(|f| f.file_stem().unwrap().to_string_lossy().into()).collect()
            };
            assert_eq!(stems(folder), names);
            assert_eq!(stems(files(&seeds().join("../fuzz_targets"))), names);
        }
    };
}

targets! { bundle cmdline dtb hypercalls manifest power syndrome vgic vm }

#[test]
fn the_seeds_are_small() {
    let folders = files(&seeds());
    let sizes = folders.iter().flat_map(|f| files(f)).map(|f| f.metadata().unwrap().len());
    let all: u64 = sizes.sum();
    assert!(all <= MOST_BYTES, "{all} bytes of seeds");
}
