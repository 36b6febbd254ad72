//! Inputs drawn from a seed: mutations of given ones, with words of a dictionary.

use rand::rngs::SmallRng;
use rand::seq::IndexedRandom as _;
use rand::{Rng as _, SeedableRng as _};

/// Longest input drawn: long ones take time and reach nothing that short ones do not.
const INPUT_BYTES_MAX: usize = 8 * 1024;

/// Draws inputs.
pub(crate) struct Mutator<'a> {
    random: SmallRng,
    seeds: &'a [Vec<u8>],
    words: &'a [Vec<u8>],
}

impl<'a> Mutator<'a> {
    pub(crate) fn new(seed: u64, seeds: &'a [Vec<u8>], words: &'a [Vec<u8>]) -> Self {
        let random = SmallRng::seed_from_u64(seed);
        Self {
            random,
            seeds,
            words,
        }
    }

    /// The next input: one of the seeds with a few changes.
    pub(crate) fn draw(&mut self) -> Vec<u8> {
        let mut input = self.seeds.choose(&mut self.random).unwrap().clone();
        // Mostly few: an input with many is refused at the first.
        for _ in 0..1 << self.random.random_range(0..5) {
            self.change(&mut input);
        }
        input.truncate(INPUT_BYTES_MAX);
        input
    }

    fn change(&mut self, input: &mut Vec<u8>) {
        let random = &mut self.random;
        let at = random.random_range(0..=input.len());
        let end = (at + random.random_range(0..24)).min(input.len());
        match random.random_range(0..9) {
            0 if at < input.len() => input[at] = random.random(),
            1 if at < input.len() => input[at] ^= 1 << random.random_range(0..8),
            2 => input.insert(at, random.random()),
            3 => drop(input.drain(at..end)),
            4 => {
                let piece = input[at..end].to_vec();
                let to = random.random_range(0..=input.len());
                drop(input.splice(to..to, piece));
            }
            5 => {
                let other = self.seeds.choose(random).unwrap();
                let from = random.random_range(0..=other.len());
                let to = (from + random.random_range(0..64)).min(other.len());
                drop(input.splice(at..end, other[from..to].iter().copied()));
            }
            6 if at < input.len() => {
                // A digit for a digit keeps more whole than a byte for a byte.
                let digit = input[at..].iter().position(u8::is_ascii_digit);
                if let Some(digit) = digit {
                    input[at + digit] = b'0' + random.random_range(0..10);
                }
            }
            _ => {
                let word = self.words.choose(random).unwrap().clone();
                let end = if random.random() { at } else { end };
                drop(input.splice(at..end, word));
            }
        }
    }
}

/// The words of a dictionary in libFuzzer's form: each between quotes on a line of its own, bytes as
/// `\xAB`.
pub(crate) fn words(dictionary: &str) -> Vec<Vec<u8>> {
    let lines = dictionary.lines().map(str::trim);
    let lines = lines.filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines.map(word).collect()
}

fn word(line: &str) -> Vec<u8> {
    let quoted = line.split_once('"').unwrap().1;
    let mut rest = quoted.strip_suffix('"').unwrap().as_bytes();
    let mut word = Vec::new();
    while let Some((&first, after)) = rest.split_first() {
        rest = after;
        if first != b'\\' {
            word.push(first);
        } else if let [b'x', hex @ ..] = rest {
            let digits = std::str::from_utf8(&hex[..2]).unwrap();
            word.push(u8::from_str_radix(digits, 16).unwrap());
            rest = &hex[2..];
        } else {
            word.push(rest[0]);
            rest = &rest[1..];
        }
    }
    word
}

#[test]
fn a_dictionary_is_read_as_libfuzzer_reads_it() {
    let text = "# words\n\na=\"b\\\"c\"\n\"\\x0a\\\\x\"\n";
    assert_eq!(words(text), [&b"b\"c"[..], b"\n\\x"]);
}
