//! What happens to the input of a pipeline that runs: it halts and says so, and skips nothing in
//! silence.

use std::sync::atomic::{AtomicBool, Ordering};

use tidemill_broker::{Delivery, Offset};
use tokio::task::JoinHandle;

use super::halts::{TICKS, at};
use super::scripted::{Commit, Scripted};
use super::*;

const SECOND: Duration = Duration::from_secs(1);

/// A pipeline at work that has read everything there is.
struct UnderWay {
    running: JoinHandle<Result<()>>,
    stop: watch::Sender<bool>,
}

impl UnderWay {
    async fn start(pipeline: &Arc<Pipeline>) -> Self {
        let pipeline = pipeline.clone();
        let (stop, stopped) = watch::channel(false);
        let running =
            tokio::spawn(async move { pipeline.run(RunOptions::new("0", 1), stopped).await });
        tokio::time::sleep(10 * SECOND).await;
        assert!(!running.is_finished());
        Self { running, stop }
    }

    /// Ends by itself, with an error.
    async fn halts(self) -> Error {
        let ended = tokio::time::timeout(60 * SECOND, self.running).await;
        ended.expect("it goes on").unwrap().unwrap_err()
    }

    async fn stop(self) {
        tokio::time::sleep(10 * SECOND).await;
        self.stop.send_replace(true);
        self.running.await.unwrap().unwrap();
    }
}

async fn send(broker: &MemoryBroker, seconds: std::ops::Range<i64>) {
    for second in seconds {
        broker
            .send(tick("A", second * 1_000, "10", "1"))
            .await
            .unwrap();
    }
}

/// Ten ticks are read, of the next ten all but the last three are removed before they are.
async fn overtaken(pipeline: &Arc<Pipeline>, broker: &MemoryBroker) -> UnderWay {
    send(broker, 0..10).await;
    let under_way = UnderWay::start(pipeline).await;
    send(broker, 10..20).await;
    broker
        .faults()
        .drop_before(&at(TICKS, 0), Offset(17))
        .unwrap();
    under_way
}

#[tokio::test(start_paused = true)]
async fn retention_that_overtakes_a_running_pipeline_halts_it_with_the_gap() {
    let broker = broker_with(1).await;
    let pipeline = Arc::new(pipeline(bars_plan(), &broker));
    let error = overtaken(&pipeline, &broker).await.halts().await;
    let said = "records of market-data-updates/0 from offset 10 are gone: the log begins at 17;";
    assert_eq!(error.kind(), Kind::Integrity, "{error}");
    assert!(error.to_string().contains(said), "{error}");
    let bars = read_all(&broker, "bars-1s").await;
    assert_eq!(bars.len(), 9, "what was read stays: {bars:#?}");
    // It does not go on by itself.
    let error = run(&pipeline).await.unwrap_err();
    assert!(error.to_string().contains(said), "{error}");
    assert_eq!(read_all(&broker, "bars-1s").await, bars);
}

#[tokio::test(start_paused = true)]
async fn a_running_pipeline_that_may_skip_a_gap_sets_a_note_of_it_aside() {
    let broker = broker_with(1).await;
    let mut plan = bars_plan();
    plan.sources[0].on_gap = crate::config::plan::OnGap::Skip;
    let pipeline = Arc::new(pipeline(plan, &broker));
    overtaken(&pipeline, &broker).await.stop().await;
    let dead = broker
        .read_to_end(&at("bars.dead-letter", 0), Start::Earliest)
        .await
        .unwrap();
    let reasons: Vec<String> = dead
        .iter()
        .flat_map(|batch| batch.iter())
        .flat_map(|record| record.headers())
        .filter(|(name, _)| *name == "dl-error")
        .map(|(_, why)| String::from_utf8(why.to_vec()).unwrap())
        .collect();
    let said = "records of market-data-updates/0 from offset 10 were removed before they were read; going on at 17";
    assert_eq!(reasons, [said]);
    // Of the first ten, and of the last three as far as they are closed.
    assert_eq!(read_all(&broker, "bars-1s").await.len(), 10 + 2);
}

