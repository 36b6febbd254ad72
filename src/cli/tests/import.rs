//! An import that is asked to stop.

use std::path::PathBuf;
use std::task::Poll;

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

/// Asks so many times from the start or, with `log`, from the moment it is there.
async fn interrupted(times: usize, log: Option<PathBuf>, args: &[&str]) -> Ran {
    let begun = futures::stream::poll_fn(move |context| {
        if log.as_ref().is_none_or(|log| log.exists()) {
            return Poll::Ready(None::<()>);
        }
        context.waker().wake_by_ref();
        Poll::Pending
    });
    let signals = begun.chain(futures::stream::iter(vec![(); times]));
    let signals = signals.chain(futures::stream::pending()).boxed();
    run_until(signals, Terminals::default(), "", args).await
}

#[tokio::test]
async fn an_import_leaves_when_asked_and_at_once_when_asked_twice() {
    let dir = tempfile::tempdir().unwrap();
    let args = import(dir.path());
    let args: Vec<&str> = args.iter().map(String::as_str).collect();

    // While files are checked nothing is made.
    let log = dir.path().join("log");
    let ran = interrupted(1, None, &args).await;
    assert_eq!(ran.exit, Exit::Findings, "{}", ran.errors);
    let said = "stopped before anything was written";
    assert!(ran.errors.contains(said), "{}", ran.errors);
    assert!(!log.exists());

    let ran = interrupted(1, Some(log.clone()), &args).await;
    assert_eq!(ran.exit, Exit::Findings, "{}", ran.errors);
    for said in [
        "stopping: committing what is in (again to leave at once)",
        "run the same command again to go on",
    ] {
        assert!(ran.errors.contains(said), "{}", ran.errors);
    }
    std::fs::remove_dir_all(&log).unwrap();
    let ran = interrupted(2, Some(log), &args).await;
    assert_eq!(ran.exit, Exit::Interrupted, "{}", ran.errors);

    // The log is free again, and everything comes in once.
    let ran = piped(&args).await;
    assert_eq!(ran.exit, Exit::Ok, "{}", ran.errors);
    let report: serde_json::Value = serde_json::from_str(&ran.output).unwrap();
    assert_eq!(report["written"], LINES);
}
