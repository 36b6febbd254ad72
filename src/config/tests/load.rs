//! Files on disk: several of them, and those that cannot be read.

use super::*;

fn write(dir: &tempfile::TempDir, name: &str, text: impl AsRef<[u8]>) -> PathBuf {
    let path = dir.path().join(name);
    std::fs::write(&path, text).unwrap();
    path
}

fn told(dir: &tempfile::TempDir, paths: &[PathBuf]) -> String {
    let problems = load(paths, &no_env).unwrap_err().to_string();
    problems.replace(&format!("{}/", dir.path().display()), "")
}

#[test]
fn several_files_make_one_pipeline() {
    let dir = tempfile::tempdir().unwrap();
    let (first, second) = RIGHT.split_once("[stages.bar]").unwrap();
    let first = write(&dir, "a.toml", first);
    let second = write(&dir, "b.toml", format!("[stages.bar]{second}"));
    let split = load(&[first, second], &no_env).unwrap();
    assert_eq!(split.config_hash, plan(&[]).config_hash);
}

#[test]
fn a_section_in_two_files_is_refused_with_both_places() {
    let dir = tempfile::tempdir().unwrap();
    let first = write(&dir, "a.toml", RIGHT);
    let second = write(&dir, "b.toml", "# again\n[topics.bars]\n[pipeline]\n");
    assert_eq!(
        told(&dir, &[first.clone(), second.clone()]),
        "b.toml:2:1: E0106 topics.bars: `topics.bars` is declared twice\n\
         b.toml:3:1: E0106 pipeline: a pipeline has one section `[pipeline]`"
    );
    let problems = load(&[first, second], &no_env).unwrap_err();
    let related: Vec<usize> = problems
        .iter()
        .filter_map(|problem| problem.related.as_ref())
        .map(|(place, _)| problems.position(*place).1)
        .collect();
    assert_eq!(related, [16, 1]);
}

#[test]
fn files_that_cannot_be_read_are_told_with_the_reason() {
    let dir = tempfile::tempdir().unwrap();
    let latin = write(&dir, "latin.toml", b"# one\n# \xe9\n");
    let large = write(&dir, "large.toml", "#".repeat(2 << 20));
    let missing = dir.path().join("missing.toml");
    assert_eq!(
        told(&dir, &[latin, large, missing]),
        "latin.toml:2:3: E0101: is not UTF-8 from byte 8 on\n\
         large.toml:1:1: E0102: has 2097152 bytes; the limit is 1048576\n\
         missing.toml:1:1: E0100: cannot be read: No such file or directory (os error 2)"
    );
}

#[test]
fn files_that_say_nothing_are_told_as_that_with_the_least_there_is() {
    let help = "help: a pipeline has at least `[pipeline]` with `format = 1` and `name`, \
                `[brokers.NAME]`, `[topics.NAME]` and `[sinks.NAME]`; \
                `tidemill explain sections` tells what stands in each\n\n";
    for (text, told) in [
        ("", "the file is empty\n  at gate.toml\n  "),
        (" \t\r\n\n", "the file is empty\n  at gate.toml\n  "),
        ("\u{feff}", "the file is empty\n  at gate.toml\n  "),
        (
            "# a\n# b\n",
            "the file holds nothing but comments\n  at gate.toml:1:1\n  |\n1 | # a\n  | ^\n  ",
        ),
    ] {
        assert_eq!(
            problems(text).pretty(false).to_string(),
            format!("error[E0104]: {told}{help}")
        );
    }
    let dir = tempfile::tempdir().unwrap();
    let empty = write(&dir, "empty.toml", "");
    let comment = write(&dir, "comment.toml", "# a\n");
    let is = |paths: &[&PathBuf], message| {
        let paths: Vec<PathBuf> = paths.iter().map(|&path| path.clone()).collect();
        assert_eq!(
            told(&dir, &paths),
            format!("empty.toml:1:1: E0104: {message}")
        );
    };
    is(&[&empty, &empty], "the files are empty");
    is(&[&empty, &comment], "the files hold nothing but comments");
    // What the others say counts.
    let whole = write(&dir, "whole.toml", RIGHT);
    load(&[empty, whole], &no_env).unwrap();
}

#[test]
fn the_least_file_there_is_is_right() {
    let least = r#"
        [pipeline]
        format = 1
        name = "least"

        [brokers.main]
        url = "file://data"

        [topics.ticks]
        event = "MarketDataUpdate"

        [sinks.out]
        from = "ticks"
        topic = { broker = "main", topic = "out" }
    "#;
    assert_eq!(parse(least).unwrap().warnings.len(), 0);
}

#[test]
fn too_many_values_are_refused() {
    let text = format!("x = [{}]", "1,".repeat(10_001));
    let told = problems(&text).to_string();
    assert!(told.contains("E0102"), "{told}");
    assert!(told.contains("more than 10000 values"), "{told}");
}

#[test]
fn the_pretty_form_shows_the_line_a_caret_and_what_was_meant() {
    let text = changed(&[("\"last(price)\"", "\"last(prize)\"")]);
    assert_eq!(
        problems(&text).pretty(false).to_string(),
        "error[E0132]: stages.bar.aggregate.close: `Trade` has no field `prize`\n\
         \x20 at gate.toml:22:29\n\
         \x20  |\n\
         22 | aggregate = { close = \"last(prize)\" }\n\
         \x20  |                             ^^^^^\n\
         \x20 help: did you mean `price`?\n\n"
    );
}

#[test]
fn the_machine_form_has_both_ends_of_a_place() {
    let text = changed(&[("\"last(price)\"", "\"last(prize)\"")]);
    assert_eq!(
        problems(&text).to_json(),
        serde_json::json!([{
            "code": "E0132",
            "severity": "error",
            "file": "gate.toml",
            "line": 22,
            "column": 29,
            "endLine": 22,
            "endColumn": 34,
            "path": "stages.bar.aggregate.close",
            "message": "`Trade` has no field `prize`",
            "help": "did you mean `price`?",
            "related": null,
        }])
    );
}
