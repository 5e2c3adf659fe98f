//! What the hardware tells EL2 of an exception, and what the host answers.

mod decode;
mod runs;

use crate::Tape;

/// Decodes the tape's first numbers as syndromes, then runs a vCPU by the rest of it: entry words
/// that anybody may have written, exits that no CPU would make.
pub fn syndrome(bytes: &[u8]) {
    let mut tape = Tape::new(bytes);
    decode::all(&mut tape);
    runs::all(&mut tape);
}
