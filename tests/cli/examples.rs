//! The examples of the help, typed as they stand there after the main job of the README.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::support::{Ended, Home, copy};

/// A directory as the main job leaves it: with the shipped pipelines and market, a log and state.
fn after_the_main_job() -> Home {
    let home = Home::empty();
    let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("pipelines");
    copy(&shipped, &home.path("pipelines"));
    for line in [
        "tidemill import --broker file://data --only trade pipelines/data",
        "tidemill run pipelines/bars.toml --until-end",
    ] {
        typed(&home, line).expect(0, &[]);
    }
    home
}

/// Has a shell run a line.
fn typed(home: &Home, line: &str) -> Ended {
    let program = Path::new(env!("CARGO_BIN_EXE_tidemill")).parent().unwrap();
    let path = std::env::var_os("PATH").unwrap_or_default();
    let path = [program.to_owned()]
        .into_iter()
        .chain(std::env::split_paths(&path));
    Command::new("sh")
        .args(["-c", line])
        .current_dir(home.path(""))
        .env("PATH", std::env::join_paths(path).unwrap())
        .env("HOME", home.path("me"))
        .env_remove("TIDEMILL_BROKER")
        .env_remove("TIDEMILL_LOG")
        .stdin(Stdio::null())
        .output()
        .unwrap()
        .into()
}

/// The lines of a part of a help, up to the next blank one.
fn part<'h>(help: &'h str, title: &str) -> Vec<&'h str> {
    let lines = help.lines().skip_while(|line| *line != title).skip(1);
    lines.take_while(|line| !line.is_empty()).collect()
}

/// Every verb, as typed, with its help.
fn verbs(home: &Home, verb: &str, found: &mut Vec<(String, String)>) {
    let help = typed(home, &format!("{verb} --help")).expect(0, &[]).out;
    for line in part(&help, "Commands:") {
        let Some(name) = line
            .split_whitespace()
            .next()
            .filter(|name| *name != "help")
        else {
            continue;
        };
        // What it is for may take another line.
        if line.starts_with("  ") && !line.starts_with("   ") {
            verbs(home, &format!("{verb} {name}"), found);
        }
    }
    found.push((verb.to_owned(), help));
}

/// The sample was once called `bars` as the shipped pipeline is, which then refused to go on: its file
/// had changed, it said.
#[test]
fn the_pipeline_of_the_readme_runs_beside_the_shipped_one() {
    let home = after_the_main_job();
    let readme = include_str!("../../README.md");
    let sample = readme.split("```toml\n").nth(1).unwrap();
    home.write("sample.toml", sample.split("```").next().unwrap());
    typed(&home, "tidemill run sample.toml --until-end").expect(0, &[]);
    let again = typed(&home, "tidemill run pipelines/bars.toml --until-end");
    again.expect(0, &["0 records read and committed, 0 written"]);
    let (sample, shipped) = (home.records("minutes"), home.records("bars-1m"));
    assert!(!sample.is_empty());
    assert_eq!(sample.len(), shipped.len(), "the same bars, each once");
}

/// Whether an example needs what only its reader has, or waits for an end that only he brings.
fn is_for_its_reader(home: &Home, line: &str) -> bool {
    let waits =
        line.contains("--follow") || line.contains("tidemill run") && !line.contains("--until-end");
    let mut words = line.split_whitespace();
    waits
        || words.any(|word| {
            let is_file = word.contains(['.', '/']) && !word.contains("://");
            let is_file = is_file && !word.starts_with('~');
            word == "FILE" || is_file && !home.path(word).exists()
        })
}

#[test]
fn every_verb_has_examples_that_work_as_typed_after_the_main_job() {
    let done = after_the_main_job();
    let mut found = Vec::new();
    verbs(&done, "tidemill", &mut found);
    assert!(found.len() > 20, "{found:?}");
    for (verb, help) in found {
        // One example may undo what the next needs, but not within a verb.
        let home = Home::empty();
        for name in ["pipelines", "data", ".tidemill"] {
            copy(&done.path(name), &home.path(name));
        }
        for shell in [
            ".local/share/bash-completion/completions",
            ".zfunc",
            ".config/fish/completions",
        ] {
            fs::create_dir_all(home.path("me").join(shell)).unwrap();
        }
        let mut worked = 0;
        for line in part(&help, "Examples:") {
            let line = line.trim_start();
            assert!(line.starts_with("tidemill "), "of {verb}, broken: {line}");
            let typed_part = line.split("  ").next().unwrap();
            if is_for_its_reader(&home, typed_part) {
                continue;
            }
            let ended = typed(&home, typed_part);
            // What changes or loses something only tells, unless it is confirmed.
            let asks = ["offsets reset", "state restore"];
            let asks = asks.iter().any(|verb| typed_part.contains(verb));
            let expected =
                match asks && !typed_part.contains("--yes") && !typed_part.contains("--help") {
                    true => 2,
                    false => 0,
                };
            assert_eq!(
                ended.code,
                Some(expected),
                "`{typed_part}` of `{verb} --help`: {ended:?}"
            );
            worked += 1;
        }
        assert!(
            worked > 0,
            "no example of `{verb} --help` works as typed:\n{help}"
        );
    }
}
