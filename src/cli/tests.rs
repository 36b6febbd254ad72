//! The command driven without a process.

use std::path::Path;

use futures::StreamExt as _;
use tidemill_broker::{Broker as _, BrokerExt as _, NewRecord, Topic, TopicSpec};
use tidemill_broker_file::{FileBroker, FileOptions};

use super::*;

mod import;
mod reset;
mod state;

const BARS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/pipelines/bars.toml");

/// What a command printed, and how it ended.
struct Ran {
    exit: Exit,
    output: String,
    errors: String,
}

async fn run_on(terminals: Terminals, answer: &str, args: &[&str]) -> Ran {
    let signals = futures::stream::pending().boxed();
    run_until(signals, terminals, answer, args).await
}

async fn run_until(signals: Signals, terminals: Terminals, answer: &str, args: &[&str]) -> Ran {
    let (mut output, mut errors) = (Vec::new(), Vec::new());
    let mut console = Console {
        input: &mut answer.as_bytes(),
        output: &mut output,
        errors: &mut errors,
        terminals,
    };
    let args = ["tidemill"].iter().chain(args).map(OsString::from);
    let exit = run(args, &mut console, &|_| None, signals).await;
    Ran {
        exit,
        output: String::from_utf8(output).unwrap(),
        errors: String::from_utf8(errors).unwrap(),
    }
}

async fn piped(args: &[&str]) -> Ran {
    run_on(Terminals::default(), "", args).await
}

fn url(dir: &Path) -> String {
    format!("file://{}", dir.display())
}

/// A log with the topic `ticks`: JSON, text, bytes and a tombstone.
async fn with_ticks(dir: &Path) {
    let broker = FileBroker::open(dir, FileOptions::default()).await.unwrap();
    let topic: Topic = "ticks".parse().unwrap();
    let spec = TopicSpec::new(topic.clone(), 1.try_into().unwrap());
    broker.create_topic(&spec).await.unwrap();
    let at = tidemill_broker::Timestamp(1_500_000);
    for record in [
        NewRecord::new(topic.clone(), "{\"price\":\n1.50}").key("BTC"),
        NewRecord::new(topic.clone(), "plain\u{1b}[31m"),
        NewRecord::new(topic.clone(), vec![0xff, 0x00]).key(vec![0xfe]),
        NewRecord::new(topic, "").key("BTC").tombstone(),
    ] {
        broker.send(record.timestamp(at)).await.unwrap();
    }
    broker.close().await.unwrap();
}

#[tokio::test]
async fn check_tells_everything_also_through_a_pipe_and_ends_with_findings() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("wrong.toml");
    std::fs::write(&file, "[pipeline]\nformat = 1\nname = \"\"\n").unwrap();
    let file = file.to_str().unwrap();
    let ran = piped(&["check", file]).await;
    assert_eq!(ran.exit, Exit::Findings);
    for part in [
        "error[E0151]: pipeline: the pipeline has no sink\n",
        &format!("  at {file}:1:1\n"),
        "  help: add `[sinks.NAME]` with `from` and `topic`\n",
        "error[E0112]: pipeline.name: must not be empty\n",
        &format!("  at {file}:3:8\n  |\n3 | name = \"\"\n  |        ^^\n"),
        "\n2 errors; `tidemill explain E0151` tells more\n",
    ] {
        assert!(ran.output.contains(part), "{part}\n{}", ran.output);
    }
    assert!(!ran.output.contains('\u{1b}'), "no colours in a pipe");
    // A verb that needs the file says the same beside its results.
    let run = piped(&["run", file]).await;
    assert_eq!((run.exit, run.output.as_str()), (Exit::Findings, ""));
    assert_eq!(run.errors, ran.output);
    let json = piped(&["check", "--json", file]).await;
    let document: serde_json::Value = serde_json::from_str(&json.output).unwrap();
    assert_eq!(document["ok"], false);
    assert_eq!(document["problems"][1]["code"], "E0112");
}

