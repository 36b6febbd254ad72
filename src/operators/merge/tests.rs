//! Merge over a state that is committed, put out of memory and opened again, against a sorted list.

use futures::executor::block_on;
use proptest::prelude::*;
use tidemill_broker::{BatchBuilder, Offset, Topic, TopicPartition};
use tidemill_state::{
    Digest, Epoch, Identity, Kind, MemoryDisk, MemoryStore, State, StateOptions, TableId, TableSpec,
};

use super::*;
use crate::events::{Field, RowHead, Type};

/// A merge and the state it commits to.
struct World {
    state: State,
    table: TableId,
    bytes_max: usize,
    epoch: Epoch,
    watermark: i64,
    merge: Merge,
}

impl World {
    fn new(bytes_max: usize) -> Self {
        block_on(async {
            let identity = Identity {
                pipeline: "model".into(),
                task: "0".into(),
            };
            let store = MemoryStore::open(&MemoryDisk::default(), &identity).unwrap();
            let store = Arc::new(store);
            let (state, _) = State::open(store, StateOptions::default()).await.unwrap();
            let redone = state.finish_redo(Epoch::NONE, 0, Digest::EMPTY).await;
            redone.unwrap();
            let spec = TableSpec {
                name: "held".into(),
                kind: Kind::Value,
                codec: CODEC,
                ttl_ms: None,
            };
            let table = state.declare(&[spec]).unwrap()[0];
            let mut world = Self {
                merge: Merge::new(schema(), Table::new(table, bytes_max)),
                state,
                table,
                bytes_max,
                epoch: Epoch::NONE,
                watermark: i64::MIN,
            };
            world.open().await;
            world
        })
    }

    /// As a task is opened.
    async fn open(&mut self) {
        self.merge = Merge::new(schema(), Table::new(self.table, self.bytes_max));
        for table in self.merge.tables() {
            self.state.load_all(table).await.unwrap();
        }
        let prefix = self.table.prefix();
        for (key, value) in self.state.scan(prefix, None, 10_000).await.unwrap() {
            let (_, key) = TableId::split(&key).unwrap();
            self.merge.restore(0, key, &value).unwrap();
        }
        let nothing = &mut Context::default().at_most(0);
        self.merge.advance(Timestamp(self.watermark), nothing);
    }

    fn commit(&mut self) {
        self.epoch = self.epoch.next();
        let mut tables = self.merge.tables();
        self.state.close_epoch(self.epoch, &mut tables).unwrap();
        self.state.committed(self.epoch, 0).unwrap();
    }

    fn load(&mut self, ahead: Ahead<'_>) {
        if self.merge.held.is_complete() {
            return;
        }
        let mut wanted = Vec::new();
        self.merge.missing(ahead, &mut wanted);
        let keys: Vec<_> = wanted.into_iter().map(|(_, key)| key).collect();
        block_on(self.state.load(&mut self.merge.held, &keys)).unwrap();
    }

    /// The numbers of the rows that go out as these come in.
    fn push(&mut self, input: usize, rows: Rows) -> Vec<i64> {
        let rows = Arc::new(rows);
        let last = rows.heads().last().map_or(i64::MIN, |head| head.watermark);
        self.watermark = self.watermark.max(last);
        self.load(Ahead::Rows {
            input,
            rows: &rows,
            watermark: Timestamp(self.watermark),
            most: usize::MAX,
        });
        let mut context = Context::default();
        self.merge.process(input, rows, &mut context);
        numbers(&mut context)
    }

    /// The numbers of all that is still held.
    fn finish(&mut self) -> Vec<i64> {
        let (watermark, most) = (Timestamp::MAX, usize::MAX);
        self.load(Ahead::Time { watermark, most });
        let mut context = Context::default();
        self.merge.advance(watermark, &mut context);
        numbers(&mut context)
    }
}

