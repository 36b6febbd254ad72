//! A market made up from a seed, in LEAN's layout: the data set that comes with the program.
//!
//! Credible where it matters to a stream processor: trades come in bursts (a Hawkes process: each
//! one makes the next more likely), volatility switches between a calm and a rough regime, prices
//! lie on ticks and bounce between bid and ask, sizes follow a power law, many trades share a
//! millisecond in an order that means something, and some ticks are suspicious or have no size.
//!
//! The same seed gives the same bytes everywhere and for good: the generator of chance is written
//! out here, and the arithmetic uses only what IEEE 754 rounds exactly (no logarithm, no sine).

use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::path::Path;

/// One generated file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GeneratedFile {
    /// Where it belongs, below the data's directory.
    pub path: &'static str,
    /// Its name within the archive at `path`.
    pub entry: &'static str,
    /// Its content.
    pub csv: String,
}

/// The seed of the data set that comes with the program.
pub const BUNDLED_SEED: u64 = 0x7469_6465_6d69_6c6c;

/// The data set that comes with the program: a day of two made-up shares, tick by tick, and a day of
/// one-second bars of a crypto pair. 11 March 2024 is the first trading day of New York's summer time.
pub fn bundled(seed: u64) -> Vec<GeneratedFile> {
    let mut seeds = Chance::new(seed);
    let mut next = || Chance::new(seeds.next());
    vec![
        GeneratedFile {
            path: "equity/usa/tick/tide/20240311_trade.zip",
            entry: "20240311_tide_Trade_Tick.csv",
            csv: equity_ticks(&mut next(), 4_250.0, 1.0),
        },
        GeneratedFile {
            path: "equity/usa/tick/mill/20240311_trade.zip",
            entry: "20240311_mill_Trade_Tick.csv",
            csv: equity_ticks(&mut next(), 18_120.0, 2.5),
        },
        GeneratedFile {
            path: "crypto/synthetic/second/btcusd/20240311_trade.zip",
            entry: "20240311_btcusd_second_trade.csv",
            csv: crypto_seconds(&mut next(), 7_120_000.0),
        },
    ]
}

/// Writes files as zip archives below a directory. The archives' bytes depend on nothing but the
/// files and the version of the compressor.
///
/// # Errors
///
/// If a directory or a file cannot be written.
pub fn write(files: &[GeneratedFile], directory: &Path) -> io::Result<()> {
    for file in files {
        let path = directory.join(file.path);
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent)?;
        }
        let mut zip = zip::ZipWriter::new(io::Cursor::new(Vec::new()));
        let options = zip::write::SimpleFileOptions::default()
            .compression_level(Some(9))
            .last_modified_time(zip::DateTime::default());
        zip.start_file(file.entry, options)?;
        zip.write_all(file.csv.as_bytes())?;
        std::fs::write(path, zip.finish()?.into_inner())?;
    }
    Ok(())
}

/// Chance from a seed: xoshiro256++, seeded by splitmix64.
#[derive(Debug, Clone)]
struct Chance([u64; 4]);

impl Chance {
    fn new(seed: u64) -> Self {
        let mut state = seed;
        Self([(); 4].map(|()| {
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut z = state;
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            z ^ (z >> 31)
        }))
    }

    fn next(&mut self) -> u64 {
        let [a, b, c, d] = &mut self.0;
        let result = a.wrapping_add(*d).rotate_left(23).wrapping_add(*a);
        let shifted = *b << 17;
        *c ^= *a;
        *d ^= *b;
        *b ^= *c;
        *a ^= *d;
        *c ^= shifted;
        *d = d.rotate_left(45);
        result
    }

    /// In (0, 1].
    fn uniform(&mut self) -> f64 {
        ((self.next() >> 11) + 1) as f64 / (1u64 << 53) as f64
    }