#[tokio::test]
async fn for_a_machine_an_error_is_json_too() {
    let dir = tempfile::tempdir().unwrap();
    let missing = dir.path().join("missing.toml");
    let missing = missing.to_str().unwrap();
    let ran = piped(&["run", "--json", missing]).await;
    assert_eq!((ran.exit, ran.output.as_str()), (Exit::Io, ""));
    let document: serde_json::Value = serde_json::from_str(&ran.errors).unwrap();
    assert_eq!(document["error"]["exit"], 3);
    assert_eq!(document["error"]["problems"][0]["code"], "E0100");
    let none = url(&dir.path().join("none"));
    let ran = piped(&["topics", "list", "--json", "--broker", &none]).await;
    let document: serde_json::Value = serde_json::from_str(&ran.errors).unwrap();
    let message = document["error"]["message"].as_str().unwrap();
    assert!(message.starts_with("there is no directory"), "{message}");
    assert_eq!(piped(&["check", missing]).await.exit, Exit::Io);
}

#[tokio::test]
async fn the_shipped_pipeline_is_right_and_explains_itself() {
    assert_eq!(piped(&["check", "--deny", BARS]).await.exit, Exit::Ok);
    let ran = piped(&["explain", BARS]).await;
    assert_eq!(ran.exit, Exit::Ok);
    for part in [
        "pipeline bars, version 1: exactly_once",
        "fields read: pair, currentPrice, timestamp, quantity; of records of at most 1MiB",
        "  minute from market-data-updates: tumbling_window\n    key pair, size 1m, lateness 0s, late dead_letter, state minute\n",
        "vwap = vwap(currentPrice, quantity)",
        "dead letters to topic bars.dead-letter on main (file://data?fsync=100ms)",
        "sink bars-1s                exactly_once  written in the transaction on `main`",
    ] {
        assert!(
            ran.output.contains(part),
            "{part} is not in\n{}",
            ran.output
        );
    }
    let json = piped(&["explain", "--json", BARS]).await;
    let document: serde_json::Value = serde_json::from_str(&json.output).unwrap();
    assert_eq!(document["guarantee"], "exactly_once");
}

#[tokio::test]
async fn a_pipeline_is_explained_as_a_picture() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("p.toml");
    let text = r#"
[pipeline]
format = 1
name = "p"
[brokers.main]
url = "mem://"
[events.Trade]
fields = { pair = "text", price = "decimal(2)", at = "time" }
time = "at"
[topics.calm]
event = "Trade"
key = "pair"
[topics.wild]
event = "Trade"
key = "pair"
[topics.bars]
[topics.cheap]
[stages.both]
from = ["calm", "wild"]
op = "merge"
[stages.split]
from = "both"
op = "route"
field = "pair"
cases = { cheap = "A", dear = "B" }
otherwise = { drop = "no use for it" }
[stages.minute]
from = "split.dear"
op = "tumbling_window"
size = "1m"
aggregate = { close = "last(price)" }
[sinks.bars]
from = "minute"
topic = "bars"
[sinks.cheap]
from = "split.cheap"
topic = "cheap"
"#;
    std::fs::write(&file, text).unwrap();
    let ran = piped(&["explain", file.to_str().unwrap()]).await;
    assert_eq!(ran.exit, Exit::Ok, "{}", ran.errors);
    let picture = "
flows
  calm
  └─ both (merge)
     └─ split (route)
        ├─ dear: minute (tumbling_window)
        │  └─ => bars, topic bars
        └─ cheap: => cheap, topic cheap
  wild
  └─ both (merge), as above
";
    assert!(ran.output.contains(picture), "{}", ran.output);
    let reason = "    drops because: no use for it\n";
    assert!(ran.output.contains(reason), "{}", ran.output);
}

#[tokio::test]
async fn a_code_is_explained_and_an_unknown_one_is_wrong_usage() {
    let ran = piped(&["explain", "e0147"]).await;
    assert!(
        ran.output.starts_with("E0147: keyed state"),
        "{}",
        ran.output
    );
    assert!(ran.output.lines().all(|line| line.len() <= 80));
    let ran = piped(&["explain", "E9999"]).await;
    assert_eq!(ran.exit, Exit::Usage);
    assert!(ran.errors.contains("there is no code `E9999`"));
}

