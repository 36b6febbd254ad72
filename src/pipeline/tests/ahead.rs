//! One event dated far ahead of its record must not end a pipeline's event time.

use super::*;

/// Ticks of five seconds of which one says that it is of the next year, and what became of them.
async fn bars_and_dead(topic: &str) -> (Vec<String>, Vec<String>) {
    let broker = broker_with(1).await;
    for second in 0..5 {
        broker
            .send(tick("BTC-USD", second * 1_000, "10", "1"))
            .await
            .unwrap();
        if second == 1 {
            let year = 365 * 24 * 3_600 * 1_000;
            let ahead = tick("BTC-USD", year, "10", "1").timestamp(Timestamp::from_millis(1_500));
            broker.send(ahead).await.unwrap();
        }
    }
    let bars = BARS.replace("[topics.bars-1s]", &format!("{topic}\n[topics.bars-1s]"));
    let pipeline = pipeline(plan("", &bars), &broker);
    run(&pipeline).await.unwrap();
    let bars = read_all(&broker, "bars-1s").await;
    (bars, read_all(&broker, "bars.dead-letter").await)
}

#[tokio::test(start_paused = true)]
async fn an_event_too_far_ahead_is_set_aside_and_those_after_it_still_make_windows() {
    let (bars, dead) = bars_and_dead("ahead_max = \"1h\"").await;
    assert_eq!(bars.len(), 5, "{bars:#?}");
    assert_eq!(dead.len(), 1);
    assert!(dead[0].contains("1971-01-01"), "{}", dead[0]);
    // Without the bound it makes a window of its own, and all that follows it is late.
    let (bars, dead) = bars_and_dead("").await;
    assert_eq!((bars.len(), dead.len()), (3, 3), "{bars:#?}");
}
