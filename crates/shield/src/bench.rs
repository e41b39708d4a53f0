//! Measures the bridge against its specification.

fn main() {}
