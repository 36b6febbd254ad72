//! Makes the bundled market data anew: `cargo run --example generate_market [DIRECTORY [SEED]]`.
//!
//! Without arguments it writes what is in `pipelines/data` already, byte for byte.

use std::path::PathBuf;

use tidemill::market::generate::{BUNDLED_SEED, bundled, write};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let directory = arguments
        .next()
        .map_or_else(|| PathBuf::from("pipelines/data"), PathBuf::from);
    let seed = match arguments.next() {
        Some(seed) => seed.parse()?,
        None => BUNDLED_SEED,
    };
    write(&bundled(seed), &directory)?;
    Ok(())
}
