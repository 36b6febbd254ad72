//! Wrong usage: what is wrong, what to do, and that nothing is left behind.

use std::fs;

use crate::support::Home;

#[test]
fn wrong_usage_is_told_and_leaves_nothing_behind() {
    let home = Home::empty();
    home.write("bad.toml", "[pipeline]\nformat = 1\nnmae = \"x\"\n");
    let memory = crate::support::PIPELINE.replace("file://data", "mem://");
    home.write("memory.toml", memory);
    let before = listing(&home);
    let cases: [(&[&str], i32, &[&str]); 17] = [
        (&[], 2, &["Usage: tidemill <COMMAND>"]),
        (&["rnu"], 2, &["unrecognized subcommand 'rnu'"]),
        (&["run"], 2, &["<FILE>", "--help"]),
        (
            &["run", "p.toml", "--threads", "0"],
            2,
            &["'--threads <N>': must be a whole number from 1 to 1024"],
        ),
        (
            &["run", "p.toml", "--threads", "30000"],
            2,
            &["'--threads <N>': must be a whole number from 1 to 1024"],
        ),
        (
            &["offsets", "reset", "p.toml", "--to", "earliest"],
            2,
            &["<--keep-state|--drop-state>"],
        ),
        (
            &[
                "offsets",
                "reset",
                "p.toml",
                "--to",
                "earliest",
                "--keep-state",
                "--drop-state",
            ],
            2,
            &["'--keep-state' cannot be used with '--drop-state'"],
        ),
        (
            &["run", "missing.toml"],
            3,
            &[
                "error[E0100]: cannot be read",
                "at missing.toml\n  help: name a file that is there",
            ],
        ),
        (
            &["run", "bad.toml"],
            1,
            &[
                "error[E0103]: pipeline.nmae: unknown key\n  at bad.toml:3:1\n",
                "help: did you mean `name`? known here: `format`, `name`, ",
            ],
        ),
        (&["import", "x.csv"], 2, &["--broker"]),
        (
            &[
                "import",
                "p.toml",
                "--format",
                "json",
                "--broker",
                "file://new",
            ],
            1,
            &["p.toml"],
        ),
        (
            &["import", "/dev/null", "--broker", "file://new"],
            2,
            &["/dev/null is neither a file nor a directory", "help:"],
        ),
        (
            &["run", "memory.toml"],
            2,
            &[
                "topic `ticks` of source `ticks` does not exist: `mem://` lies in this process",
                "help: read from `stdio:` or from `file://DIRECTORY`",
            ],
        ),
        (
            &["import", "missing.csv", "--broker", "file://new"],
            3,
            &["cannot read missing.csv"],
        ),
        (
            &["import", "p.toml", "--broker", "kafka://b"],
            2,
            &["`kafka://` is not built in yet"],
        ),
        (
            &["import", "p.toml", "--broker", "mem://"],
            2,
            &["help: import into `file://"],
        ),
        (
            &["read", "bars", "--broker", "file://new"],
            3,
            &["there is no directory `new`", "help:"],
        ),
    ];
    for (args, code, said) in cases {
        let ended = home.tidemill(args).expect(code, said);
        assert!(ended.out.is_empty(), "{args:?}: {}", ended.out);
        assert_eq!(listing(&home), before, "{args:?}");
    }
}