#[tokio::test]
async fn what_may_stand_in_a_file_is_explained() {
    let ran = piped(&["explain", "dedupe"]).await;
    assert_eq!(ran.exit, Exit::Ok);
    for part in ["op = \"dedupe\"", "  window: a duration; required\n"] {
        assert!(ran.output.contains(part), "{part}\n{}", ran.output);
    }
    let all = piped(&["explain", "sections"]).await;
    assert!(all.output.contains(&ran.output), "{}", all.output);
    let ran = piped(&["explain", "dedup"]).await;
    assert_eq!(ran.exit, Exit::Usage);
    assert!(
        ran.errors.contains("did you mean `dedupe`?"),
        "{}",
        ran.errors
    );
}

#[tokio::test]
async fn help_is_a_result_and_wrong_usage_an_error() {
    let ran = piped(&["--help"]).await;
    assert_eq!((ran.exit, ran.errors.as_str()), (Exit::Ok, ""));
    assert!(ran.output.contains("Examples:"));
    let ran = piped(&["chekc"]).await;
    assert_eq!((ran.exit, ran.output.as_str()), (Exit::Usage, ""));
    assert!(ran.errors.contains("check"), "{}", ran.errors);
    assert!(!ran.errors.contains('\u{1b}'), "no colours in a pipe");
}

#[test]
fn the_definitions_of_all_verbs_are_sound_and_help_names_the_exit_codes_there_are() {
    Cli::command().debug_assert();
    let (_, listed) = AFTER_HELP.split_once("Exit codes: ").unwrap();
    let words = listed.split_whitespace();
    let listed: Vec<u8> = words.filter_map(|word| word.parse().ok()).collect();
    assert_eq!(listed, Exit::ALL.map(|(exit, _)| exit as u8));
}

#[test]
fn every_option_is_explained_and_tells_its_default() {
    fn look(command: &clap::Command, found: &mut Vec<String>) {
        for arg in command.get_arguments() {
            let help = arg.get_help().map(ToString::to_string).unwrap_or_default();
            let is_option = arg.get_long().is_some() && arg.get_action().takes_values();
            let tells = arg.is_required_set()
                || !arg.get_default_values().is_empty()
                || help.contains("[default: ");
            let is_one_of = command.get_groups().any(|group| {
                group.is_required_set() && group.get_args().any(|id| id == arg.get_id())
            });
            if help.is_empty() || is_option && !tells && !is_one_of {
                found.push(format!("{} {}: {help:?}", command.get_name(), arg.get_id()));
            }
        }
        for verb in command.get_subcommands() {
            look(verb, found);
        }
    }
    let mut found = Vec::new();
    let mut command = Cli::command().disable_help_subcommand(true);
    command.build();
    look(&command, &mut found);
    assert!(found.is_empty(), "{found:#?}");
}

#[tokio::test]
async fn every_shell_gets_completions() {
    for shell in ["bash", "zsh", "fish", "powershell", "elvish"] {
        let ran = piped(&["completions", shell]).await;
        assert!(ran.output.contains("explain"), "{shell}");
    }
}

#[tokio::test]
async fn records_are_read_as_json_lines_that_lose_nothing() {
    let dir = tempfile::tempdir().unwrap();
    with_ticks(dir.path()).await;
    let ran = piped(&["read", "ticks", "--broker", &url(dir.path())]).await;
    let start = |offset| {
        format!(
            "{{\"topic\":\"ticks\",\"partition\":0,\"offset\":{offset},\
             \"timestamp\":\"1970-01-01T00:00:01.500000Z\""
        )
    };
    let expected = [
        start(0) + ",\"key\":\"BTC\",\"value\":{\"price\": 1.50}}",
        start(1) + ",\"valueText\":\"plain\\u001b[31m\"}",
        start(2) + ",\"keyHex\":\"fe\",\"valueHex\":\"ff00\"}",
        start(3) + ",\"key\":\"BTC\"}",
    ];
    assert_eq!(ran.errors, "");
    assert_eq!(ran.output.lines().collect::<Vec<_>>(), expected);
}

#[tokio::test]
async fn on_a_terminal_records_cannot_drive_it() {
    let dir = tempfile::tempdir().unwrap();
    with_ticks(dir.path()).await;
    let terminals = Terminals {
        output: true,
        ..Terminals::default()
    };
    let url = url(dir.path());
    let args = [
        "read", "ticks", "--from", "1", "--limit", "1", "--broker", &url,
    ];
    let ran = run_on(terminals, "", &args).await;
    assert!(ran.output.contains("plain\\u{1b}[31m"), "{}", ran.output);
    assert!(!ran.output.contains("\u{1b}[31m"));
}

