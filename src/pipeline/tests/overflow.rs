//! Sums that leave the range of their field.

use super::*;

async fn bars_of(quantities: &[&str]) -> (Vec<String>, Vec<(String, String)>) {
    let broker = broker_with(1).await;
    for quantity in quantities {
        broker
            .send(tick("BTC-USD", 10, "1.5", quantity))
            .await
            .unwrap();
    }
    run(&pipeline(bars_plan(), &broker)).await.unwrap();
    let at = TopicPartition::new(Topic::new("bars.dead-letter").unwrap(), 0);
    let batches = broker.read_to_end(&at, Start::Earliest).await.unwrap();
    let dead = batches.iter().flat_map(|batch| batch.iter()).map(|record| {
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        let class = record.headers().find(|(name, _)| *name == "dl-class");
        let value = record.value.unwrap_or_default();
        (text(class.unwrap().1), text(value))
    });
    (read_all(&broker, "bars-1s").await, dead.collect())
}

#[tokio::test(start_paused = true)]
async fn a_bar_whose_volume_does_not_fit_is_set_aside_with_all_its_ticks() {
    let (bars, dead) = bars_of(&["60000000000", "60000000000", "60000000000"]).await;
    assert!(bars.is_empty(), "{bars:?}");
    let [(class, value)] = &dead[..] else {
        panic!("{dead:?}");
    };
    assert_eq!(class, "window.overflow");
    assert!(value.contains(r#""trades":3"#), "{value}");
    assert!(!value.contains("volume"), "{value}");
}

#[tokio::test(start_paused = true)]
async fn a_sum_that_comes_back_into_range_is_exact() {
    let (bars, dead) = bars_of(&["60000000000", "60000000000", "-60000000000"]).await;
    assert!(dead.is_empty(), "{dead:?}");
    assert!(bars[0].contains(r#""volume":60000000000"#), "{bars:?}");
}
