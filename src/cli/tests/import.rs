//! An import that is asked to stop.

use super::*;

const LINES: u64 = 50;

/// What the user types to import a file of ticks into a log.
fn import(dir: &Path) -> Vec<String> {
    let path = dir.join("ticks.jsonl");
    let line = |number| {
        format!(
            r#"{{"eventType":"MarketDataUpdate","timestamp":"2024-03-11T00:00:{:02}Z","version":1,"pair":"A-B","currentPrice":1.25,"quantity":1,"sequence":{number}}}"#,
            number % 60
        )
    };
    let lines: Vec<String> = (0..LINES).map(line).collect();
    std::fs::write(&path, lines.join("\n")).unwrap();
    let url = url(&dir.join("log"));
    let path = path.display().to_string();
    [
        "import", &path, "--broker", &url, "--topic", "ticks", "--json",
    ]
    .map(str::to_owned)
    .into()
}

async fn interrupted(times: usize, args: &[&str]) -> Ran {
    let signals = futures::stream::iter(vec![(); times]);
    let signals = signals.chain(futures::stream::pending()).boxed();
    run_until(signals, Terminals::default(), "", args).await
}

#[tokio::test]
async fn an_import_leaves_when_asked_and_at_once_when_asked_twice() {
    let dir = tempfile::tempdir().unwrap();
    let args = import(dir.path());
    let args: Vec<&str> = args.iter().map(String::as_str).collect();

    let ran = interrupted(1, &args).await;
    assert_eq!(ran.exit, Exit::Findings, "{}", ran.errors);
    for said in [
        "stopping: committing what is in (again to leave at once)",
        "stopped before anything was written",
        "run the same command again to go on",
    ] {
        assert!(ran.errors.contains(said), "{}", ran.errors);
    }
    let ran = interrupted(2, &args).await;
    assert_eq!(ran.exit, Exit::Interrupted, "{}", ran.errors);

    // The log is free again, and everything comes in once.
    let ran = piped(&args).await;
    assert_eq!(ran.exit, Exit::Ok, "{}", ran.errors);
    let report: serde_json::Value = serde_json::from_str(&ran.output).unwrap();
    assert_eq!(report["written"], LINES);
}
