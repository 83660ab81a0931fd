//! vaultmount
fn main() {}
