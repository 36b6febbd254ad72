//! Decoding: records to rows, with their watermark.

use std::time::Duration;

use tidemill_broker::{Batch, Timestamp, partition};
use tracing::warn;

use super::key;
use crate::config::plan::Disorder;
use crate::config::show_duration;
use crate::events::{JsonDecoder, Poison, RowHead, Rows, Text, class};

/// An event that is ahead of its record by more than this, and takes event time along by more than
/// this, is told of where nothing bounds it: more than clocks and time zones differ by, and than most
/// windows are long.
const AHEAD_TOLD: i64 = 24 * 3_600 * 1_000_000;

/// Decodes the records of one partition and keeps their watermark: the greatest event time seen,
/// less how far event time may run backwards.
///
/// Each row carries the watermark as it is once that row has been seen, so what is late does not
/// depend on how batches were cut. An event dated too far ahead of its record is poison: it alone
/// would make all that follows it late.
#[derive(Debug)]
pub struct Decode {
    decoder: JsonDecoder,
    key: Vec<usize>,
    incarnation: u64,
    out_of_order: i64,
    ahead_max: Option<i64>,
    // Its partition, of how many.
    home: Option<(u32, u32)>,
    // One that was let through has been told of.
    told: bool,
    watermark: i64,
}

impl Decode {
    /// Decodes with `decoder`; event times may be off by `out_of_order`: a duration says how far they
    /// may run backwards.
    pub fn new(decoder: JsonDecoder, out_of_order: impl Into<Disorder>) -> Self {
        let disorder = out_of_order.into();
        let micros = |of: Duration| i64::try_from(of.as_micros()).unwrap_or(i64::MAX);
        Self {
            decoder,
            key: Vec::new(),
            incarnation: 0,
            out_of_order: micros(disorder.behind),
            ahead_max: disorder.ahead_max.map(micros),
            home: None,
            told: false,
            watermark: i64::MIN,
        }
    }

    /// Keys each row by the text of these required text fields, joined by `|`, whether or not its
    /// record has a key; with no fields the record's own key stays.
    pub fn keyed_by(mut self, key: Vec<usize>) -> Self {
        self.key = key;
        self
    }

    /// Reads this incarnation of its topic: identities of records depend on it.
    pub fn of_incarnation(mut self, incarnation: u64) -> Self {
        self.incarnation = incarnation;
        self
    }

    /// Which incarnation of its topic it reads.
    pub fn incarnation(&self) -> u64 {
        self.incarnation
    }

    /// The watermark after what was decoded so far.
    pub fn watermark(&self) -> Timestamp {
        Timestamp(self.watermark)
    }

    /// Goes on from a committed watermark, or back to none.
    pub fn restore(&mut self, watermark: Timestamp) {
        self.watermark = watermark.0;
    }

    /// Refuses records whose key belongs in another partition than this one of so many, by the hash that
    /// brokers partition by.
    pub fn in_partition(mut self, partition: u32, partitions: u32) -> Self {
        self.home = Some((partition, partitions));
        self
    }

    /// Decodes a batch. Records that are poison are handed to `poison` with their index.
    pub fn decode(&mut self, batch: &Batch, poison: &mut dyn FnMut(usize, Poison)) -> Rows {
        let mut refused = Vec::new();
        let mut refuse = |record, reason| refused.push((record, reason));
        let rows = self.decoder.decode(batch, &mut refuse);
        let mut rows = rows.of_incarnation(self.incarnation);
        self.put_keys(&mut rows);
        if self.ahead_max.is_some() || self.home.is_some() {
            let decoded = refused.len();
            for row in 0..rows.len() {
                let reason = self.refusal(batch, &rows, row);
                refused.extend(reason.map(|reason| (rows.head(row).record as usize, reason)));
            }
            if refused.len() > decoded {
                rows = rows.select(|row| self.refusal(batch, &rows, row).is_none());
                refused.sort_unstable_by_key(|(record, _)| *record);
            }
        }
        for (record, reason) in refused {
            poison(record, reason);
        }
        let mut watermark = self.watermark;
        for head in rows.heads_mut() {
            let moved = head.time.saturating_sub(self.out_of_order);
            if moved > watermark.saturating_add(AHEAD_TOLD) && self.ahead_max.is_none() {
                self.tell(batch, head);
            }
            watermark = watermark.max(moved);
            head.watermark = watermark;
        }
        self.watermark = watermark;
        rows
    }

    fn put_keys(&self, rows: &mut Rows) {
        match self.key[..] {
            [] => {}
            // The text is there already.
            [slot] => {
                for row in 0..rows.len() {
                    let text = rows.number(row, slot).map(Text::from_slot);
                    rows.heads_mut()[row].key = text;
                }
            }
            _ => {
                for row in 0..rows.len() {
                    key::put_text(rows, row, &self.key);
                }
            }
        }
    }

    /// Why an event is poison in its place, if it is.
    fn refusal(&self, batch: &Batch, rows: &Rows, row: usize) -> Option<Poison> {
        let ahead = ahead(batch, &rows.heads()[row]);
        if let Some(max) = self.ahead_max.filter(|max| ahead > *max) {
            return Some(too_far(ahead, max));
        }
        let (partition, partitions) = self.home?;
        let home = partition::for_key(rows.key(row)?, partitions);
        (home != partition).then(|| elsewhere(home))
    }

    /// Warns of the first event that takes event time far ahead of its record.
    #[cold]
    fn tell(&mut self, batch: &Batch, head: &RowHead) {
        let ahead = ahead(batch, head);
        if self.told || ahead <= AHEAD_TOLD {
            return;
        }
        self.told = true;
        let offset = batch.get(head.record as usize).offset;
        let ahead = Duration::from_micros(ahead.unsigned_abs());
        warn!(at = %batch.at(), %offset, ?ahead, "an event is dated far ahead of its record: what comes after it and is dated before is late; `ahead_max` of the topic keeps such events out");
    }
}