/// A program that asked for JSON got words, but only where its own call was at fault.
#[test]
fn wrong_usage_is_told_in_json_where_json_was_asked_for() {
    let home = Home::empty();
    let cases: [(&str, &str, &str); 4] = [
        (
            "read --json",
            "not provided: <TOPIC>",
            "Usage: tidemill read",
        ),
        (
            "topics list --josn --json",
            "unexpected argument '--josn'",
            "'--json'",
        ),
        (
            "run --json --threads 0 p.toml",
            "'--threads <N>': must be a whole number from 1 to 1024",
            "--help",
        ),
        ("offsets --json", "", "Usage: tidemill offsets"),
    ];
    for (line, message, help) in cases {
        let args: Vec<&str> = line.split(' ').collect();
        let ended = home.tidemill(&args).expect(2, &[]);
        assert!(ended.out.is_empty(), "{ended:?}");
        let told: serde_json::Value = serde_json::from_str(&ended.err)
            .unwrap_or_else(|error| panic!("{line}: {error}: {}", ended.err));
        let error = &told["error"];
        assert_eq!(error["exit"], 2, "{line}");
        assert_eq!(error["problems"], serde_json::json!([]), "{line}");
        let told = |part: &str| error[part].as_str().unwrap();
        assert!(told("message").contains(message), "{line}: {error}");
        assert!(told("help").contains(help), "{line}: {error}");
    }
    // What comes after `--` is no option, and help is a result.
    let ended = home.tidemill(&["check", "--", "--json"]).expect(3, &[]);
    assert!(!ended.out.contains('{'), "{ended:?}");
    let ended = home.tidemill(&["run", "--json", "--help"]).expect(0, &[]);
    assert!(ended.out.contains("Usage: tidemill run"), "{ended:?}");
}

/// What was found in a file drove the terminal, and a first line too long was told as none.
#[test]
fn files_of_all_kinds_that_are_no_market_are_told_in_words_that_help() {
    let home = Home::empty();
    fs::create_dir(home.path("empty")).unwrap();
    let tick = crate::support::tick(0);
    let files: [(&str, Vec<u8>); 5] = [
        ("red.jsonl", b"{\"a\":\"\x1b[31m\0\"}\n".to_vec()),
        ("zeros.zip", vec![0; 4096]),
        ("zeros.csv", vec![0; 4096]),
        ("long.csv", vec![b'x'; 300_000]),
        ("good.jsonl", tick.into_bytes()),
    ];
    for (name, content) in files {
        home.write(name, content);
    }
    let before = listing(&home);
    let into = |more: &[&str]| {
        let args = [&["import", "--broker", "file://new"], more].concat();
        let ended = home.tidemill(&args);
        assert_eq!(listing(&home), before, "{more:?}");
        ended
    };
    let found = "red.jsonl:1:6: expected a JSON object";
    let ended = into(&["red.jsonl"]).expect(1, &[found, "`\"\\u{1b}[31m\\u{0}\"}`"]);
    assert!(!ended.err.contains(['\u{1b}', '\0']), "{}", ended.err);
    into(&["zeros.zip"]).expect(
        6,
        &["zeros.zip is not a readable zip archive: it is cut short"],
    );
    into(&["zeros.csv"]).expect(2, &["zeros.csv: neither its path", "give --format"]);
    into(&["long.csv"]).expect(
        1,
        &["long.csv:1:262145: expected a line of at most 262144 bytes"],
    );
    into(&["empty"]).expect(
        2,
        &["no files to import in empty", "help: of a directory every"],
    );
    let same = ["good.jsonl", "--topic", "market-data-suspect"];
    into(&same).expect(2, &["`market-data-suspect` is that of what is suspicious"]);
    let log = ["good.jsonl", "--topic", "import-log"];
    into(&log).expect(2, &["`import-log` is that of the log of imports"]);
}

#[test]
fn what_is_not_there_is_told_with_what_is() {
    let home = Home::new();
    home.run_well();
    fs::create_dir(home.path("empty")).unwrap();
    let no_whole = "must be a whole number from 1 to 4096";
    let cases: [(&str, i32, &[&str]); 10] = [
        ("check missing.toml", 3, &[]),
        ("run empty", 3, &["at empty\n  help: name the files in it"]),
        (
            "run missing.toml",
            3,
            &["at missing.toml\n  help: name a file that is there"],
        ),
        (
            "read ticks --partition 7",
            2,
            &["no partition 7", "help: its partitions are 0 to 0"],
        ),
        (
            "read ticks --limit x",
            2,
            &["'--limit <COUNT>': must be a whole number of at least 0"],
        ),
        (
            "topics create t --partitions 0",
            2,
            &["'--partitions <COUNT>'", no_whole],
        ),
        (
            "import x --broker file://d --price-scale x",
            2,
            &["must be a whole number from 0 to 18"],
        ),
        (
            "topics list --broker file://empty",
            3,
            &["no log in `empty`: the directory is empty", "help:"],
        ),
        (
            "state get p.toml once --task 9-9",
            2,
            &["no task `9-9`\n  help: the tasks are 0-0"],
        ),
        (
            "state get p.toml other",
            2,
            &["no table `other`\n  help: the tables are bar, once"],
        ),
    ];
    for (line, code, said) in cases {
        let args: Vec<&str> = line.split(' ').collect();
        home.tidemill(&args).expect(code, said);
    }
}

