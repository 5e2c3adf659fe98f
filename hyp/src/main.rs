//! Placeholder until the image lands.
fn main() {}
