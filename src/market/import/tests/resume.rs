//! Imports that are broken off, and imports of what is in already.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tidemill_broker::{Broker, SystemClock};
use tidemill_broker_file::{FileBroker, FileOptions};
use tidemill_broker_memory::{Fate, MemoryBroker, MemoryOptions, Persona};

use super::super::writer::CHUNK_ITEMS;
use super::super::{Error, OnImported, Options, Phase, Progress, run};
use super::fixture::{Fixture, Read, read, topic};

/// Several chunks of ticks of two symbols.
fn ticks(fixture: &Fixture) -> Options {
    let lines = |count: usize, step: usize| -> String {
        (0..count)
            .map(|index| {
                let suspicious = u8::from(index % 97 == 0);
                format!(
                    "{},{},{},P,0,{suspicious}\n",
                    index * step,
                    10_000 + index,
                    index % 50
                )
            })
            .collect()
    };
    let one = fixture.zip("equity/usa/tick/one/20131007_trade.zip", lines(9_000, 3));
    let two = fixture.zip("equity/usa/tick/two/20131007_trade.zip", lines(7_000, 4));
    fixture.options(&[&one, &two])
}

async fn content(fixture: &Fixture) -> (Vec<Read>, Vec<Read>) {
    (
        fixture.read("market-data-updates").await,
        fixture.read("market-data-suspect").await,
    )
}

#[tokio::test]
async fn an_import_broken_off_after_any_chunk_goes_on_to_the_same_bytes() {
    let whole = Fixture::new();
    let options = ticks(&whole);
    let report = whole.run(&options).await.unwrap();
    assert_eq!(report.written, 16_000);
    let expected = content(&whole).await;

    let mut polls = 0;
    loop {
        let fixture = Fixture {
            broker: Arc::new(MemoryBroker::default()),
            ..Fixture::new()
        };
        polls += 1;
        let finished = {
            let mut ignored = |_| {};
            let mut running = Box::pin(run(&options, fixture.broker.clone(), &mut ignored));
            // Dropped wherever it waits: the same as if the process were killed there.
            let mut finished = false;
            for _ in 0..polls {
                finished = futures::poll!(&mut running).is_ready();
                if finished {
                    break;
                }
            }
            finished
        };
        let report = fixture.run(&options).await.unwrap();
        assert_eq!(report.counts.records + report.counts.suspicious, 16_000);
        assert_eq!(content(&fixture).await, expected, "broken off at {polls}");
        if finished {
            assert_eq!(report.written, 0);
            break;
        }
    }
    assert!(polls > 4, "{polls}");
}

#[tokio::test]
async fn on_the_log_on_disk_it_goes_on_too() {
    let whole = Fixture::new();
    let options = ticks(&whole);
    whole.run(&options).await.unwrap();
    let expected = content(&whole).await;

    let directory = whole.directory.path().join("log");
    for polls in [3, 6, usize::MAX] {
        let broker = FileBroker::open(&directory, FileOptions::default())
            .await
            .unwrap();
        let mut ignored = |_| {};
        let mut running = Box::pin(run(&options, Arc::new(broker.clone()), &mut ignored));
        for _ in 0..polls {
            if futures::poll!(&mut running).is_ready() {
                break;
            }
            tokio::task::yield_now().await;
        }
        drop(running);
        broker.close().await.unwrap();
    }
    let broker = Arc::new(
        FileBroker::open(&directory, FileOptions::default())
            .await
            .unwrap(),
    );
    assert_eq!(
        run(&options, broker.clone(), &mut |_| {})
            .await
            .unwrap()
            .written,
        0
    );
    let found = (
        read(broker.as_ref(), "market-data-updates").await,
        read(broker.as_ref(), "market-data-suspect").await,
    );
    assert!(found == expected);
}

#[tokio::test(start_paused = true)]
async fn a_commit_of_unknown_outcome_is_settled_by_the_log() {
    let whole = Fixture::new();
    let options = ticks(&whole);
    whole.run(&options).await.unwrap();
    let expected = content(&whole).await;
    for fault in 0..5 {
        let fixture = Fixture::new();
        let faults = fixture.broker.faults();
        match fault {
            0 => faults.lose_commit_reply(),
            1 => faults.forget_commit(),
            2 => faults.hang_commit(Fate::Commits, None),
            3 => faults.hang_commit(Fate::Aborts, None),
            _ => {
                faults.lose_commit_reply();
                faults.forget_commit();
                faults.lose_commit_reply();
            }
        }
        fixture.run(&options).await.unwrap();
        let without_offsets = |content: (Vec<Read>, Vec<Read>)| {
            let strip = |read: Vec<Read>| -> Vec<Read> {
                read.into_iter()
                    .map(|read| Read { offset: 0, ..read })
                    .collect()
            };
            (strip(content.0), strip(content.1))
        };
        assert_eq!(
            without_offsets(content(&fixture).await),
            without_offsets(expected.clone()),
            "fault {fault}"
        );
    }
}