#[tokio::test]
async fn on_a_terminal_events_are_a_table_with_their_numbers_as_written() {
    let dir = tempfile::tempdir().unwrap();
    let broker = FileBroker::open(dir.path(), FileOptions::default())
        .await
        .unwrap();
    let topic: Topic = "bars".parse().unwrap();
    let spec = TopicSpec::new(topic.clone(), 1.try_into().unwrap());
    broker.create_topic(&spec).await.unwrap();
    for value in [
        r#"{"eventType":"Bar","pair":"BTC-USD","close":1.50,"open":10000.00000001}"#,
        r#"{"eventType":"Bar","pair":"X","close":12345.5,"open":-1}"#,
        "not an event",
    ] {
        let at = tidemill_broker::Timestamp(0);
        let record = NewRecord::new(topic.clone(), value).timestamp(at);
        broker.send(record).await.unwrap();
    }
    broker.close().await.unwrap();
    let terminals = Terminals {
        output: true,
        ..Terminals::default()
    };
    let url = url(dir.path());
    let args = ["read", "bars", "--broker", &url];
    let ran = run_on(terminals, "", &args).await;
    let plain = ran.output.replace("\u{1b}[1m", "").replace("\u{1b}[0m", "");
    let plain = plain.replace("\u{1b}[2m", "");
    assert_eq!(
        plain,
        " at  time                         pair       close            open
0@0  1970-01-01T00:00:00.000000Z  BTC-USD     1.50  10000.00000001
0@1  1970-01-01T00:00:00.000000Z  X        12345.5              -1
         0@2  1970-01-01T00:00:00.000000Z  -             not an event
"
    );
}

