//! A dead letter that the broker refuses: the pipeline stops, as skipping a record is nobody's default,
//! and once the cause is gone it goes on as if nothing had been.

use std::collections::BTreeSet;
use std::error::Error as _;

use super::halts::{TICKS, at};
use super::*;

const DEAD: &str = "bars.dead-letter";

/// Two ticks, one that is none, and another two.
async fn poisoned() -> MemoryBroker {
    let broker = broker_with(1).await;
    for millis in [0, 1_000] {
        broker.send(tick("A", millis, "10", "1")).await.unwrap();
    }
    let topic = Topic::new(TICKS).unwrap();
    let poison = NewRecord::new(topic, "no tick").key("A");
    broker.send(poison).await.unwrap();
    for millis in [2_000, 3_000] {
        broker.send(tick("A", millis, "10", "1")).await.unwrap();
    }
    broker
}

/// A run of which a dead letter is refused, then one of which none is: the bars after each.
async fn refused(guarantee: &str) -> (MemoryBroker, Vec<String>, Vec<String>) {
    let broker = poisoned().await;
    let file = plan(&format!("guarantee = {guarantee:?}"), BARS);
    let group = file.group.clone();
    let pipeline = pipeline(file, &broker);
    broker.faults().reject_next(&Topic::new(DEAD).unwrap(), 1);
    let error = run(&pipeline).await.unwrap_err();
    let cause = error.source().expect("the broker's word").to_string();
    assert!(cause.contains("`bars.dead-letter` refused"), "{cause}");
    assert_eq!(read_all(&broker, DEAD).await.len(), 0);
    let bars = read_all(&broker, "bars-1s").await;
    let committed = broker.committed(&group, &[at(TICKS, 0)]).await.unwrap();
    let is_moved = committed[0].is_some();
    assert_eq!(is_moved, guarantee == "at_most_once", "{committed:?}");

    run(&pipeline).await.unwrap();
    let after = read_all(&broker, "bars-1s").await;
    assert_eq!(after[..bars.len()], bars, "what was written stays");
    (broker, bars, after)
}

#[tokio::test(start_paused = true)]
async fn a_dead_letter_that_is_refused_halts_before_anything_is_written_and_the_next_run_is_exact()
{
    let (broker, halted, after) = refused("exactly_once").await;
    assert_eq!((halted.len(), after.len()), (0, 4), "{after:#?}");
    assert_eq!(read_all(&broker, DEAD).await, ["no tick"]);
}

#[tokio::test(start_paused = true)]
async fn a_dead_letter_that_is_refused_leaves_what_was_sent_early_to_be_repeated() {
    let (broker, _, after) = refused("at_least_once").await;
    let once: BTreeSet<&String> = after.iter().collect();
    assert_eq!(once.len(), 4, "{after:#?}");
    assert_eq!(read_all(&broker, DEAD).await, ["no tick"]);
}

#[tokio::test(start_paused = true)]
async fn a_dead_letter_that_is_refused_halts_also_where_it_may_be_lost() {
    let (broker, ..) = refused("at_most_once").await;
    assert_eq!(read_all(&broker, DEAD).await.len(), 0);
}