/// Nothing came that would have closed an epoch: the note was made in each run, and written in none.
#[tokio::test(start_paused = true)]
async fn a_gap_with_nothing_behind_it_is_noted_once() {
    let broker = broker_with(1).await;
    send(&broker, 0..10).await;
    let mut plan = plan(r#"commit = { bytes = "100B" }"#, BARS);
    plan.sources[0].on_gap = crate::config::plan::OnGap::Skip;
    let pipeline = pipeline(plan, &broker);
    run(&pipeline).await.unwrap();
    send(&broker, 10..20).await;
    broker
        .faults()
        .drop_before(&at(TICKS, 0), Offset(20))
        .unwrap();
    for _ in 0..2 {
        tokio::time::timeout(60 * SECOND, run(&pipeline))
            .await
            .expect("it hangs")
            .unwrap();
        assert_eq!(read_all(&broker, "bars.dead-letter").await.len(), 1);
    }
}

/// As after an unclean election of a leader.
#[tokio::test(start_paused = true)]
async fn an_input_that_is_cut_under_a_running_pipeline_halts_it() {
    let broker = broker_with(1).await;
    send(&broker, 0..10).await;
    let pipeline = Arc::new(pipeline(bars_plan(), &broker));
    let under_way = UnderWay::start(&pipeline).await;
    broker.faults().truncate(&at(TICKS, 0), Offset(4)).unwrap();
    let error = under_way.halts().await;
    assert_eq!(error.kind(), Kind::Integrity, "{error}");
    let said = "it ends at offset 4, but was read up to 10";
    assert!(error.to_string().contains(said), "{error}");
    assert_eq!(read_all(&broker, "bars-1s").await.len(), 9);
}

/// The topic is deleted, and one of its name made that holds more than was read of it.
async fn recreate(broker: &MemoryBroker) {
    let topic = Topic::new(TICKS).unwrap();
    broker.faults().delete_topic(&topic).unwrap();
    let spec = TopicSpec::new(topic, NonZeroU32::MIN);
    broker.create_topic(&spec).await.unwrap();
    send(broker, 100..120).await;
}

/// Ten ticks are read from `input`, which is then another log.
async fn is_not_taken_for_the_old_one(
    plan: Plan,
    input: &MemoryBroker,
    brokers: Vec<Arc<dyn Broker>>,
    outputs: &MemoryBroker,
) {
    send(input, 0..10).await;
    let stores = Arc::new(MemoryStores::default());
    let pipeline = Arc::new(Pipeline::in_order(plan, brokers, stores));
    let under_way = UnderWay::start(&pipeline).await;
    recreate(input).await;
    let error = under_way.halts().await;
    assert_eq!(error.kind(), Kind::Integrity, "{error}");
    let said = "topic `market-data-updates`, which this pipeline reads, was deleted;";
    assert!(error.to_string().contains(said), "{error}");
    // It does not go on by itself.
    let error = run(&pipeline).await.unwrap_err();
    let said = "it was deleted and created again";
    assert!(error.to_string().contains(said), "{error}");
    let bars = read_all(outputs, "bars-1s").await;
    assert_eq!(bars.len(), 9, "what was read stays: {bars:#?}");
}

#[tokio::test(start_paused = true)]
async fn an_input_that_is_made_anew_under_a_running_pipeline_halts_it() {
    let broker = broker_with(1).await;
    let brokers: Vec<Arc<dyn Broker>> = vec![Arc::new(broker.clone())];
    is_not_taken_for_the_old_one(bars_plan(), &broker, brokers, &broker).await;
}

#[tokio::test(start_paused = true)]
async fn an_input_that_is_made_anew_halts_a_running_pipeline_without_a_group() {
    let (input, outputs) = (broker_with(1).await, MemoryBroker::default());
    let rest = BARS.replace(
        "[topics.bars-1s]\n    broker = \"main\"",
        "[brokers.out]\n    url = \"mem://\"\n    [topics.bars-1s]\n    broker = \"out\"",
    );
    let dead_letter = r#"dead_letter = { broker = "out", topic = "dead" }"#;
    let plan = plan(dead_letter, &rest);
    let of = |name: &str| -> Arc<dyn Broker> {
        match name {
            "out" => Arc::new(outputs.clone()),
            _ => Arc::new(input.clone()),
        }
    };
    let brokers = plan.brokers.iter().map(|broker| of(&broker.name)).collect();
    is_not_taken_for_the_old_one(plan, &input, brokers, &outputs).await;
}

/// Ticks joined with notices, which every task reads whole.
fn joined(on_gap: crate::config::plan::OnGap) -> Plan {
    let mut plan = plan(
        "",
        r#"
        [topics.notices]
        event = "MarketDataUpdate"
        broadcast = true
        start = "earliest"
        [topics.all]

        [stages.both]
        from = ["market-data-updates", "notices"]
        op = "merge"

        [sinks.all]
        from = "both"
        topic = "all"
        "#,
    );
    let notices = plan.sources.iter_mut().find(|source| source.broadcast);
    notices.unwrap().on_gap = on_gap;
    plan
}

async fn notices(broker: &MemoryBroker, seconds: std::ops::Range<i64>) {
    for second in seconds {
        let mut notice = tick("A", second * 1_000 + 500, "1", "1");
        notice.topic = Topic::new("notices").unwrap();
        broker.send(notice).await.unwrap();
    }
}

/// Ten notices are read whole by each of two tasks; of the next ten all but the last three are removed
/// before they are.
async fn overtaken_in_notices(plan: Plan) -> (MemoryBroker, Arc<Pipeline>, UnderWay) {
    let broker = broker_with(2).await;
    let spec = TopicSpec::new(Topic::new("notices").unwrap(), NonZeroU32::MIN);
    broker.create_topic(&spec).await.unwrap();
    let pipeline = Arc::new(pipeline(plan, &broker));
    notices(&broker, 0..10).await;
    let under_way = UnderWay::start(&pipeline).await;
    notices(&broker, 10..20).await;
    broker
        .faults()
        .drop_before(&at("notices", 0), Offset(17))
        .unwrap();
    (broker, pipeline, under_way)
}

#[tokio::test(start_paused = true)]
async fn retention_that_overtakes_an_input_read_whole_halts_with_the_gap() {
    use crate::config::plan::OnGap;
    let (_, pipeline, under_way) = overtaken_in_notices(joined(OnGap::Halt)).await;
    let said = "records of notices/0 from offset 10 are gone: the log begins at 17;";
    let error = under_way.halts().await;
    assert_eq!(error.kind(), Kind::Integrity, "{error}");
    assert!(error.to_string().contains(said), "{error}");
    let error = run(&pipeline).await.unwrap_err();
    assert!(error.to_string().contains(said), "{error}");
}

/// It halted although the file said to go on, as of the other inputs.
#[tokio::test(start_paused = true)]
async fn an_input_read_whole_that_may_skip_a_gap_sets_a_note_of_it_aside() {
    use crate::config::plan::OnGap;
    let (broker, pipeline, under_way) = overtaken_in_notices(joined(OnGap::Skip)).await;
    under_way.stop().await;
    let mut notes = 0;
    for partition in 0..2 {
        let at = at("bars.dead-letter", partition);
        let dead = broker.read_to_end(&at, Start::Earliest).await.unwrap();
        let records = dead.iter().flat_map(|batch| batch.iter());
        let headers = records.flat_map(|record| record.headers().collect::<Vec<_>>());
        let why = headers.filter(|(name, _)| *name == "dl-error");
        for (_, why) in why {
            let said = b"records of notices/0 from offset 10 were removed before they were read; going on at 17";
            assert_eq!(why, said);
            notes += 1;
        }
    }
    assert_eq!(notes, 2, "of each task");
    run(&pipeline).await.unwrap();
    assert_eq!(read_all(&broker, "all").await.len(), 10 + 3, "once each");
}

/// The run ended with the same as the next, which finds the topic missing as it starts, and a reset.
async fn is_told_as_by_the_next(
    error: Error,
    (plan, broker): (Plan, &MemoryBroker),
    pipeline: &Pipeline,
    said: &str,
) {
    assert_eq!(error.kind(), Kind::Integrity, "{error}");
    assert!(error.to_string().contains(said), "{error}");
    for _ in 0..2 {
        let next = run(pipeline).await.unwrap_err();
        assert_eq!(next.to_string(), error.to_string());
        assert_eq!(next.kind(), error.kind());
    }
    let options = ResetOptions {
        to: ResetTo::Latest,
        source: None,
        partition: None,
        drop_state: true,
    };
    let brokers: Vec<Arc<dyn Broker>> = vec![Arc::new(broker.clone())];
    let reset = Resetting::look(plan, brokers, options, None).await;
    assert_eq!(reset.unwrap_err().to_string(), error.to_string());
}

#[tokio::test(start_paused = true)]
async fn an_input_read_whole_that_is_deleted_halts_and_is_named() {
    use crate::config::plan::OnGap;
    let broker = broker_with(1).await;
    let notice = Topic::new("notices").unwrap();
    let spec = TopicSpec::new(notice.clone(), NonZeroU32::new(3).unwrap());
    broker.create_topic(&spec).await.unwrap();
    notices(&broker, 0..10).await;
    let pipeline = Arc::new(pipeline(joined(OnGap::Halt), &broker));
    let under_way = UnderWay::start(&pipeline).await;
    broker.faults().delete_topic(&notice).unwrap();
    let error = under_way.halts().await;
    let said = "topic `notices`, which this pipeline reads, was deleted;";
    is_told_as_by_the_next(error, (joined(OnGap::Halt), &broker), &pipeline, said).await;
}

/// The run ended with one code, and the next, for the same cause, with another.
#[tokio::test(start_paused = true)]
async fn an_input_that_is_deleted_is_told_alike_by_the_run_that_loses_it_and_the_next() {
    let broker = broker_with(1).await;
    send(&broker, 0..10).await;
    let pipeline = Arc::new(pipeline(bars_plan(), &broker));
    let under_way = UnderWay::start(&pipeline).await;
    let topic = Topic::new(TICKS).unwrap();
    broker.faults().delete_topic(&topic).unwrap();
    let error = under_way.halts().await;
    let said = "topic `market-data-updates`, which this pipeline reads, was deleted;";
    is_told_as_by_the_next(error, (bars_plan(), &broker), &pipeline, said).await;
}

/// It was looked at once more and was not there: told as a file that cannot be used.
#[tokio::test(start_paused = true)]
async fn an_input_that_is_deleted_as_a_run_comes_to_its_end_is_told_as_deleted() {
    let broker = broker_with(1).await;
    send(&broker, 0..10).await;
    run(&pipeline(bars_plan(), &broker)).await.unwrap();
    let inner = broker.clone();
    let scripted = Scripted::new(&broker).on_delivery(move |delivery| {
        if let Delivery::End { .. } = delivery {
            let topic = Topic::new(TICKS).unwrap();
            let _ = inner.faults().delete_topic(&topic);
        }
        Vec::new()
    });
    let stores = Arc::new(MemoryStores::default());
    let pipeline = Pipeline::in_order(bars_plan(), vec![Arc::new(scripted)], stores);
    let error = run(&pipeline).await.unwrap_err();
    let said = "topic `market-data-updates`, which this pipeline reads, was deleted;";
    is_told_as_by_the_next(error, (bars_plan(), &broker), &pipeline, said).await;
}

#[tokio::test(start_paused = true)]
async fn an_output_that_is_deleted_is_told_alike_by_the_run_that_loses_it_and_the_next() {
    let broker = broker_with(1).await;
    send(&broker, 0..10).await;
    let pipeline = Arc::new(pipeline(bars_plan(), &broker));
    let under_way = UnderWay::start(&pipeline).await;
    let topic = Topic::new("bars-1s").unwrap();
    broker.faults().delete_topic(&topic).unwrap();
    send(&broker, 10..20).await;
    let error = under_way.halts().await;
    let said = "topic `bars-1s` of sink `bars` is gone";
    is_told_as_by_the_next(error, (bars_plan(), &broker), &pipeline, said).await;
}

/// Two streams side by side: bars of the one, copies of the other.
fn side_by_side() -> Plan {
    let other = r#"
        [topics.other]
        broker = "main"
        event = "MarketDataUpdate"
        key = "pair"
        start = "earliest"
        [topics.copies]
        broker = "main"
        [sinks.copies]
        from = "other"
        topic = "copies"
    "#;
    plan("", &format!("{BARS}{other}"))
}

async fn send_to(broker: &MemoryBroker, topic: &str, seconds: std::ops::Range<i64>) {
    for second in seconds {
        let mut tick = tick("A", second * 1_000, "10", "1");
        tick.topic = Topic::new(topic).unwrap();
        broker.send(tick).await.unwrap();
    }
}

/// Ends with what was lost, though it was told to stop.
async fn ends_naming_other(under_way: UnderWay) {
    tokio::time::sleep(10 * SECOND).await;
    assert!(!under_way.running.is_finished(), "the others go on");
    under_way.stop.send_replace(true);
    let error = under_way.running.await.unwrap().unwrap_err();
    assert_eq!(error.kind(), Kind::Integrity, "{error}");
    let said = "topic `other`, which this pipeline reads, was deleted;";
    assert!(error.to_string().contains(said), "{error}");
}

/// The whole run ended.
#[tokio::test(start_paused = true)]
async fn an_input_that_is_deleted_halts_the_tasks_that_read_it_and_no_other() {
    let broker = broker_with(1).await;
    let other = Topic::new("other").unwrap();
    let spec = TopicSpec::new(other.clone(), NonZeroU32::new(2).unwrap());
    broker.create_topic(&spec).await.unwrap();
    send(&broker, 0..10).await;
    send_to(&broker, "other", 0..10).await;
    let pipeline = Arc::new(pipeline(side_by_side(), &broker));
    let under_way = UnderWay::start(&pipeline).await;
    broker.faults().delete_topic(&other).unwrap();
    tokio::time::sleep(SECOND).await;
    send(&broker, 10..20).await;
    ends_naming_other(under_way).await;
    assert_eq!(read_all(&broker, "bars-1s").await.len(), 19);
    assert_eq!(read_all(&broker, "copies").await.len(), 10);
}

/// The transaction was refused as a whole, for offsets of which nobody was named, and all ended.
#[tokio::test(start_paused = true)]
async fn an_input_that_is_deleted_under_a_commit_halts_the_tasks_that_read_it_and_no_other() {
    let broker = broker_with(1).await;
    let other = Topic::new("other").unwrap();
    let spec = TopicSpec::new(other.clone(), NonZeroU32::MIN);
    broker.create_topic(&spec).await.unwrap();
    let inner = broker.clone();
    let goes = Arc::new(AtomicBool::new(false));
    let is_to_go = goes.clone();
    let scripted = Scripted::new(&broker).on_commit(move |transaction| {
        let offsets = transaction.offsets.iter();
        let mut read: Vec<&str> = offsets
            .flat_map(|offsets| &offsets.offsets)
            .map(|(at, _)| at.topic.as_str())
            .collect();
        read.sort_unstable();
        if read == [TICKS, "other"] && is_to_go.load(Ordering::Relaxed) {
            inner.faults().delete_topic(&other).unwrap();
        }
        Commit::Goes
    });
    let stores = Arc::new(MemoryStores::default());
    let pipeline = Pipeline::in_order(side_by_side(), vec![Arc::new(scripted)], stores);
    let under_way = UnderWay::start(&Arc::new(pipeline)).await;
    for seconds in [0..5, 5..10] {
        send(&broker, seconds.clone()).await;
        send_to(&broker, "other", seconds).await;
        tokio::time::sleep(SECOND).await;
        goes.store(true, Ordering::Relaxed);
    }
    ends_naming_other(under_way).await;
    let topics = broker.list_topics().await.unwrap();
    assert!(
        topics.iter().all(|topic| topic.as_str() != "other"),
        "{topics:?}"
    );
    assert_eq!(read_all(&broker, "bars-1s").await.len(), 9);
}
