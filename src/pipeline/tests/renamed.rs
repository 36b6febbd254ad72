//! A source that was given another name, and reads what it read.

use super::*;

/// The file of the bars with a source of another name that reads the same topic.
fn renamed_plan() -> Plan {
    let file = file("mem://", "", BARS)
        .replace(
            "[topics.market-data-updates]",
            "[topics.ticks]\ntopic = \"market-data-updates\"",
        )
        .replace("from = \"market-data-updates\"", "from = \"ticks\"");
    let parsed = crate::config::Pipeline::parse("bars.toml", &file, &|_| None);
    parsed.unwrap_or_else(|problems| panic!("{problems}")).plan
}

/// It was read once more from its start, and gave everything twice.
#[tokio::test(start_paused = true)]
async fn a_source_that_was_renamed_goes_on_where_it_stopped() {
    let outputs = MemoryBroker::default();
    // Without a group, of which the offsets would tell that something is wrong.
    let elsewhere = |plan: &mut Plan| {
        let mut other = plan.brokers[0].clone();
        other.name = "out".into();
        plan.brokers.push(other);
        plan.sinks[0].topic.broker = 1;
        plan.dead_letter.broker = 1;
    };
    for in_group in [true, false] {
        let broker = broker_with(1).await;
        let of = |mut plan: Plan| {
            let mut brokers: Vec<Arc<dyn Broker>> = vec![Arc::new(broker.clone())];
            if !in_group {
                elsewhere(&mut plan);
                brokers.push(Arc::new(outputs.clone()));
            }
            Pipeline::in_order(plan, brokers, Arc::new(MemoryStores::default()))
        };
        let written = if in_group { &broker } else { &outputs };
        for second in 0..5 {
            let tick = tick("A", second * 1_000, "10", "1");
            broker.send(tick).await.unwrap();
        }
        run(&of(bars_plan())).await.unwrap();
        let bars = read_all(written, "bars-1s").await;
        assert_eq!(bars.len(), 5);

        let renamed = of(renamed_plan());
        let error = run(&renamed).await.unwrap_err().to_string();
        for said in [
            "source `ticks` is new",
            "source `market-data-updates` is gone",
        ] {
            assert!(error.contains(said), "{error}");
        }
        let accepted = RunOptions {
            accept_new_version: true,
            ..until_end()
        };
        let (_running, stop) = watch::channel(false);
        renamed.run(accepted, stop).await.unwrap();
        assert_eq!(read_all(written, "bars-1s").await, bars);
        // Event time is where it was, too: the window of the first has fired.
        for second in [0, 5] {
            let tick = tick("A", second * 1_000, "10", "1");
            broker.send(tick).await.unwrap();
        }
        run(&renamed).await.unwrap();
        assert_eq!(read_all(written, "bars-1s").await.len(), 6);
        assert_eq!(read_all(written, "bars.dead-letter").await.len(), 1);
    }
}
