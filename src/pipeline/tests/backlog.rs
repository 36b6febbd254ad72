//! More that falls due at one record than an epoch should hold.

use super::*;

const PAIRS: usize = 500;
const AT_ONCE: usize = 50;
const EPOCH: usize = 100;

/// A tick of each pair in the first second, and one that closes all their windows.
async fn ticks(broker: &MemoryBroker) {
    for pair in 0..PAIRS {
        let pair = format!("P{pair:03}-USD");
        broker.send(tick(&pair, 10, "1.5", "2")).await.unwrap();
    }
    let last = tick("P000-USD", 5_000, "3", "1");
    broker.send(last).await.unwrap();
}

fn options(run: u64) -> RunOptions {
    RunOptions {
        bounds: Bounds {
            due_at_once: AT_ONCE,
            ..Bounds::default()
        },
        ..RunOptions::new("0", run)
    }
}

/// How many bars each committed epoch wrote.
async fn bars_by_epoch(broker: &MemoryBroker) -> Vec<u64> {
    let at = TopicPartition::new(Topic::new("bars.changelog").unwrap(), 0);
    let batches = broker.read_to_end(&at, Start::Earliest).await.unwrap();
    let records = batches.iter().flat_map(|batch| batch.iter());
    let markers = records.filter(|record| record.key == Some(MARKER_KEY));
    let mut before = 0;
    let counts = markers.map(|record| {
        let marker = Marker::decode(record.value.unwrap()).unwrap();
        let count = marker.sequences.iter().map(|(_, _, count)| count).sum();
        count - std::mem::replace(&mut before, count)
    });
    counts.collect()
}

fn commit_every(records: usize) -> Plan {
    let commit = format!("commit = {{ interval = \"1s\", records = {records} }}");
    plan(&commit, BARS)
}

#[tokio::test(start_paused = true)]
async fn windows_that_one_record_closes_are_committed_in_pieces() {
    let broker = broker_with(1).await;
    ticks(&broker).await;
    let pipeline = pipeline(commit_every(EPOCH), &broker);
    let (_end, until_end) = watch::channel(true);
    let options = RunOptions {
        until_end,
        ..options(1)
    };
    let (_stop, never) = watch::channel(false);
    pipeline.run(options, never).await.unwrap();
    let bars = read_all(&broker, "bars-1s").await;
    assert_eq!(bars.len(), PAIRS + 1);
    assert!(bars[..PAIRS].is_sorted(), "in the order of their keys");
    let by_epoch = bars_by_epoch(&broker).await;
    let most = by_epoch.iter().max().unwrap();
    assert!(*most <= EPOCH as u64 + 1, "{by_epoch:?}");
}

#[tokio::test(start_paused = true)]
async fn a_run_that_is_stopped_between_the_pieces_is_gone_on_with_by_the_next() {
    let broker = broker_with(1).await;
    ticks(&broker).await;
    let pipeline = pipeline(commit_every(EPOCH), &broker);
    let spec = TopicSpec::new(Topic::new("bars-1s").unwrap(), NonZeroU32::MIN);
    broker.create_topic(&spec).await.unwrap();
    let mut runs = 0;
    while read_all(&broker, "bars-1s").await.len() < PAIRS {
        runs += 1;
        assert!(runs < 100, "it goes on");
        let (stop, stopped) = watch::channel(false);
        let running = pipeline.run(options(runs), stopped);
        let some_are_written = async {
            let before = read_all(&broker, "bars-1s").await.len();
            while read_all(&broker, "bars-1s").await.len() == before {
                tokio::task::yield_now().await;
            }
            stop.send_replace(true);
        };
        let (ended, ()) = futures::join!(running, some_are_written);
        ended.unwrap();
    }
    assert!(runs > 1, "it was stopped between");
    let bars = read_all(&broker, "bars-1s").await;
    assert_eq!(bars.len(), PAIRS, "each once");
    assert!(bars.is_sorted(), "in the order of their keys");
}

const ONCE: &str = r#"
    [topics.unique]
    broker = "main"

    [stages.once]
    from = "market-data-updates"
    op = "dedupe"
    id = "currentPrice"
    window = "1h"

    [sinks.once]
    from = "once"
    topic = "unique"
"#;

/// How many entries of state the changelog holds, and how many each committed epoch took away.
async fn entries_and_gone_by_epoch(broker: &MemoryBroker) -> (u64, Vec<usize>) {
    let at = TopicPartition::new(Topic::new("bars.changelog").unwrap(), 0);
    let live = crate::pipeline::recovery::content(broker, &at)
        .await
        .unwrap();
    let batches = broker.read_to_end(&at, Start::Earliest).await.unwrap();
    let (mut gone, mut by_epoch) = (0, Vec::new());
    for record in batches.iter().flat_map(|batch| batch.iter()) {
        gone += usize::from(record.value.is_none());
        if record.key == Some(MARKER_KEY) {
            by_epoch.push(std::mem::take(&mut gone));
        }
    }
    (live.elements(), by_epoch)
}

