//! One session bus for a container.
fn main() {}