/// How far an event is ahead of its record, in microseconds; a record without a timestamp bounds
/// nothing.
fn ahead(batch: &Batch, head: &RowHead) -> i64 {
    match batch.get(head.record as usize).timestamp {
        Timestamp::MIN => i64::MIN,
        Timestamp(time) => head.time.saturating_sub(time),
    }
}

fn too_far(ahead: i64, ahead_max: i64) -> Poison {
    // How far to the microsecond helps nobody.
    let rounded = [86_400_000_000, 1_000_000, 1].into_iter();
    let unit = rounded.filter(|unit| *unit <= ahead).max().unwrap_or(1);
    let shown = |micros: i64| show_duration(Duration::from_micros(micros.unsigned_abs()));
    let message = format!(
        "event time is {} ahead of its record: at most {} is taken; `ahead_max` of the topic sets how much",
        shown(ahead - ahead % unit),
        shown(ahead_max)
    );
    Poison::new(class::TIME_AHEAD, message)
}

fn elsewhere(home: u32) -> Poison {
    let message = format!(
        "its key belongs in partition {home}, by the hash of Tidemill and of Kafka's own producers: here it would not meet what the same key has in broadcast topics"
    );
    Poison::new(class::PARTITION, message)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tidemill_broker::{BatchBuilder, Headers, Offset, Topic, TopicPartition};

    use super::*;
    use crate::events::{Field, Limits, Schema, Type};

    const SECOND: i64 = 1_000_000;

    /// Records with their timestamp and what their event says, both in seconds.
    fn batch(records: &[(Timestamp, &str)]) -> Batch {
        let mut builder = BatchBuilder::default();
        for (timestamp, event) in records {
            let headers = Headers::new();
            builder.push(*timestamp, None, Some(event.as_bytes()), headers.encoded());
        }
        let at = TopicPartition::new(Topic::new("trades").unwrap(), 0);
        builder.build(at, Offset(records.len() as u64))
    }

    fn event(seconds: i64) -> String {
        format!(r#"{{"at":{}}}"#, seconds * 1_000)
    }

    fn decode(ahead_max: Option<u64>) -> Decode {
        let schema = Arc::new(Schema {
            name: "Trade".into(),
            fields: vec![Field {
                name: "at".into(),
                ty: Type::Time,
                required: true,
            }],
            time: Some(0),
        });
        let decoder = JsonDecoder::new(schema, 1, Limits::default());
        let out_of_order = Disorder {
            behind: Duration::from_secs(2),
            ahead_max: ahead_max.map(Duration::from_secs),
        };
        Decode::new(decoder, out_of_order)
    }

    type Refused = Vec<(usize, &'static str)>;

    fn run(decode: &mut Decode, batch: &Batch) -> (Vec<(u32, i64, i64)>, Refused) {
        let mut refused = Vec::new();
        let rows = decode.decode(batch, &mut |at, poison| refused.push((at, poison.class)));
        let rows = rows.heads().iter();
        let seen = rows.map(|head| (head.record, head.time / SECOND, head.watermark / SECOND));
        (seen.collect(), refused)
    }

    #[test]
    fn an_event_too_far_ahead_of_its_record_is_poison_and_moves_no_watermark() {
        let (at, events) = (
            Timestamp(100 * SECOND),
            [90, 110, 111, 40_000, 101].map(event),
        );
        let mut records: Vec<_> = events.iter().map(|event| (at, event.as_str())).collect();
        records.insert(2, (at, "no event"));
        records.push((at, "none either"));
        let whole = batch(&records);
        let expected = vec![(0, 90, 88), (1, 110, 108), (5, 101, 108)];
        let refused = vec![
            (2, class::SYNTAX),
            (3, class::TIME_AHEAD),
            (4, class::TIME_AHEAD),
            (6, class::SYNTAX),
        ];
        assert_eq!(run(&mut decode(Some(10)), &whole), (expected, refused));
        // However the batch is cut.
        let mut decode = decode(Some(10));
        for record in 0..whole.len() {
            let one = whole.slice(record..record + 1, Offset(record as u64 + 1));
            run(&mut decode, &one);
        }
        assert_eq!(decode.watermark(), Timestamp(108 * SECOND));
    }

    #[test]
    fn what_is_behind_its_record_or_has_none_is_taken_whatever_the_bound() {
        let early = event(0);
        let late = event(1_000_000);
        let batch = batch(&[
            (Timestamp(100 * SECOND), &early),
            (Timestamp::MAX, &early),
            (Timestamp::MIN, &late),
            (Timestamp(1_000_000 * SECOND), &late),
        ]);
        let (seen, refused) = run(&mut decode(Some(0)), &batch);
        assert_eq!((seen.len(), refused), (4, Vec::new()));
    }

    #[test]
    fn without_a_bound_it_is_taken_and_told_of_once() {
        let (ahead, further) = (event(90_000), event(900_000));
        let batch = batch(&[(Timestamp(0), &ahead), (Timestamp(0), &further)]);
        let mut decode = decode(None);
        let (seen, refused) = run(&mut decode, &batch);
        assert_eq!((seen.len(), refused), (2, Vec::new()));
        assert!(decode.told);
        // An import: records carry the events' times.
        let mut imported = super::tests::decode(None);
        let far = self::batch(&[(Timestamp(900_000 * SECOND), &further)]);
        run(&mut imported, &far);
        assert!(!imported.told);
    }
}
