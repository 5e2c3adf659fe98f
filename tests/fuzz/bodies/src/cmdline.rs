//! The host's words on the machine's command line.

// The shim's own file: the shim is an image for the bare machine, and no library.
#[path = "../../../../el1-host/src/words.rs"]
mod words;

use words::Words;

/// Reads any text as a command line.
///
/// Each word of ours is either understood or named, in order; those that are understood mean the same
/// without the others.
pub fn cmdline(bytes: &[u8]) {
    let Ok(line) = core::str::from_utf8(bytes) else { return };
    let mut unknown = Vec::new();
    let all = Words::parse(line, |word| unknown.push(word.0));
    let mut left = unknown.iter().peekable();
    let mut known = Vec::new();
    for word in line.split_ascii_whitespace().filter(|word| word.starts_with("redan.")) {
        match left.next_if(|unknown| **unknown == word) {
            Some(same) => assert!(core::ptr::eq(*same, word), "named at another place"),
            None => known.push(word),
        }
    }
    assert!(left.next().is_none(), "something was named that is no word of ours");
    // Of two equal keys the last counts.
    let key = |word: &'_ str| word.split_once('=').map_or(word.len(), |(key, _)| key.len());
    let mut last: Vec<&str> = Vec::new();
    for word in &known {
        last.retain(|other| other[..key(other)] != word[..key(word)]);
        last.push(word);
    }
    let last = last.join(" ");
    let again = Words::parse(&last, |word| panic!("{word}: alone it is not understood"));
    assert_eq!(again, all);
    let known = known.join(" ");
    let again = Words::parse(&known, |word| panic!("{word}: but it was understood before"));
    assert_eq!(again, all);
    let nothing = Words::parse("", |_| {});
    assert!(!known.is_empty() || all == nothing, "words that nobody said");
}
