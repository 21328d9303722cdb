//! The `lcai` command line.

fn main() {}