fn listing(home: &Home) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(home.path(""))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[cfg(target_os = "linux")]
#[test]
fn an_argument_that_is_no_text_is_told_in_words_of_ours_and_a_file_may_be_called_so() {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt as _;

    let home = Home::empty();
    let name = OsStr::from_bytes(b"p\xff.toml");
    let read = [OsStr::new("read"), name];
    home.tidemill(&read).expect(
        2,
        &["error: not UTF-8: `p\u{fffd}.toml`\n  help: only names of files"],
    );
    fs::copy(home.path("p.toml"), home.path(name)).unwrap();
    home.tidemill(&[OsStr::new("check"), name]).expect(0, &[]);
}

/// The log took what it found in its directory for damage, once it was opened the next time.
#[test]
fn state_in_the_directory_of_a_log_is_refused_before_anything_is_made() {
    let home = Home::empty();
    let before = listing(&home);
    let said = "the state's directory `data/state` lies in that of broker `main`";
    home.tidemill(&["run", "p.toml", "--state-dir", "data/state"])
        .expect(2, &[said, "help: give the state a directory of its own"]);
    home.change_pipeline(&[("commit", "state_dir = \"data/state\"\ncommit")]);
    let checked = home.tidemill(&["check", "p.toml"]).expect(1, &[]);
    for told in [
        "error[E0154]: pipeline.state_dir: ",
        said,
        "at p.toml:6:13\n",
        "^^^^^^^^^^",
        "help: give the log and the state a directory each",
    ] {
        assert!(checked.out.contains(told), "{}", checked.out);
    }
    home.run().expect(1, &["error[E0154]"]);
    assert_eq!(listing(&home), before);
}

/// Threads of the process that are called so.
#[cfg(target_os = "linux")]
fn threads_called(name: &str, of: u32) -> usize {
    let tasks = fs::read_dir(format!("/proc/{of}/task")).unwrap();
    let names = tasks.map(|task| fs::read_to_string(task.unwrap().path().join("comm")));
    // One that ends meanwhile has no name any more.
    names.flatten().filter(|found| found.trim() == name).count()
}

#[cfg(target_os = "linux")]
#[test]
fn a_run_has_as_many_threads_as_it_is_told_to() {
    for (threads, file) in [(24, "threads = 1"), (1, "threads = 24")] {
        let home = Home::empty();
        home.change_pipeline(&[("commit", &format!("{file}\ncommit"))]);
        home.make_topic("bars");
        home.add_ticks(0..30);
        let told = threads.to_string();
        let mut child = home
            .command(&["run", "p.toml", "--threads", &told])
            .spawn()
            .unwrap();
        home.wait_for_records("bars", 1);
        let found = threads_called("pipeline-worker", child.id());
        // Beside the workers there may be a few that wait for files.
        assert!(
            (threads..threads + 12).contains(&found) || threads == 1 && found < 12,
            "{found}"
        );
        crate::support::signal(&child, "INT");
        assert_eq!(child.wait().unwrap().code(), Some(0));
    }
}

/// Help and version ended with 0 where everything else ends with 3.
#[cfg(target_os = "linux")]
#[test]
fn help_that_cannot_be_written_is_told() {
    let home = Home::empty();
    for args in [
        &["help"][..],
        &["--help"],
        &["--version"],
        &["run", "--help"],
    ] {
        let full = fs::File::options().write(true).open("/dev/full").unwrap();
        let ended = home.command(args).stdout(full).output().unwrap();
        let said = ["cannot write the output", "No space left"];
        crate::support::Ended::from(ended).expect(3, &said);
    }
}
