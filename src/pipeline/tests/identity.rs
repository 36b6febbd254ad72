//! Identities of records: the same as often as one is read, another for each record.

use super::*;

/// The identities of what was set aside, in order.
async fn set_aside(broker: &MemoryBroker) -> Vec<Vec<u8>> {
    let at = TopicPartition::new(Topic::new("bars.dead-letter").unwrap(), 0);
    let batches = broker.read_to_end(&at, Start::Earliest).await.unwrap();
    let records = batches.iter().flat_map(|batch| batch.iter());
    let id = |(name, value): (&str, &[u8])| (name == "dl-id").then(|| value.to_vec());
    records
        .map(|record| record.headers().find_map(id).unwrap())
        .collect()
}

async fn send_poison(broker: &MemoryBroker) {
    let topic = Topic::new("market-data-updates").unwrap();
    let record = NewRecord::new(topic, "no event").key("BTC-USD");
    broker.send(record).await.unwrap();
}

async fn read_anew(broker: &MemoryBroker, run: u64) {
    let options = ResetOptions {
        to: ResetTo::Earliest,
        source: None,
        partition: None,
        drop_state: true,
    };
    let brokers: Vec<Arc<dyn Broker>> = vec![Arc::new(broker.clone())];
    let reset = Resetting::look(bars_plan(), brokers, options, None).await;
    reset.unwrap().apply(&[], run).await.unwrap();
    super::run(&pipeline(bars_plan(), broker)).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_record_read_again_is_the_same_and_one_of_a_topic_created_again_is_not() {
    let broker = broker_with(1).await;
    send_poison(&broker).await;
    run(&pipeline(bars_plan(), &broker)).await.unwrap();
    read_anew(&broker, 2).await;
    let ids = set_aside(&broker).await;
    assert_eq!(ids.len(), 2);
    assert_eq!(ids[0], ids[1], "the same record");

    for run in 3..5 {
        let topic = Topic::new("market-data-updates").unwrap();
        broker.delete_topic(&topic).await.unwrap();
        let spec = TopicSpec::new(topic, NonZeroU32::MIN);
        broker.create_topic(&spec).await.unwrap();
        send_poison(&broker).await;
        read_anew(&broker, run).await;
    }
    let ids = set_aside(&broker).await;
    assert_eq!(ids.len(), 4);
    assert_ne!(ids[1], ids[2], "another record at the same offset");
    assert_ne!(ids[2], ids[3]);
    assert_ne!(ids[1], ids[3]);
}
