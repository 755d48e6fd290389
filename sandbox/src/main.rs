//! Tillwatch.
fn main() {}