#[tokio::test]
async fn what_is_in_already_is_refused_or_left_out() {
    let fixture = Fixture::new();
    let line = "1000,10000,1,P,0,0\n";
    let one = fixture.zip("equity/usa/tick/one/20131007_trade.zip", line);
    let two = fixture.zip("equity/usa/tick/two/20131007_trade.zip", line);
    let unpacked = fixture.file("equity/usa/tick/one/20131007_trade.csv", line);
    let first = fixture.options(&[&one]);
    fixture.run(&first).await.unwrap();
    let again = fixture.run(&first).await.unwrap();
    assert_eq!((again.files, again.written), (1, 0));

    let mut both = fixture.options(&[&one, &two]);
    let error = fixture.run(&both).await.unwrap_err();
    assert!(matches!(error, Error::AlreadyImported { .. }), "{error}");
    both.on_imported = OnImported::Skip;
    let report = fixture.run(&both).await.unwrap();
    assert_eq!(
        (report.files, report.skipped_files, report.written),
        (1, 1, 1)
    );
    let report = fixture.run(&both).await.unwrap();
    // Without the first file this is the import just made.
    assert_eq!(
        (report.files, report.skipped_files, report.written),
        (1, 1, 0)
    );

    // Unpacked it is the same file, and twice in one import it is refused.
    let error = fixture
        .run(&fixture.options(&[&one, &unpacked]))
        .await
        .unwrap_err();
    assert!(matches!(error, Error::Twice { .. }), "{error}");
    assert_eq!(fixture.updates().await.len(), 2);

    // Into another topic, or one made anew under the name, it goes.
    let mut elsewhere = fixture.options(&[&one]);
    elsewhere.topic = topic("elsewhere");
    assert_eq!(fixture.run(&elsewhere).await.unwrap().written, 1);
    fixture
        .broker
        .delete_topic(&topic("market-data-updates"))
        .await
        .unwrap();
    assert_eq!(fixture.run(&first).await.unwrap().written, 1);
}

#[tokio::test]
async fn files_of_an_unfinished_import_are_refused_in_another() {
    let fixture = Fixture::new();
    let options = ticks(&fixture);
    {
        let told = AtomicUsize::new(0);
        let mut count = |_| {
            told.fetch_add(1, Ordering::Relaxed);
        };
        let mut running = Box::pin(run(&options, fixture.broker.clone(), &mut count));
        while fixture.updates().await.is_empty() {
            assert!(futures::poll!(&mut running).is_pending());
        }
    }
    let other = fixture.options(&[&options.files[1]]);
    let error = fixture.run(&other).await.unwrap_err();
    assert!(matches!(error, Error::Unfinished { .. }), "{error}");
    assert!(
        error.to_string().contains("one/20131007_trade.zip"),
        "{error}"
    );
    fixture.run(&options).await.unwrap();
    assert_eq!(
        content(&fixture).await.0.len() + content(&fixture).await.1.len(),
        16_000
    );
}

#[tokio::test]
async fn without_transactions_and_headers_the_report_says_what_it_cannot_promise() {
    let options = MemoryOptions::new(Persona::Fluvio, Arc::new(SystemClock), 0);
    let fixture = Fixture {
        broker: Arc::new(MemoryBroker::new(options)),
        ..Fixture::new()
    };
    let file = fixture.zip(
        "equity/usa/tick/one/20131007_trade.zip",
        "1000,10000,1,P,0,0\n1000,10000,0,P,0,0\n",
    );
    let report = fixture.run(&fixture.options(&[&file])).await.unwrap();
    assert!(!report.exactly_once);
    let suspects = fixture.read("market-data-suspect").await;
    assert!(
        suspects[0].value.starts_with(r#"{"origin":"#),
        "{suspects:?}"
    );
    assert!(suspects[0].value.contains(r#""reason":"zero-size""#));
    assert_eq!(
        fixture
            .run(&fixture.options(&[&file]))
            .await
            .unwrap()
            .written,
        0
    );
}

/// The last commit holds nothing but that all is in. Where it did not happen, and its outcome was unknown,
/// it was once taken for settled, as all items were there before.
#[tokio::test(start_paused = true)]
async fn a_last_commit_that_did_not_happen_is_made_again() {
    let fixture = Fixture::new();
    let lines: String = (0..CHUNK_ITEMS)
        .map(|index| format!("{index},10000,1,P,0,0\n"))
        .collect();
    let file = fixture.zip("equity/usa/tick/one/20131007_trade.zip", lines);
    let other = fixture.zip(
        "equity/usa/tick/two/20131007_trade.zip",
        "1,10000,1,P,0,0\n",
    );
    let broker = fixture.broker.clone();
    let mut forgotten = false;
    let mut forget = |progress: Progress| {
        if progress.phase == Phase::Writing && !forgotten {
            forgotten = true;
            broker.faults().forget_commit();
        }
    };
    run(
        &fixture.options(&[&file]),
        fixture.broker.clone(),
        &mut forget,
    )
    .await
    .unwrap();
    assert!(forgotten);
    let error = fixture
        .run(&fixture.options(&[&file, &other]))
        .await
        .unwrap_err();
    assert!(matches!(error, Error::AlreadyImported { .. }), "{error}");
}
