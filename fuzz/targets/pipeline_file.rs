//! Any text as a pipeline file: reading and checking it never panics, every problem has a place in the
//! text, and what is accepted is accepted in the same way again.

use tidemill::config::{Code, Pipeline, Plan, Problems, Severity, Source, guarantee};

const NAME: &str = "fuzz.toml";

/// Checks the text, twice.
///
/// # Panics
///
/// If a problem has no place, or the second check says otherwise than the first.
pub(crate) fn run(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    // Some variables are set, one of them to what would be structure if it were text.
    let env = |name: &str| match name.len() % 3 {
        0 => None,
        1 => Some("7".to_owned()),
        _ => Some("\"]\n${x}\n[stages.a]".to_owned()),
    };
    let first = Pipeline::parse(NAME, &text, &env);
    let again = Pipeline::parse(NAME, &text, &env);
    match (first, again) {
        (Ok(first), Ok(again)) => {
            accepted(&first.plan);
            tell(&first.warnings, &text);
            let warns = |problem: &_| severity(problem) == Severity::Warning;
            assert!(first.warnings.iter().all(warns), "{}", first.warnings);
            assert_eq!(
                first.plan.config_hash, again.plan.config_hash,
                "the file's number"
            );
            assert_eq!(format!("{:?}", first.plan), format!("{:?}", again.plan));
        }
        (Err(first), Err(again)) => {
            tell(&first, &text);
            let stops = |problem: &_| severity(problem) == Severity::Error;
            assert!(first.iter().any(stops), "refused without an error");
            assert_eq!(first.to_string(), again.to_string());
        }
        (first, again) => panic!("{first:?}, then {again:?}"),
    }
}

fn severity(problem: &tidemill::config::Problem) -> Severity {
    problem.code.severity()
}

fn accepted(plan: &Plan) {
    let causes = guarantee::causes(plan);
    let weakest = guarantee::weakest(&causes);
    assert!(!weakest.as_str().is_empty());
}

/// Tells problems in every form, and holds their places to the text.
fn tell(problems: &Problems, text: &str) {
    let source = Source::new(NAME, text);
    for problem in problems.iter() {
        let related = problem.related.as_ref().map(|(place, _)| *place);
        for place in [Some(problem.place), related].into_iter().flatten() {
            assert_eq!(place.source, 0, "{problem:?}");
            assert!(place.start <= place.end, "{problem:?}");
            assert!(text.get(place.start..place.end).is_some(), "{problem:?}");
            let (name, line, column) = problems.position(place);
            assert_eq!(name, NAME);
            assert!(line >= 1 && column >= 1, "{problem:?}");
            let whole = text.split('\n').nth(line - 1).unwrap_or_default();
            assert!(
                column <= whole.chars().count() + 1,
                "{problem:?} beyond its line"
            );
            assert!(whole.starts_with(source.line(line)), "{problem:?}");
        }
        assert_eq!(Code::find(problem.code.as_str()), Some(problem.code));
        assert!(!problem.message.is_empty(), "{problem:?}");
    }
    let lines = problems.to_string();
    assert!(lines.lines().count() >= problems.len(), "{lines}");
    for colour in [false, true] {
        let _ = problems.pretty(colour).to_string();
    }
    let _ = problems.to_json();
}
