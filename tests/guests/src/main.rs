//! guests
fn main() {}
