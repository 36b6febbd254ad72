//! The topics that a pipeline writes and keeps for itself: not taken as they are, and not made anew in
//! silence.

use tidemill_broker::Cleanup;

use super::*;
use crate::pipeline::topics::Topics;

const CONTROL: &str = "bars.control";

async fn ran_once() -> (MemoryBroker, Pipeline) {
    let broker = broker_with(2).await;
    broker.send(tick("A", 0, "10", "1")).await.unwrap();
    let pipeline = pipeline(bars_plan(), &broker);
    run(&pipeline).await.unwrap();
    (broker, pipeline)
}

async fn create(broker: &MemoryBroker, topic: &str, partitions: u32, cleanup: Cleanup) {
    let partitions = NonZeroU32::new(partitions).unwrap();
    let spec = TopicSpec::new(Topic::new(topic).unwrap(), partitions).cleanup(cleanup);
    broker.create_topic(&spec).await.unwrap();
}

/// It was made anew, and who followed it found another order than what was taken.
#[tokio::test(start_paused = true)]
async fn control_records_that_are_gone_halt_until_their_topic_is_there_again() {
    let (broker, pipeline) = ran_once().await;
    let control = Topic::new(CONTROL).unwrap();
    broker.delete_topic(&control).await.unwrap();
    for _ in 0..2 {
        let error = run(&pipeline).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Integrity, "{error}");
        let said = "topic `bars.control` of the control records is gone";
        assert!(error.to_string().contains(said), "{error}");
        assert!(broker.describe_topic(&control).await.is_err());
    }
    create(&broker, CONTROL, 1, Cleanup::default()).await;
    let error = run(&pipeline).await.unwrap_err();
    let said = "topic `bars.control` has 1 partitions where 2 are needed: one for each task";
    assert!(error.to_string().contains(said), "{error}");
    broker.delete_topic(&control).await.unwrap();
    create(&broker, CONTROL, 2, Cleanup::default()).await;
    run(&pipeline).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_reset_that_reads_all_anew_makes_the_control_records_anew() {
    let (broker, pipeline) = ran_once().await;
    let control = Topic::new(CONTROL).unwrap();
    broker.delete_topic(&control).await.unwrap();
    let brokers: Vec<Arc<dyn Broker>> = vec![Arc::new(broker.clone())];
    let options = ResetOptions {
        to: ResetTo::Earliest,
        source: None,
        partition: None,
        drop_state: true,
    };
    let reset = Resetting::look(bars_plan(), brokers, options, None).await;
    reset.unwrap().apply(&["0".into()], 9).await.unwrap();
    run(&pipeline).await.unwrap();
    assert_eq!(read_all(&broker, "bars-1s").await.len(), 2);
}

/// Retention would have removed state that nobody had changed for a while.
#[tokio::test(start_paused = true)]
async fn a_changelog_that_is_not_compacted_is_refused() {
    let broker = broker_with(2).await;
    create(&broker, "bars.changelog", 2, Cleanup::default()).await;
    let error = run(&pipeline(bars_plan(), &broker)).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Usage, "{error}");
    let said = "topic `bars.changelog` is not compacted";
    assert!(error.to_string().contains(said), "{error}");
    // Its outputs were made before it was refused, and left behind empty.
    let topics = broker.list_topics().await.unwrap();
    let names: Vec<&str> = topics.iter().map(Topic::as_str).collect();
    assert_eq!(names, ["bars.changelog", "market-data-updates"]);
}

/// A file that says partitions for what it writes.
fn stated() -> Plan {
    let said = r#"dead_letter = { broker = "main", topic = "dead", partitions = 1 }"#;
    plan(
        said,
        &BARS.replace("[topics.bars-1s]", "[topics.bars-1s]\npartitions = 2"),
    )
}

/// They were taken as they were, and keys lay elsewhere than the file said.
#[tokio::test(start_paused = true)]
async fn outputs_of_another_number_of_partitions_than_the_file_says_are_refused() {
    for (topic, found, needed) in [("bars-1s", 3, 2), ("dead", 2, 1)] {
        let broker = broker_with(1).await;
        create(&broker, topic, found, Cleanup::default()).await;
        let error = run(&pipeline(stated(), &broker)).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Integrity, "{error}");
        let said = format!(
            "topic `{topic}` has {found} partitions where {needed} are needed: the file says so"
        );
        assert!(error.to_string().starts_with(&said), "{error}");
        let topics = broker.list_topics().await.unwrap();
        assert_eq!(topics.len(), 2, "none is made: {topics:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_output_of_which_the_file_says_no_partitions_is_taken_as_it_is() {
    let broker = broker_with(1).await;
    create(&broker, "bars-1s", 3, Cleanup::default()).await;
    broker.send(tick("A", 0, "10", "1")).await.unwrap();
    run(&pipeline(bars_plan(), &broker)).await.unwrap();
    assert_eq!(read_all(&broker, "bars-1s").await.len(), 1);
}

/// It would have deleted the changelog first.
#[tokio::test(start_paused = true)]
async fn a_reset_refuses_outputs_of_another_number_of_partitions_before_it_changes_anything() {
    let broker = broker_with(1).await;
    create(&broker, "bars-1s", 3, Cleanup::default()).await;
    let brokers: Vec<Arc<dyn Broker>> = vec![Arc::new(broker.clone())];
    let options = ResetOptions {
        to: ResetTo::Earliest,
        source: None,
        partition: None,
        drop_state: true,
    };
    let refused = Resetting::look(stated(), brokers, options, None).await;
    let said = "topic `bars-1s` has 3 partitions where 2 are needed";
    let error = refused.unwrap_err();
    assert!(error.to_string().starts_with(said), "{error}");
}

/// Each was described once more by the making of those that were missing, of which there were none.
#[tokio::test(start_paused = true)]
async fn topics_that_are_there_are_not_looked_at_again() {
    let (broker, _) = ran_once().await;
    let plan = bars_plan();
    let topologies = crate::pipeline::topology::sub_topologies(&plan);
    let brokers: Vec<Arc<dyn Broker>> = vec![Arc::new(broker)];
    let topics = Topics::look(&plan, &topologies, &brokers).await.unwrap();
    let without_brokers = topics.make(&plan, &topologies, &[]).await;
    assert_eq!(without_brokers.unwrap().tasks, [2]);
}

/// They had as many as the first input of the file.
#[tokio::test(start_paused = true)]
async fn dead_letters_have_as_many_partitions_as_the_widest_input() {
    let broker = broker_with(1).await;
    create(&broker, "wide", 3, Cleanup::default()).await;
    let rest = r#"
        [topics.wide]
        event = "MarketDataUpdate"
        key = "pair"
        start = "earliest"
        [topics.narrow-copy]
        [topics.wide-copy]

        [sinks.narrow-copy]
        from = "market-data-updates"
        topic = "narrow-copy"
        [sinks.wide-copy]
        from = "wide"
        topic = "wide-copy"
    "#;
    run(&pipeline(plan("", rest), &broker)).await.unwrap();
    let mut partitions = Vec::new();
    for topic in ["narrow-copy", "wide-copy", "bars.dead-letter"] {
        let topic = Topic::new(topic).unwrap();
        partitions.push(broker.describe_topic(&topic).await.unwrap().partitions);
    }
    assert_eq!(partitions, [1, 3, 3]);
}
