//! The wall clock jumps, stands still or goes backwards: what comes out and when it is committed hangs
//! on event time and on time passed alone. Only retention goes by the wall clock, and is told.

use tidemill_broker::{Cleanup, Clock, ManualClock, Offset, Retention};

use super::halts::{TICKS, at, contents};
use super::*;

const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3_600);

/// How the wall clock behaves.
#[derive(Debug, Clone, Copy)]
enum Wall {
    /// As it should.
    Runs,
    StandsStill,
    /// Forwards and backwards in turn.
    Jumps(Duration),
    /// Backwards and forwards in turn.
    JumpsBack(Duration),
}

/// Time as the pipeline sees it pass, and what the wall clock makes of it.
struct Times {
    clock: Arc<ManualClock>,
    wall: Wall,
    jumps: u32,
}

impl Times {
    async fn pass(&self, by: Duration) {
        tokio::time::sleep(by).await;
        if !matches!(self.wall, Wall::StandsStill) {
            self.clock.advance(by);
        }
    }

    fn jump(&mut self) {
        self.jumps += 1;
        let is_first = self.jumps % 2 == 1;
        let now = self.clock.now();
        match self.wall {
            Wall::Jumps(by) if is_first => self.clock.set(now.plus(by)),
            Wall::Jumps(by) => self.clock.set(now.minus(by)),
            Wall::JumpsBack(by) if is_first => self.clock.set(now.minus(by)),
            Wall::JumpsBack(by) => self.clock.set(now.plus(by)),
            Wall::Runs | Wall::StandsStill => {}
        }
    }
}

/// Two streams, merged and windowed: one of them falls silent.
const MERGED: &str = r#"
    [topics.other]
    event = "MarketDataUpdate"
    key = "pair"
    start = "earliest"
    idle = "30s"
    [topics.bars-1s]

    [stages.both]
    from = ["market-data-updates", "other"]
    op = "merge"
    [stages.second]
    from = "both"
    op = "tumbling_window"
    size = "1s"
    aggregate = { n = "count()", sum = "sum(quantity)" }

    [sinks.bars]
    from = "second"
    topic = "bars-1s"
"#;

async fn send(broker: &MemoryBroker, topic: &str, seconds: std::ops::Range<i64>) {
    for second in seconds {
        let mut tick = tick("A", second * 1_000, "10", "1");
        tick.topic = Topic::new(topic).unwrap();
        broker.send(tick).await.unwrap();
    }
}

/// A day at work under such a clock: everything that is in the broker at its end.
async fn a_day(wall: Wall) -> impl PartialEq + std::fmt::Debug {
    let noon = Timestamp::from_millis(1_700_000_000_000);
    let clock = Arc::new(ManualClock::starting_at(noon));
    let broker = MemoryBroker::with_clock(clock.clone());
    let mut times = Times {
        clock,
        wall,
        jumps: 0,
    };
    for topic in [TICKS, "other"] {
        let spec = TopicSpec::new(Topic::new(topic).unwrap(), NonZeroU32::MIN);
        broker.create_topic(&spec).await.unwrap();
    }
    let plan = plan("commit = \"2s\"", MERGED);
    let (group, pipeline) = (plan.group.clone(), pipeline(plan, &broker));
    let progress = pipeline.progress();
    let committed = async || {
        let offsets = broker.committed(&group, &[at(TICKS, 0)]).await.unwrap();
        offsets[0]
    };
    let bars = async || read_all(&broker, "bars-1s").await.len();
    let (stop, stopped) = watch::channel(false);
    let running = tokio::spawn(async move { pipeline.run(RunOptions::new("0", 1), stopped).await });

    send(&broker, "other", 0..1).await;
    send(&broker, TICKS, 0..5).await;
    times.pass(SECOND).await;
    assert_eq!(committed().await, None, "{wall:?}: before the interval");
    times.jump();
    times.pass(2 * SECOND).await;
    assert_eq!(committed().await, Some(Offset(5)), "{wall:?}: after it");

    // The other stream holds back until it has been silent for so long, by no clock on a wall.
    times.jump();
    times.pass(20 * SECOND).await;
    assert_eq!(bars().await, 0, "{wall:?}: it may still speak");
    times.jump();
    times.pass(10 * SECOND).await;
    assert_eq!(bars().await, 4, "{wall:?}: it is idle");

    // Hours without anything: nothing is committed, and nothing lost.
    let before = progress.counts();
    times.pass(3 * HOUR).await;
    times.jump();
    times.pass(HOUR).await;
    assert_eq!(progress.counts(), before, "{wall:?}");
    assert_eq!(committed().await, Some(Offset(5)), "{wall:?}");
    send(&broker, TICKS, 5..8).await;
    times.pass(3 * SECOND).await;
    assert_eq!(committed().await, Some(Offset(8)), "{wall:?}");
    assert_eq!(bars().await, 7, "{wall:?}: it is idle still");

    // It speaks again, and while the clock jumps it is taken in its turn.
    times.jump();
    send(&broker, "other", 20..21).await;
    send(&broker, TICKS, 8..25).await;
    times.jump();
    times.pass(3 * SECOND).await;
    stop.send_replace(true);
    running.await.unwrap().unwrap();
    (contents(&broker).await, progress.counts())
}

