//! The bundle: an archive that a boot loader passes, read at EL1.

use host_vmm::bundle::{Bundle, Entry, Writer, entries};

/// Bytes of an entry without name and content.
const SMALLEST: usize = 112;

/// Reads any bytes as a bundle.
///
/// What is handed out lies in the archive; reading ends; what stands before a fault does not depend on
/// what follows it; and what was read can be written and read again.
pub fn bundle(archive: &[u8]) {
    let mut read = Vec::new();
    let mut error = None;
    for entry in entries(archive) {
        assert_eq!(error, None, "something was read beyond a fault");
        match entry {
            Ok(entry) => {
                assert!(inside(entry.name.as_bytes(), archive) && inside(entry.data, archive));
                assert!(!entry.name.contains('\0'));
                read.push(entry);
            }
            Err(why) => error = Some(why),
        }
    }
    assert!(read.len() * SMALLEST <= archive.len(), "an entry takes more room than that");
    let bundle = Bundle::read(archive);
    assert_eq!(bundle.error, error);
    for (n, folder) in bundle.folders.iter().enumerate() {
        assert!(!folder.name.contains('/') && folder.manifest().is_some());
        assert!(bundle.folders[..n].iter().all(|other| other.name != folder.name), "twice");
    }
    for entry in read.iter().filter(|entry| entry.is_file()) {
        let Some((folder, file)) = entry.name.split_once('/') else { continue };
        let Some(folder) = bundle.folders.iter().find(|known| known.name == folder) else {
            continue;
        };
        let last = read.iter().rfind(|other| other.is_file() && other.name == entry.name);
        assert_eq!(folder.file(file), last.map(|last| last.data), "{}", entry.name);
    }
    if let Some(error) = error {
        // An archive may end without the padding of its last file.
        assert!(error.at < archive.len() + 4);
        let before = archive.get(..error.at).unwrap_or(archive);
        let again: Vec<Entry<'_>> = entries(before).map_while(Result::ok).collect();
        assert_eq!(again, read);
        let cut = Bundle::read(before);
        assert_eq!(cut.folders, bundle.folders);
        assert!(cut.error.is_some(), "half an archive passes for a whole one");
    }
    let copy = rewritten(&read);
    let again = Bundle::read(&copy);
    assert_eq!((again.folders, again.error), (bundle.folders, None));
}

/// The same files in an archive of our own. The reader takes one `./` off each name.
fn rewritten(read: &[Entry<'_>]) -> Vec<u8> {
    let mut writer = Writer::new();
    for entry in read.iter().filter(|entry| entry.is_file()) {
        assert!(writer.file(&format!("./{}", entry.name), entry.data));
    }
    writer.finish()
}

fn inside(part: &[u8], whole: &[u8]) -> bool {
    let (part, whole) = (part.as_ptr_range(), whole.as_ptr_range());
    part.is_empty() || (whole.start <= part.start && part.end <= whole.end)
}
