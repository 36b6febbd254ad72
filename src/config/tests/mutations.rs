//! No text, however broken, is more than a problem to be told.

use proptest::prelude::*;

use super::*;

/// Whole tokens that make more of a file survive than random bytes do.
const TOKENS: [&str; 24] = [
    "\"",
    "'",
    "\"\"\"",
    "[",
    "]",
    "{",
    "}",
    "=",
    ".",
    ",",
    "\n",
    "\\",
    "${",
    "}",
    "é",
    "\u{0}",
    "-1",
    "1e999",
    "\"\"",
    "[topics.",
    "[stages.",
    "from = ",
    "op = \"merge\"\n",
    "0x",
];

#[derive(Debug, Clone)]
enum Mutation {
    Remove(prop::sample::Index, usize),
    Insert(prop::sample::Index, &'static str),
    Copy(prop::sample::Index, prop::sample::Index, usize),
}

fn mutation() -> impl Strategy<Value = Mutation> {
    prop_oneof![
        (any::<prop::sample::Index>(), 1..40_usize).prop_map(|(at, n)| Mutation::Remove(at, n)),
        (
            any::<prop::sample::Index>(),
            prop::sample::select(&TOKENS[..])
        )
            .prop_map(|(at, token)| Mutation::Insert(at, token)),
        (
            any::<prop::sample::Index>(),
            any::<prop::sample::Index>(),
            1..80_usize
        )
            .prop_map(|(from, to, n)| Mutation::Copy(from, to, n)),
    ]
}

fn mutate(text: &str, mutations: Vec<Mutation>) -> String {
    let mut chars: Vec<char> = text.chars().collect();
    for mutation in mutations {
        if chars.is_empty() {
            break;
        }
        match mutation {
            Mutation::Remove(at, count) => {
                let at = at.index(chars.len());
                let end = (at + count).min(chars.len());
                chars.drain(at..end);
            }
            Mutation::Insert(at, token) => {
                let at = at.index(chars.len());
                chars.splice(at..at, token.chars());
            }
            Mutation::Copy(from, to, count) => {
                let from = from.index(chars.len());
                let end = (from + count).min(chars.len());
                let piece = chars[from..end].to_vec();
                let to = to.index(chars.len());
                chars.splice(to..to, piece);
            }
        }
    }
    chars.into_iter().collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_500))]

    #[test]
    fn no_mutation_of_a_file_makes_the_check_panic(
        shipped in any::<bool>(),
        mutations in prop::collection::vec(mutation(), 1..6),
    ) {
        let text = mutate(if shipped { BARS } else { RIGHT }, mutations);
        let env = |name: &str| (name.len().is_multiple_of(2)).then(|| "${x}".to_owned());
        match Pipeline::parse("gate.toml", &text, &env) {
            Ok(pipeline) => {
                let _ = guarantee::causes(&pipeline.plan);
                for problem in pipeline.warnings.iter() {
                    prop_assert_eq!(problem.code.severity(), Severity::Warning);
                }
            }
            Err(problems) => {
                prop_assert!(!problems.is_empty());
                let _ = (problems.to_string(), problems.pretty(true).to_string(), problems.to_json());
            }
        }
    }
}