#[tokio::test(start_paused = true)]
async fn what_comes_out_and_when_does_not_depend_on_the_wall_clock() {
    let expected = a_day(Wall::Runs).await;
    let walls = [
        Wall::StandsStill,
        Wall::Jumps(HOUR),
        Wall::JumpsBack(HOUR),
        Wall::Jumps(1_000 * HOUR),
    ];
    for wall in walls {
        assert_eq!(a_day(wall).await, expected, "{wall:?}");
    }
}

/// Brokers forget the offsets of a group that has been away for long: the marker knows.
#[tokio::test(start_paused = true)]
async fn a_group_whose_offsets_were_forgotten_goes_on_at_the_marker() {
    let broker = broker_with(1).await;
    let mut plan = bars_plan();
    let stores = Arc::new(MemoryStores::default());
    let of = |plan: Plan| Pipeline::in_order(plan, vec![Arc::new(broker.clone())], stores.clone());
    send(&broker, TICKS, 0..10).await;
    run(&of(plan.clone())).await.unwrap();
    // One that has committed nothing.
    plan.group = "forgotten".parse().unwrap();
    let forgotten = of(plan);
    for seconds in [10..20, 20..25] {
        send(&broker, TICKS, seconds).await;
        run(&forgotten).await.unwrap();
    }
    let bars = read_all(&broker, "bars-1s").await;
    let starts = bars.iter().map(|bar| bar.split("windowStart").nth(1));
    assert_eq!(starts.collect::<std::collections::BTreeSet<_>>().len(), 25);
    assert_eq!(bars.len(), 25, "{bars:#?}");
}

/// Retention is what goes by the wall clock. What it removes too early is missed, and told; a clock
/// that is set back removes nothing early.
#[tokio::test(start_paused = true)]
async fn records_that_a_jump_of_the_clock_removed_unread_are_told() {
    let start = Timestamp::from_millis(1_700_000_000_000);
    for (jump, lost) in [(Some(HOUR), true), (None, false)] {
        let clock = Arc::new(ManualClock::starting_at(start));
        let broker = MemoryBroker::with_clock(clock.clone());
        let retention = Retention {
            age: Some(HOUR / 2),
            bytes: None,
        };
        let spec = TopicSpec::new(Topic::new(TICKS).unwrap(), NonZeroU32::MIN)
            .cleanup(Cleanup::Delete(retention));
        broker.create_topic(&spec).await.unwrap();
        let pipeline = pipeline(bars_plan(), &broker);
        send(&broker, TICKS, 0..10).await;
        run(&pipeline).await.unwrap();
        send(&broker, TICKS, 10..15).await;
        match jump {
            Some(by) => clock.advance(by),
            None => clock.set(start.minus(HOUR)),
        }
        send(&broker, TICKS, 15..20).await;
        broker.clean();
        let low = broker.watermarks(&at(TICKS, 0)).await.unwrap().low;
        let ended = run(&pipeline).await;
        let bars = read_all(&broker, "bars-1s").await.len();
        if lost {
            let error = ended.unwrap_err();
            assert_eq!(low, Offset(15));
            assert_eq!(error.kind(), Kind::Integrity, "{error}");
            let said = "from offset 10 are gone: the log begins at 15";
            assert!(error.to_string().contains(said), "{error}");
            assert_eq!(bars, 10);
        } else {
            ended.unwrap();
            assert_eq!((low, bars), (Offset(0), 20));
        }
    }
}
