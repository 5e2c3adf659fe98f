//! Manifests: accepted, refused with line and reason.

use super::write::quoted;
use super::*;
use crate::testing::image as make_image;

const GOOD: &str = "\
name = \"debian\"
kernel = \"Image\"
initrd = \"initrd.cpio\"
cmdline = \"console=ttyAMA0\"
memory_mib = 256
vcpus = 1
gic = \"host\"
services = [\"dirty-log\"]
";

fn refused(text: &str, line: usize, reason: &str) {
    let error = parse(text).unwrap_err();
    assert_eq!(error.line, line, "{error} in:\n{text}");
    assert!(error.reason.contains(reason), "{error}");
    assert_eq!(error.to_string(), format!("line {line}: {}", error.reason));
}

/// The good manifest with one line put in the place of its line `n`.
fn with(n: usize, line: &str) -> String {
    let mut lines: Vec<&str> = GOOD.lines().collect();
    lines[n - 1] = line;
    lines.join("\n")
}

#[test]
fn a_full_manifest_is_read() {
    let m = parse(GOOD).unwrap();
    assert_eq!((m.name.as_str(), m.kernel.as_str()), ("debian", "Image"));
    assert_eq!(m.initrd.as_deref(), Some("initrd.cpio"));
    assert_eq!(m.cmdline, "console=ttyAMA0");
    assert_eq!((m.memory_mib, m.memory_bytes(), m.vcpus), (256, 256 << 20, 1));
    assert_eq!((m.gic, m.services.as_slice()), (GicChoice::Host, &[Service::DirtyLog][..]));
    assert!(m.regions.is_empty());
    assert!(m.files().eq(["Image", "initrd.cpio"]));
}

#[test]
fn what_may_be_left_out_has_a_default() {
    let m = parse("name='a'\nkernel='k'\nmemory_mib=64\n").unwrap();
    assert_eq!((m.initrd, m.cmdline.as_str(), m.vcpus), (None, "", 1));
    assert_eq!((m.gic, m.services.len()), (GicChoice::Host, 0));
}

#[test]
fn both_gic_versions_can_be_asked_for() {
    assert_eq!(parse(&with(7, "gic = 2")).unwrap().gic, GicChoice::V2);
    assert_eq!(parse(&with(7, "gic = 3")).unwrap().gic, GicChoice::V3);
}

#[test]
fn an_unknown_key_is_refused() {
    refused(&format!("{GOOD}smp = 2\n"), 9, "unknown field `smp`");
    refused(&format!("{GOOD}[extra]\n"), 9, "unknown field `extra`");
}

#[test]
fn a_missing_key_or_file_of_nothing_is_refused() {
    refused("", 1, "missing field");
    refused("name = 'a'\nkernel = 'k'\n", 1, "missing field `memory_mib`");
}

#[test]
fn a_wrong_type_is_refused_at_its_line() {
    refused(&with(5, "memory_mib = \"256\""), 5, "invalid type");
    refused(&with(1, "name = 7"), 1, "invalid type");
    refused(&with(6, "vcpus = 300"), 6, "invalid value");
    refused(&with(5, "memory_mib = -1"), 5, "invalid value");
    refused(&with(8, "services = \"dirty-log\""), 8, "invalid type");
}

#[test]
fn text_that_is_no_toml_is_refused_at_its_line() {
    refused(&with(4, "cmdline = console"), 4, "");
    refused(&with(4, "cmdline"), 4, "");
    refused(&format!("{GOOD}name = \"b\"\n"), 9, "duplicate key");
}

#[test]
fn names_are_of_few_characters() {
    for name in ["", "Debian", "a b", "a/b", "a_b", "\u{fc}", &"x".repeat(64)] {
        refused(&with(1, &format!("name = \"{name}\"")), 1, "name:");
    }
    for name in ["a", "debian-12", "-", &"x".repeat(63)] {
        assert!(parse(&with(1, &format!("name = \"{name}\""))).is_ok());
    }
}

#[test]
fn files_stay_in_their_folder() {
    for file in ["", "/etc/passwd", "../x", "a/../b", "a//b", "./a", ".", "a/", "a\\nb"] {
        refused(&with(2, &format!("kernel = \"{file}\"")), 2, "kernel:");
        refused(&with(3, &format!("initrd = \"{file}\"")), 3, "initrd:");
    }
    refused(&with(2, "kernel = \"vm.toml\""), 2, "itself");
    assert!(parse(&with(2, "kernel = \"boot/Image-6.1\"")).is_ok());
}

#[test]
fn numbers_have_limits() {
    refused(&with(5, "memory_mib = 0"), 5, "memory_mib: 0");
    refused(&with(5, "memory_mib = 32769"), 5, "memory_mib: 32769");
    assert!(parse(&with(5, "memory_mib = 32768")).is_ok());
    refused(&with(6, "vcpus = 0"), 6, "vcpus: 0");
    refused(&with(6, "vcpus = 9"), 6, "vcpus: 9");
    assert_eq!(parse(&with(6, "vcpus = 8")).unwrap().vcpus, 8);
    for gic in ["1", "4", "\"v2\"", "[2]", "true"] {
        refused(&with(7, &format!("gic = {gic}")), 7, "gic:");
    }
    refused(&with(8, "services = [\"dirty-log\", \"x\"]"), 8, "\"x\" is unknown");
}

#[test]
fn a_command_line_is_one_line_that_linux_takes() {
    refused(&with(4, "cmdline = \"a\\u0000b\""), 4, "control character");
    refused(&with(4, "cmdline = \"a\\nb\""), 4, "control character");
    refused(&with(4, &format!("cmdline = \"{}\"", "x".repeat(2048))), 4, "longer than 2047");
    assert!(parse(&with(4, &format!("cmdline = \"{}\"", "x".repeat(2047)))).is_ok());
}

#[test]
fn regions_add_memory_where_nothing_else_is() {
    let text = format!(
        "{GOOD}[[region]]\nbase = 0x8000_0000\nmib = 2\nfile = \"rom\"\nreadonly = true\n[[region]]\nbase = 0\nmib = 64\n"
    );
    let m = parse(&text).unwrap();
    let rom = Region { base: 0x8000_0000, mib: 2, file: Some("rom".into()), readonly: true };
    let low = Region { base: 0, mib: 64, file: None, readonly: false };
    assert_eq!(m.regions, [rom, low]);
    assert!(m.files().eq(["Image", "initrd.cpio", "rom"]));
}

#[test]
fn regions_that_overlap_anything_are_refused_with_what() {
    let region = |base: &str, mib: u64| format!("{GOOD}[[region]]\nbase = {base}\nmib = {mib}\n");
    refused(&region("0x0800_0000", 1), 10, "overlaps the devices");
    refused(&region("0x07f0_1000", 1), 10, "overlaps the devices");
    refused(&region("0x0ff0_0000", 2), 10, "overlaps the devices");
    refused(&region("0x4ff0_0000", 2), 10, "overlaps memory_mib");
    refused(&region("0x3ff0_1000", 1), 10, "overlaps memory_mib");
    assert!(parse(&region("0x3ff0_0000", 1)).is_ok());
    assert!(parse(&region("0x5000_0000", 1)).is_ok());
    assert!(parse(&region("0x07f0_0000", 1)).is_ok());
    assert!(parse(&region("0x1000_0000", 1)).is_ok());
    let twice = format!("{}[[region]]\nbase = 0x800f_f000\nmib = 1\n", region("0x8000_0000", 1));
    refused(&twice, 13, "overlaps the region of line 9");
    refused(&region("0x8000_0800", 1), 10, "multiple of 4096");
    refused(&region("0x8000_0000", 0), 11, "do not fit");
    refused(&region("0xff_fff0_0000", 2), 11, "do not fit");
    refused(&region("0x8000_0000", 1 << 62), 11, "do not fit");
    assert!(parse(&region("0xff_fff0_0000", 1)).is_ok());
    let bad_file = format!("{}file = \"../x\"\n", region("0x8000_0000", 1));
    refused(&bad_file, 12, "region:");
    refused(&format!("{}size = 1\n", region("0x8000_0000", 1)), 12, "unknown field `size`");
}

#[test]
fn files_are_checked_and_placed() {
    let m = parse(GOOD).unwrap();
    let kernel = make_image(8192, 0x20_0000, 0);
    let initrd = vec![1_u8; 5000];
    let find = |name: &str| match name {
        "Image" => Some(kernel.as_slice()),
        "initrd.cpio" => Some(initrd.as_slice()),
        _ => None,
    };
    let layout = m.check_files(find).unwrap();
    assert_eq!((layout.kernel, layout.initrd_len), (0x4000_0000, 5000));

    let fails = |m: &Manifest, line: usize, reason: &str| {
        let error = m.check_files(find).unwrap_err();
        assert_eq!(error.line, line, "{error}");
        assert!(error.reason.contains(reason), "{error}");
    };
    fails(&parse(&with(2, "kernel = \"vmlinuz\"")).unwrap(), 2, "kernel: no file \"vmlinuz\"");
    fails(&parse(&with(3, "initrd = \"x\"")).unwrap(), 3, "initrd: no file \"x\"");
    fails(
        &parse(&with(2, "kernel = \"initrd.cpio\"")).unwrap(),
        2,
        "\"initrd.cpio\" is not an arm64",
    );
    fails(&parse(&with(5, "memory_mib = 3")).unwrap(), 5, "too little");
    let region = format!("{GOOD}[[region]]\nbase = 0\nmib = 1\nfile = \"rom\"\n");
    fails(&parse(&region).unwrap(), 9, "region: no file \"rom\"");
}

#[test]
fn a_region_file_must_fit_its_region() {
    let text = "name='a'\nkernel='k'\nmemory_mib=64\n[[region]]\nbase=0\nmib=1\nfile='rom'\n";
    let m = parse(text).unwrap();
    let kernel = make_image(64, 4096, 0);
    for (len, fits) in [(1 << 20, true), ((1 << 20) + 1, false)] {
        let rom = vec![0; len];
        let answer = m.check_files(|name| Some(if name == "k" { &kernel } else { &rom }));
        assert_eq!(answer.is_ok(), fits);
        if let Err(error) = answer {
            assert_eq!(error.line, 4);
            assert!(error.reason.contains("larger than 1 MiB"));
        }
    }
}

#[test]
fn a_manifest_survives_being_written_and_read_again() {
    let region = "[[region]]\nbase = 0x8000_0000\nmib = 2\nfile = \"rom\"\nreadonly = true\n[[region]]\nbase = 0\nmib = 64\n";
    let mut m = parse(&format!("{}\n{region}", with(7, "gic = 3"))).unwrap();
    m.cmdline = "quote \" backslash \\ umlaut \u{fc}".into();
    let again = parse(&m.to_toml()).unwrap();
    let parts = |m: &Manifest| {
        let m = m.clone();
        (m.name, m.kernel, m.initrd, m.cmdline, m.memory_mib, m.vcpus, m.gic, m.services, m.regions)
    };
    assert_eq!(parts(&again), parts(&m));
    m.initrd = None;
    m.gic = GicChoice::V2;
    assert_eq!(parts(&parse(&m.to_toml()).unwrap()), parts(&m));
    // Control characters are written as escapes, so that the text stays TOML.
    assert_eq!(quoted("a\u{7}\n"), "\"a\\U00000007\\U0000000A\"");
}
