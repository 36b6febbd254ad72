//! Ticks from a seed, in files that arrive one after the other.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use rand::rngs::SmallRng;
use rand::{Rng as _, SeedableRng as _};

const PAIRS: [&str; 6] = ["AAA", "BBB", "CCC", "DDD", "EEE", "FFF"];

/// The ticks of one seed.
#[derive(Debug)]
pub(crate) struct Ticks {
    chance: SmallRng,
    // Microseconds since 1970.
    time: i64,
    sequence: u64,
    files: u32,
    /// The topic that its files are named after.
    pub(crate) topic: &'static str,
    /// Whether some come later than the pipeline's file allows.
    pub(crate) are_late: bool,
    /// Whether some have a note that is longer than the store keeps in one piece.
    pub(crate) are_long: bool,
}

impl Ticks {
    /// The same seed gives the same ticks.
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            chance: SmallRng::seed_from_u64(seed),
            time: 1_700_000_000_000_000,
            sequence: 0,
            files: 0,
            topic: "ticks",
            are_late: true,
            are_long: false,
        }
    }

    /// The next so many, in a new file, which is named after its topic. In a hundred of them one or two are repeats, late, or not
    /// what the pipeline's file declares.
    pub(crate) fn file(&mut self, dir: &Path, count: usize) -> PathBuf {
        let mut text = String::new();
        for _ in 0..count {
            self.write_tick(&mut text);
        }
        self.files += 1;
        let path = dir.join(format!("{}-{}.jsonl", self.topic, self.files));
        std::fs::write(&path, text).unwrap();
        path
    }

    fn write_tick(&mut self, out: &mut String) {
        let chance = &mut self.chance;
        self.time += chance.random_range(0..40_000);
        let is_repeat = self.sequence > 0 && chance.random_bool(0.02);
        self.sequence += u64::from(!is_repeat);
        let time = match chance.random_range(0..100) {
            0 if self.are_late => self.time - chance.random_range(400_000..30_000_000),
            1..10 => self.time - chance.random_range(0..250_000),
            _ => self.time,
        };
        let pair = PAIRS[self.sequence as usize % PAIRS.len()];
        let side = ["BUY", "SELL"][chance.random_range(0..2)];
        let price = chance.random_range(100..99_999);
        let quantity = chance.random_range(1..50_000);
        // A third decimal is more than the pipeline's file takes.
        let too_fine = if chance.random_bool(0.01) { "5" } else { "" };
        let note = match self.are_long && chance.random_range(0..30) == 0 {
            true => chance.random_range(3_000..9_000),
            false => chance.random_range(0..8),
        };
        let note = "n".repeat(note);
        writeln!(
            out,
            r#"{{"eventType":"MarketDataUpdate","timestamp":{}.{:03},"pair":"{pair}","currentPrice":{}.{:02}{too_fine},"quantity":{}.{:04},"side":"{side}","note":"{note}","sequence":{}}}"#,
            time / 1000,
            time % 1000,
            price / 100,
            price % 100,
            quantity / 10_000,
            quantity % 10_000,
            self.sequence,
        )
        .unwrap();
    }
}
