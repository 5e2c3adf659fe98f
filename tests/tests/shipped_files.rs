//! What the repository ships is right before anybody runs it.

use std::path::{Path, PathBuf};

use host_vmm::bundle::Bundle;
use host_vmm::manifest;
use xtask::cpio::Writer;
use xtask::paths;

fn manifests() -> Vec<PathBuf> {
    let entries = std::fs::read_dir(paths::root().join("boot/vms")).expect("boot/vms is there");
    let paths = entries.map(|entry| entry.expect("a readable folder").path());
    paths.filter(|path| path.extension().is_some_and(|e| e == "toml")).collect()
}

fn text(path: &Path) -> String {
    std::fs::read_to_string(path).expect("a readable manifest")
}

#[test]
fn every_manifest_parses_and_is_called_as_its_file() {
    let manifests = manifests();
    assert!(manifests.len() >= 2, "the default VM and its fallback are missing");
    for path in manifests {
        let manifest = manifest::parse(&text(&path)).unwrap_or_else(|e| panic!("{path:?}: {e}"));
        assert_eq!(Some(manifest.name.as_str()), path.file_stem().and_then(|s| s.to_str()));
    }
}

#[test]
fn a_manifest_that_xtask_writes_out_again_means_the_same() {
    for path in manifests() {
        let first = manifest::parse(&text(&path)).unwrap();
        let second = manifest::parse(&first.to_toml()).unwrap();
        assert_eq!(first.to_toml(), second.to_toml(), "{path:?}");
        assert_eq!(first.files().collect::<Vec<_>>(), second.files().collect::<Vec<_>>());
    }
}

#[test]
fn any_archive_of_xtask_cut_anywhere_is_read_without_a_panic_and_known_as_cut() {
    let mut writer = Writer::new();
    for vm in ["a", "b"] {
        writer.file(&format!("{vm}/vm.toml"), 0o644, b"name");
        writer.file(&format!("{vm}/Image"), 0o644, &[7; 600]);
    }
    let archive = writer.finish();
    let whole = Bundle::read(&archive);
    assert_eq!((whole.folders.len(), whole.error), (2, None));
    let trailer = archive.windows(10).position(|w| w == b"TRAILER!!!").unwrap();
    for cut in 0..trailer {
        assert!(Bundle::read(&archive[..cut]).error.is_some(), "cut at {cut}");
    }
}