fn numbers(context: &mut Context) -> Vec<i64> {
    let dead = context.take_dead();
    assert!(dead.is_empty(), "{dead:?}");
    let emitted = context.take_emitted().into_iter();
    let number = |rows: &Rows, row: usize| rows.slots(row)[0];
    emitted
        .flat_map(|(_, rows)| (0..rows.len()).map(move |row| number(&rows, row)))
        .collect()
}

fn schema() -> Arc<Schema> {
    Arc::new(Schema {
        name: "Trade".into(),
        fields: vec![Field {
            name: "number".into(),
            ty: Type::Int,
            required: true,
        }],
        time: None,
    })
}

/// A row that comes in.
#[derive(Debug, Clone, Copy)]
struct Arrival {
    input: usize,
    /// The topic of its record, the partition and the offset; none if an operator made it.
    of: Option<(&'static str, u32, u64)>,
    time: i64,
    watermark: i64,
    /// Whether it comes with the one before in one batch, if that can be.
    joins: bool,
    /// What is done after it.
    then: Then,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Then {
    Nothing,
    Commit,
    Restart,
}

impl Arrival {
    /// As the rows are to go out: those of records first, in their places.
    fn order(&self, number: i64) -> impl Ord + use<> {
        let place = self
            .of
            .map(|(topic, partition, offset)| (partition, offset, topic));
        (self.time, self.input, place.is_none(), place, number)
    }
}

prop_compose! {
    fn arrivals()(
        raw in prop::collection::vec(
            (0_usize..2, prop::option::weighted(0.7, (0_usize..3, 0_u32..2, 0_u64..3)), -3_i64..4, any::<bool>(), 0..8),
            1..80,
        ),
        slack in 0_i64..4,
    ) -> Vec<Arrival> {
        let (mut now, mut watermark) = (0, i64::MIN);
        let arrivals = raw.into_iter().map(|(input, of, step, joins, then)| {
            let time = now + step;
            now = now.max(time);
            watermark = watermark.max(now - slack);
            let of = of.map(|(topic, partition, offset)| (["a", "ab", "b"][topic], partition, offset));
            let then = match then {
                0 => Then::Commit,
                1 => Then::Restart,
                _ => Then::Nothing,
            };
            Arrival { input, of, time, watermark, joins, then }
        });
        arrivals.collect()
    }
}

/// Rows that come in together: of one input, and of one partition, or made by an operator.
fn rows(arrivals: &[Arrival], from: i64) -> Rows {
    let mut rows = match arrivals[0].of {
        None => Rows::new(schema()),
        Some((topic, partition, _)) => {
            let at = TopicPartition::new(Topic::new(topic).unwrap(), partition);
            let mut set = BatchBuilder::default();
            for arrival in arrivals {
                let (.., offset) = arrival.of.unwrap();
                set.push_at(Offset(offset), Timestamp(0), None, None, &[]);
            }
            Rows::over(schema(), set.build(at, Offset(99)))
        }
    };
    for (record, (number, arrival)) in (from..).zip(arrivals).enumerate() {
        let head = RowHead {
            present: 1,
            time: arrival.time,
            watermark: arrival.watermark,
            key: None,
            record: record as u32,
        };
        match arrival.of {
            None => rows.push_made(number as u128, head, &[number]),
            Some(_) => rows.push(head, &[number]),
        }
    }
    rows
}

fn expected(arrivals: &[Arrival]) -> Vec<i64> {
    let mut held: Vec<(i64, Arrival)> = Vec::new();
    let mut out = Vec::new();
    let release = |held: &mut Vec<(i64, Arrival)>, watermark: i64, out: &mut Vec<i64>| {
        held.sort_by_key(|(number, arrival)| arrival.order(*number));
        out.extend(
            held.extract_if(.., |(_, arrival)| arrival.time < watermark)
                .map(|(number, _)| number),
        );
    };
    for (number, arrival) in (0..).zip(arrivals) {
        release(&mut held, arrival.watermark, &mut out);
        if arrival.time < arrival.watermark {
            out.push(number);
        } else {
            held.push((number, *arrival));
        }
    }
    release(&mut held, i64::MAX, &mut out);
    out
}

fn found(arrivals: &[Arrival], bytes_max: usize) -> Vec<i64> {
    let mut world = World::new(bytes_max);
    let mut out = Vec::new();
    let mut from = 0;
    while from < arrivals.len() {
        let first = &arrivals[from];
        let source = |arrival: &Arrival| arrival.of.map(|(topic, partition, _)| (topic, partition));
        let more = arrivals[from + 1..].iter().zip(&arrivals[from..]);
        let together = more.take_while(|(next, before)| {
            next.joins
                && before.then == Then::Nothing
                && next.input == first.input
                && source(next) == source(first)
        });
        let to = from + 1 + together.count();
        out.extend(world.push(first.input, rows(&arrivals[from..to], from as i64)));
        match arrivals[to - 1].then {
            Then::Nothing => {}
            Then::Commit => world.commit(),
            Then::Restart => {
                world.commit();
                block_on(world.open());
            }
        }
        from = to;
    }
    out.extend(world.finish());
    out
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 300,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    /// Of two rows of one time, partition and offset, one of each topic, only the later once went out; with
    /// little memory, rows behind a late one in its batch were set aside.
    #[test]
    fn every_row_goes_out_once_and_in_order_whatever_is_in_memory(arrivals in arrivals()) {
        let expected = expected(&arrivals);
        for bytes_max in [1 << 20, 300, 0] {
            prop_assert_eq!(found(&arrivals, bytes_max), expected.clone(), "{} bytes", bytes_max);
        }
    }
}

/// Those of rows with an offset once had neither topic nor arrival.
#[test]
fn what_is_held_under_an_older_key_goes_out_first_and_keeps_nobody_from_its_place() {
    let mut world = World::new(1 << 20);
    let arrival = |of| Arrival {
        input: 0,
        of,
        time: 10,
        watermark: 0,
        joins: false,
        then: Then::Nothing,
    };
    let record = arrival(Some(("a", 0, 5)));
    let made = arrival(None);
    let held = |number: i64| HeldRow::hold(&rows(&[record], number), 0);
    let mut old = key::time_to_bytes(10).to_vec();
    old.extend_from_slice(&[0, 0, 0, 0, 0, 0]);
    old.extend_from_slice(&5_u64.to_be_bytes());
    assert_eq!(old.len(), PLACE_BYTES);
    world.merge.held.insert(&old, held(1)).unwrap();
    old[10..14].copy_from_slice(&OF_NO_RECORD);
    world.merge.held.insert(&old, held(2)).unwrap();
    world.commit();
    block_on(world.open());
    assert_eq!(world.merge.arrivals, 6);
    world.push(0, rows(&[made], 3));
    world.push(0, rows(&[record], 4));
    world.commit();
    block_on(world.open());
    assert_eq!(world.finish(), [1, 4, 2, 3]);
    let mut value = Vec::new();
    held(5).encode(&mut value);
    assert!(world.merge.restore(0, &old, &value).is_ok());
    assert!(world.merge.restore(0, &old[1..], &value).is_err());
}

/// It counted as nothing, so that a table took as many as came.
#[test]
fn a_held_event_takes_room_for_its_texts() {
    let fields = vec![Field {
        name: "text".into(),
        ty: Type::Text,
        required: true,
    }];
    let schema = Schema {
        name: "Note".into(),
        fields,
        time: None,
    };
    let mut rows = Rows::new(schema.into());
    let text = rows.add_text(&[b'x'; 10_000]);
    let head = RowHead {
        present: 1,
        time: 0,
        watermark: 0,
        key: None,
        record: 0,
    };
    rows.push_made(1, head, &[text.to_slot()]);
    let held = HeldRow::hold(&rows, 0);
    assert!(held.heap() >= 10_000);
    let mut table = Table::in_memory();
    table.insert(b"place", held).unwrap();
    assert!(table.bytes() >= 10_000);
}
