//! Archives, whole and broken.

use super::*;

fn archive(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut writer = Writer::new();
    for (name, data) in files {
        assert!(writer.file(name, data));
    }
    writer.finish()
}

fn two_vms() -> Vec<u8> {
    archive(&[
        ("a/vm.toml", b"name = 'a'"),
        ("a/Image", b"kernel of a"),
        ("b/Image", &[7; 4096]),
        ("b/vm.toml", b"name = 'b'"),
        ("b/lib/x", b"deep"),
    ])
}

#[test]
fn what_is_written_is_read() {
    let bytes = two_vms();
    let names: Vec<&str> = entries(&bytes).map(|e| e.unwrap().name).collect();
    assert_eq!(names, ["a/vm.toml", "a/Image", "b/Image", "b/vm.toml", "b/lib/x"]);
    let bundle = Bundle::read(&bytes);
    assert_eq!(bundle.error, None);
    let [a, b] = bundle.folders.as_slice() else { panic!("{bundle:?}") };
    assert_eq!((a.name, a.manifest()), ("a", Some(&b"name = 'a'"[..])));
    assert_eq!(a.file("Image"), Some(&b"kernel of a"[..]));
    assert_eq!(b.file("Image"), Some(&[7; 4096][..]));
    assert_eq!(b.file("lib/x"), Some(&b"deep"[..]));
    assert_eq!(b.file("y"), None);
    assert!(entries(&bytes).all(|e| e.unwrap().is_file()));
}

#[test]
fn the_header_is_the_one_that_cpio_writes() {
    let bytes = archive(&[("a/x", b"hello")]);
    assert_eq!(
        &bytes[..110],
        b"070701000000010000\
        81a40000000000000000000000010000000000000005\
        000000000000000000000000000000000000000400000000"
    );
    assert_eq!(&bytes[110..124], b"a/x\0\0\0hello\0\0\0");
    assert_eq!(bytes.len() % 4, 0);
}

#[test]
fn a_leading_dot_slash_and_folders_and_loose_files_are_passed_over() {
    let mut writer = Writer::new();
    assert!(writer.entry(".", 0o040_755, 1, &[]).is_some());
    assert!(writer.entry("./vm", 0o040_755, 2, &[]).is_some());
    assert!(writer.entry("vm/link", 0o120_777, 3, b"target").is_some());
    assert!(writer.file("./vm/vm.toml", b"x"));
    assert!(writer.file("loose", b"y"));
    assert!(writer.file("no-manifest/Image", b"z"));
    let bytes = writer.finish();
    let bundle = Bundle::read(&bytes);
    assert_eq!(bundle.error, None);
    assert_eq!(bundle.folders.len(), 1);
    assert_eq!(bundle.folders[0].name, "vm");
    assert_eq!(bundle.folders[0].file("link"), None);
}

#[test]
fn of_two_files_of_one_name_the_later_counts() {
    let bytes = archive(&[("a/vm.toml", b"1"), ("a/vm.toml", b"2")]);
    assert_eq!(Bundle::read(&bytes).folders[0].manifest(), Some(&b"2"[..]));
}

#[test]
fn cut_anywhere_the_archive_gives_an_error_and_all_that_stood_before() {
    let bytes = two_vms();
    let starts: Vec<usize> = {
        let mut at = Vec::new();
        let mut all = entries(&bytes);
        loop {
            at.push(all.at);
            if all.next().is_none() {
                break at;
            }
        }
    };
    let trailer_end = (starts.last().unwrap() + 110 + TRAILER.len() + 1).next_multiple_of(4);
    for cut in (0..trailer_end).step_by(if cfg!(miri) { 41 } else { 1 }) {
        let mut whole = 0;
        let mut error = None;
        for entry in entries(&bytes[..cut]) {
            match entry {
                Ok(_) => whole += 1,
                Err(why) => error = Some(why),
            }
        }
        let why = error.unwrap_or_else(|| panic!("cut at {cut} went unseen"));
        assert!(starts.contains(&why.at));
        assert_eq!(whole, starts.iter().position(|s| *s == why.at).unwrap());
        assert!(why.to_string().contains(&why.at.to_string()));
    }
    assert!(entries(&bytes[..trailer_end]).all(|e| e.is_ok()));
}

#[test]
fn folders_before_a_fault_can_be_used() {
    let mut bytes = two_vms();
    let b = bytes.windows(7).position(|w| w == b"b/Image").unwrap() - 110;
    bytes[b] = b'x';
    let bundle = Bundle::read(&bytes);
    assert_eq!(bundle.error, Some(Error { at: b, reason: "not a newc cpio header" }));
    assert_eq!(bundle.folders.len(), 1);
    assert_eq!(bundle.folders[0].name, "a");
}

#[test]
fn odd_headers_are_refused_by_reason() {
    let good = archive(&[("a/b", b"data")]);
    let refused = |at: usize, with: &[u8], reason: &str| {
        let mut bytes = good.clone();
        bytes[at..at + with.len()].copy_from_slice(with);
        let all: Vec<_> = entries(&bytes).collect();
        let [Err(why)] = all.as_slice() else { panic!("{reason}: {all:?}") };
        assert_eq!(why.reason, reason);
    };
    refused(0, b"070702", "not a newc cpio header");
    refused(0, b"070707", "not a newc cpio header");
    refused(14, b"0000_1a4", "a header field that is not hexadecimal");
    refused(54, b"+0000004", "a header field that is not hexadecimal");
    refused(54, b"ffffffff", "the archive ends inside a file");
    refused(94, b"00000000", "a name of impossible length");
    refused(94, b"00001001", "a name of impossible length");
    refused(94, b"00001000", "the archive ends inside a name");
    refused(94, b"00000003", "a name without its NUL");
    refused(110, b"\xff", "a name that is not UTF-8");
    refused(111, b"\0", "a NUL inside a name");
    let text = Bundle::read(b"this is no archive");
    assert_eq!(text.error.unwrap().reason, "the archive ends without a trailer");
    assert!(Bundle::read(&[]).error.is_some());
}

#[test]
fn hexadecimal_digits_may_be_of_either_case() {
    let mut bytes = archive(&[("a/b", &[1; 10])]);
    bytes[54..62].copy_from_slice(b"0000000A");
    assert_eq!(entries(&bytes).next().unwrap().unwrap().data.len(), 10);
}

#[test]
fn random_damage_never_panics() {
    let good = two_vms();
    let mut state = 88_172_645_463_325_252_u64;
    let rounds = if cfg!(miri) { 30 } else { 20_000 };
    for _ in 0..rounds {
        let mut bytes = good.clone();
        for _ in 0..3 {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            let at = state as usize % bytes.len().min(700);
            bytes[at] = (state >> 40) as u8;
        }
        let bundle = Bundle::read(&bytes);
        assert!(bundle.folders.len() <= 6);
    }
}