#[tokio::test]
async fn a_topic_is_created_described_and_deleted_once_confirmed() {
    let dir = tempfile::tempdir().unwrap();
    let url = url(dir.path());
    let broker = ["--broker", &url];
    let with = |args: &[&'static str]| [args, &broker].concat().join("\u{0}");
    let split = |args: &str| args.split('\u{0}').map(str::to_owned).collect::<Vec<_>>();
    let run = |args: &[&'static str], answer: &'static str| {
        let args = split(&with(args));
        async move {
            let args: Vec<&str> = args.iter().map(String::as_str).collect();
            let terminals = Terminals {
                input: !answer.is_empty(),
                ..Terminals::default()
            };
            run_on(terminals, answer, &args).await
        }
    };
    let ran = run(
        &[
            "topics",
            "create",
            "bars",
            "--partitions",
            "3",
            "--retention-age",
            "7d",
        ],
        "",
    )
    .await;
    assert_eq!((ran.exit, ran.errors.as_str()), (Exit::Ok, ""));
    let ran = run(&["topics", "create", "bars"], "").await;
    assert_eq!(ran.exit, Exit::Usage, "it exists");
    let ran = run(&["topics", "list"], "").await;
    assert!(
        ran.output.contains("deletes older than 7d"),
        "{}",
        ran.output
    );
    let ran = run(&["topics", "describe", "bars", "--json"], "").await;
    let document: serde_json::Value = serde_json::from_str(&ran.output).unwrap();
    assert_eq!(document["partitions"].as_array().unwrap().len(), 3);
    for answer in ["", "yes\n"] {
        let ran = run(&["topics", "delete", "bars"], answer).await;
        assert_eq!(ran.exit, Exit::Usage, "not confirmed: {}", ran.output);
    }
    let ran = run(&["topics", "delete", "bars"], "bars\n").await;
    assert_eq!(
        (ran.exit, ran.output.as_str()),
        (Exit::Ok, "deleted bars\n")
    );
    let ran = run(&["topics", "describe", "bars"], "").await;
    assert_eq!(ran.exit, Exit::Usage);
}

#[tokio::test]
async fn a_misspelt_directory_is_told_and_not_made() {
    let dir = tempfile::tempdir().unwrap();
    let missing = dir.path().join("missing");
    let url = url(&missing);
    for args in [
        &["topics", "list", "--broker", &url][..],
        &["topics", "delete", "a", "--yes", "--broker", &url],
        &["read", "a", "--broker", &url],
        &["offsets", "show", "--group", "g", "--broker", &url],
    ] {
        let ran = piped(args).await;
        assert_eq!(ran.exit, Exit::Io, "{args:?}");
        assert!(
            ran.errors.contains("there is no directory"),
            "{}",
            ran.errors
        );
    }
    assert!(!missing.exists());
}

#[tokio::test]
async fn a_topic_or_an_offset_that_is_not_there_is_wrong_usage_and_told_with_what_is() {
    let dir = tempfile::tempdir().unwrap();
    with_ticks(dir.path()).await;
    let url = url(dir.path());
    for verb in [&["read"][..], &["topics", "describe"]] {
        for (topic, help) in [
            ("tikcs", "help: did you mean `ticks`?"),
            ("orders", "help: `tidemill topics list` lists"),
        ] {
            let ran = piped(&[verb, &[topic, "--broker", &url]].concat()).await;
            assert_eq!(ran.exit, Exit::Usage, "{}", ran.errors);
            assert!(ran.errors.contains(help), "{}", ran.errors);
        }
    }
    let ran = piped(&["read", "ticks", "--from", "99", "--broker", &url]).await;
    assert_eq!(ran.exit, Exit::Usage, "{}", ran.errors);
    let said = "ticks/0 has no offset 99: it goes from 0 to 4";
    assert!(ran.errors.contains(said), "{}", ran.errors);
}

#[tokio::test]
async fn what_is_no_directory_is_no_log() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    std::fs::write(&file, "").unwrap();
    let url = url(&file);
    for args in [&["topics", "list"][..], &["topics", "create", "ticks"]] {
        let ran = piped(&[args, &["--broker", &url]].concat()).await;
        assert_eq!(ran.exit, Exit::Io, "{}", ran.errors);
        assert!(ran.errors.contains("is not a directory"), "{}", ran.errors);
    }
}

#[tokio::test]
async fn a_log_is_read_while_another_writes_and_not_changed() {
    let dir = tempfile::tempdir().unwrap();
    with_ticks(dir.path()).await;
    let _writer = FileBroker::open(dir.path(), FileOptions::default())
        .await
        .unwrap();
    let url = url(dir.path());
    let ran = piped(&["topics", "list", "--broker", &url]).await;
    assert_eq!(ran.exit, Exit::Ok, "{}", ran.errors);
    let ran = piped(&["topics", "delete", "ticks", "--yes", "--broker", &url]).await;
    assert_eq!(ran.exit, Exit::Fenced, "{}", ran.errors);
    assert!(ran.errors.contains("in use by process"), "{}", ran.errors);
}

#[tokio::test]
async fn offsets_show_what_a_group_committed_and_what_is_left() {
    let dir = tempfile::tempdir().unwrap();
    with_ticks(dir.path()).await;
    let broker = FileBroker::open(dir.path(), FileOptions::default())
        .await
        .unwrap();
    let at = tidemill_broker::TopicPartition::new("ticks".parse().unwrap(), 0);
    let mut options = tidemill_broker::ConsumerOptions::partitions(vec![(
        at.clone(),
        tidemill_broker::Start::Earliest,
    )]);
    options.group = Some("g".parse().unwrap());
    let mut consumer = broker.consumer(options).await.unwrap();
    consumer
        .commit(None, &[(at, tidemill_broker::Offset(1))])
        .await
        .unwrap();
    broker.close().await.unwrap();
    let url = url(dir.path());
    let ran = piped(&[
        "offsets", "show", "--group", "g", "--broker", &url, "--json",
    ])
    .await;
    let document: serde_json::Value = serde_json::from_str(&ran.output).unwrap();
    assert_eq!(document["partitions"][0]["committed"], 1);
    assert_eq!(document["partitions"][0]["lag"], 3);
    let ran = piped(&["offsets", "show", "--group", "other", "--broker", &url]).await;
    assert_eq!(ran.output, "group other has committed nothing\n");
    assert_eq!(
        piped(&["offsets", "show", "--broker", &url]).await.exit,
        Exit::Usage
    );
}