#[tokio::test(start_paused = true)]
async fn bounds_that_a_new_version_lowers_hold_before_anything_comes_and_in_pieces() {
    let broker = broker_with(1).await;
    for price in 0..PAIRS as i64 {
        let price_text = format!("{}.5", price + 1);
        let tick = tick("BTC-USD", price * 10, &price_text, "1");
        broker.send(tick).await.unwrap();
    }
    let commit = format!("commit = {{ interval = \"1s\", records = {EPOCH} }}");
    let of = |file: &str| pipeline(plan(&commit, file), &broker);
    let ends = |run| RunOptions {
        until_end: watch::channel(true).1,
        accept_new_version: true,
        ..options(run)
    };
    let (_stop, never) = watch::channel(false);
    of(ONCE).run(ends(1), never.clone()).await.unwrap();
    let (entries, gone) = entries_and_gone_by_epoch(&broker).await;
    // How far event time has come, on the input and in the stage, is two more.
    assert_eq!((entries, gone.iter().sum::<usize>()), (PAIRS as u64 + 2, 0));

    let fewer = ONCE.replace("window = \"1h\"", "window = \"1h\"\ncount_max = 200");
    of(&fewer).run(ends(2), never.clone()).await.unwrap();
    let (entries, gone) = entries_and_gone_by_epoch(&broker).await;
    assert_eq!((entries, gone.iter().sum::<usize>()), (202, 300));
    let most = *gone.iter().max().unwrap();
    assert!(most <= EPOCH + AT_ONCE, "{gone:?}");

    // The last was seen at 4.99 s: those of the last second stay.
    let shorter = fewer.replace("window = \"1h\"", "window = \"1s\"");
    of(&shorter).run(ends(3), never).await.unwrap();
    let (entries, gone) = entries_and_gone_by_epoch(&broker).await;
    assert_eq!((entries, gone.iter().sum::<usize>()), (102, 400));
    assert_eq!(read_all(&broker, "unique").await.len(), PAIRS);
}

const LARGE: usize = 64 << 10;
const LARGE_EVENTS: usize = 100;

/// Large events that a merge holds until every input has ended. The bytes of state, and the events that
/// went out, of each epoch.
async fn large_events_are_held() -> Vec<(usize, u64)> {
    let broker = broker_with(1).await;
    let other = TopicSpec::new(Topic::new("other").unwrap(), NonZeroU32::MIN);
    broker.create_topic(&other).await.unwrap();
    for millis in 0..LARGE_EVENTS as i64 {
        let large = tick(&"X".repeat(LARGE), millis, "1", "1");
        broker.send(large).await.unwrap();
    }
    let merged = r#"
        [topics.other]
        event = "MarketDataUpdate"
        key = "pair"
        start = "earliest"
        [topics.all]
        [stages.both]
        from = ["market-data-updates", "other"]
        op = "merge"
        [sinks.all]
        from = "both"
        topic = "all"
    "#;
    let commit = r#"commit = { interval = "1h", bytes = "1MiB" }"#;
    let options = RunOptions {
        until_end: watch::channel(true).1,
        ..options(1)
    };
    let (_stop, never) = watch::channel(false);
    let pipeline = pipeline(plan(commit, merged), &broker);
    pipeline.run(options, never).await.unwrap();
    assert_eq!(read_all(&broker, "all").await.len(), LARGE_EVENTS);
    let at = TopicPartition::new(Topic::new("bars.changelog").unwrap(), 0);
    let batches = broker.read_to_end(&at, Start::Earliest).await.unwrap();
    let (mut bytes, mut written, mut epochs) = (0, 0, Vec::new());
    for record in batches.iter().flat_map(|batch| batch.iter()) {
        bytes += record.value.map_or(0, <[u8]>::len);
        if record.key == Some(MARKER_KEY) {
            let marker = Marker::decode(record.value.unwrap()).unwrap();
            let count = marker.sequences.iter().map(|(_, _, count)| count).sum();
            let before = std::mem::replace(&mut written, count);
            epochs.push((std::mem::take(&mut bytes), count - before));
        }
    }
    epochs
}

/// An epoch was full of what came out alone: what was held until then went to the changelog at once.
#[tokio::test(start_paused = true)]
async fn an_epoch_is_full_of_what_is_remembered_too() {
    let epochs = large_events_are_held().await;
    let most = epochs.iter().map(|(bytes, _)| *bytes).max().unwrap();
    assert!(most < 4 << 20, "{epochs:?}");
}

/// They were counted, however large they were.
#[tokio::test(start_paused = true)]
async fn large_events_that_are_due_go_out_few_at_once() {
    let epochs = large_events_are_held().await;
    let most = epochs.iter().map(|(_, events)| *events).max().unwrap();
    assert!(most <= 10, "{epochs:?}");
}