    fn happens(&mut self, probability: f64) -> bool {
        self.uniform() <= probability
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    /// Close to a standard normal distribution: the sum of twelve uniform ones.
    fn normal(&mut self) -> f64 {
        (0..12).map(|_| self.uniform()).sum::<f64>() - 6.0
    }

    /// A whole number from 1 on whose tail falls with the square.
    fn power_law(&mut self, max: f64) -> f64 {
        (1.0 / self.uniform().sqrt()).floor().min(max)
    }
}

/// A price that wanders: calm for long, rough at times, and drawn back to where it came from.
#[derive(Debug)]
struct Wander {
    value: f64,
    home: f64,
    rough: bool,
    calm_step: f64,
}

impl Wander {
    fn step(&mut self, chance: &mut Chance) -> f64 {
        let leave = if self.rough {
            1.0 / 400.0
        } else {
            1.0 / 3_000.0
        };
        if chance.happens(leave) {
            self.rough = !self.rough;
        }
        let step = self.calm_step * if self.rough { 4.0 } else { 1.0 };
        self.value += step * chance.normal() + (self.home - self.value) * 2e-5;
        self.value = self.value.max(self.home * 0.5);
        self.value
    }
}

/// How likely a trade is in the next instant: a base, and what the trades before have stirred up.
#[derive(Debug)]
struct Bursts {
    stirred: f64,
    decay: f64,
    jump: f64,
}

impl Bursts {
    fn arrives(&mut self, base: f64, chance: &mut Chance) -> bool {
        self.stirred *= self.decay;
        let arrives = chance.happens((base + self.stirred).min(0.5));
        if arrives {
            self.stirred += self.jump;
        }
        arrives
    }
}

const OPEN_MS: u64 = 34_200_000;
const CLOSE_MS: u64 = 57_600_000;
const BEFORE_OPEN_MS: u64 = 30_600_000;

/// The exchanges' letters, the busiest first.
const EXCHANGES: [&str; 6] = ["D", "Q", "P", "K", "Z", "N"];

/// About 20,000 ticks: milliseconds, price ×10,000, size, exchange, condition, suspicious.
fn equity_ticks(chance: &mut Chance, start_cents: f64, spread_cents: f64) -> String {
    let mut out = String::new();
    let mut price = Wander {
        value: start_cents,
        home: start_cents,
        rough: false,
        calm_step: spread_cents * 0.35,
    };
    let mut bursts = Bursts {
        stirred: 0.0,
        decay: 0.998,
        jump: 0.001_2,
    };
    let mut buying = true;
    for ms in BEFORE_OPEN_MS..CLOSE_MS {
        let base = if ms < OPEN_MS {
            0.000_004
        } else {
            // Busy at the open and at the close.
            let x = (ms - OPEN_MS) as f64 / (CLOSE_MS - OPEN_MS) as f64 - 0.5;
            0.000_17 + 0.001_2 * x * x
        };
        if !bursts.arrives(base, chance) {
            continue;
        }
        // A large order meets several others within the same millisecond.
        loop {
            equity_tick(chance, &mut out, ms, &mut price, spread_cents, &mut buying);
            if !chance.happens(0.2) {
                break;
            }
        }
    }
    let close = (price.value.round() * 100.0) as i64;
    // The official close: a price without a size.
    let _ = writeln!(out, "{CLOSE_MS},{close},0,N,1,0");
    out
}

fn equity_tick(
    chance: &mut Chance,
    out: &mut String,
    ms: u64,
    price: &mut Wander,
    spread_cents: f64,
    buying: &mut bool,
) {
    if chance.happens(0.35) {
        *buying = !*buying;
    }
    let side = if *buying { 0.5 } else { -0.5 };
    let mut cents = (price.step(chance) + side * spread_cents).round();
    if chance.happens(0.04) {
        // Inside the spread, off the grid.
        cents -= side;
    }
    let exchange = EXCHANGES[(chance.power_law(6.0) - 1.0) as usize];
    let odd_lot = chance.happens(0.4);
    let mut size = if odd_lot {
        chance.power_law(99.0)
    } else {
        100.0 * chance.power_law(250.0)
    };
    let mut condition = if odd_lot { "20000020" } else { "20" };
    let mut suspicious = 0;
    if chance.happens(0.002) {
        cents = (cents * (0.9 + 0.2 * chance.uniform())).round();
        suspicious = 1;
        condition = "1";
    } else if chance.happens(0.001) {
        size = 0.0;
        condition = "2000";
    }
    let scaled = (cents * 100.0) as i64;
    let _ = writeln!(
        out,
        "{ms},{scaled},{},{exchange},{condition},{suspicious}",
        size as i64
    );
}

/// Some thousand bars: milliseconds, open, high, low, close, volume. Seconds without a trade have
/// none, and some volumes have the tail of digits that binary fractions leave.
fn crypto_seconds(chance: &mut Chance, start_cents: f64) -> String {
    let mut out = String::new();
    let mut price = Wander {
        value: start_cents,
        home: start_cents,
        rough: false,
        calm_step: 400.0,
    };
    let mut bursts = Bursts {
        stirred: 0.0,
        decay: 0.9,
        jump: 0.06,
    };
    for second in 0..86_400u64 {
        if !bursts.arrives(0.02, chance) {
            continue;
        }
        let open = price.step(chance).round();
        let (mut high, mut low, mut close) = (open, open, open);
        let mut volume = 0;
        for _ in 0..chance.power_law(40.0) as u64 {
            close = price.step(chance).round();
            high = high.max(close);
            low = low.min(close);
            // In hundred-millionths.
            volume += (chance.power_law(5_000.0) * 100_000.0) as u64 + chance.below(100_000);
        }
        let _ = write!(out, "{}", second * 1_000);
        for cents in [open, high, low, close] {
            let cents = cents as u64;
            let _ = write!(out, ",{}", decimal(cents, 2));
        }
        if chance.happens(0.02) {
            let _ = writeln!(
                out,
                ",{}.{:08}999999997",
                (volume - 1) / 100_000_000,
                (volume - 1) % 100_000_000
            );
        } else {
            let _ = writeln!(out, ",{}", decimal(volume, 8));
        }
    }
    out
}

/// Without zeros at the end, as LEAN writes them.
fn decimal(value: u64, scale: u8) -> String {
    crate::market::decimal::to_text(value as i64, scale)
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    #[test]
    fn the_bundled_files_are_what_the_seed_gives() {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("pipelines/data");
        for file in bundled(BUNDLED_SEED) {
            let archive = std::fs::File::open(directory.join(file.path)).unwrap();
            let mut archive = zip::ZipArchive::new(archive).unwrap();
            let mut csv = String::new();
            archive
                .by_name(file.entry)
                .unwrap()
                .read_to_string(&mut csv)
                .unwrap();
            assert!(
                csv == file.csv,
                "{} differs; make it anew with `cargo run --example generate_market`",
                file.path
            );
        }
    }

    #[test]
    fn the_stream_of_chance_is_that_of_xoshiro256_plus_plus() {
        // The reference implementation's first outputs from this state.
        let mut chance = Chance([1, 2, 3, 4]);
        let first: Vec<u64> = (0..5).map(|_| chance.next()).collect();
        assert_eq!(
            first,
            [
                41_943_041,
                58_720_359,
                3_588_806_011_781_223,
                3_591_011_842_654_386,
                9_228_616_714_210_784_205
            ]
        );
    }

    #[test]
    fn the_market_has_the_marks_of_a_real_one() {
        let files = bundled(BUNDLED_SEED);
        for file in &files[..2] {
            let rows: Vec<Vec<&str>> = file
                .csv
                .lines()
                .map(|line| line.split(',').collect())
                .collect();
            assert!((15_000..30_000).contains(&rows.len()), "{}", rows.len());
            let count =
                |column: usize, value: &str| rows.iter().filter(|row| row[column] == value).count();
            assert!(count(5, "1") > 10, "suspicious");
            assert!(count(2, "0") > 10, "without size");
            let ties = rows
                .windows(2)
                .filter(|pair| pair[0][0] == pair[1][0])
                .count();
            assert!(ties > 1_000, "{ties}");
            assert!(
                rows.windows(2)
                    .all(|pair| pair[0][0].parse::<u64>().unwrap() <= pair[1][0].parse().unwrap())
            );

            // Closes of minutes: fat tails, and volatility that comes in clusters.
            let mut closes = std::collections::BTreeMap::new();
            for row in rows.iter().filter(|row| row[5] == "0" && row[2] != "0") {
                let minute = row[0].parse::<u64>().unwrap() / 60_000;
                closes.insert(minute, row[1].parse::<f64>().unwrap());
            }
            let closes: Vec<f64> = closes.into_values().collect();
            let moves: Vec<f64> = closes
                .windows(2)
                .map(|pair| pair[1] / pair[0] - 1.0)
                .collect();
            let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len() as f64;
            let power = |n: i32| mean(&moves.iter().map(|x| x.powi(n)).collect::<Vec<_>>());
            let kurtosis = power(4) / (power(2) * power(2));
            assert!(kurtosis > 3.5, "{kurtosis}");
            let lagged = |values: &[f64]| {
                let average = mean(values);
                let spread = mean(
                    &values
                        .iter()
                        .map(|x| (x - average).powi(2))
                        .collect::<Vec<_>>(),
                );
                let with_next: Vec<f64> = values
                    .windows(2)
                    .map(|pair| (pair[0] - average) * (pair[1] - average))
                    .collect();
                mean(&with_next) / spread
            };
            assert!(lagged(&moves).abs() < 0.2, "{}", lagged(&moves));
            let sizes: Vec<f64> = moves.iter().map(|x| x.abs()).collect();
            assert!(lagged(&sizes) > 0.1, "{}", lagged(&sizes));
        }
    }
}
