//! Where several streams meet in a stage: their rows in the order of the records that led to them.

use std::sync::Arc;

use super::EventTime;
use crate::events::Rows;
use crate::operators::Move;

/// How far the other inputs of a stage let one of them move event time.
#[derive(Debug)]
pub(super) struct Limit<'m> {
    // Of inputs that stand still while this batch passes.
    still: i64,
    // Of inputs that the same batch moves: at each record they are where the one before left them,
    // for their rows of it may be yet to come.
    moving: Option<Moving<'m>>,
}

#[derive(Debug)]
struct Moving<'m> {
    // What holds them back apart from the batch.
    held_at: i64,
    // Where the batch's source was before the next move.
    at: i64,
    next: &'m [Move],
}

impl<'m> Limit<'m> {
    /// The limit of `input`: by the others that stand `still`, and by those of `moving`, each with
    /// what holds it back apart from the batch, whose source was at `before` and moves by `moves`.
    pub(super) fn new(
        still: i64,
        moving: &[(usize, i64)],
        input: usize,
        before: EventTime,
        moves: &'m [Move],
    ) -> Self {
        let others = moving.iter().filter(|(other, _)| *other != input);
        let moving = others.map(|(_, at)| *at).min().map(|held_at| Moving {
            held_at,
            at: match before {
                EventTime::At(time) => time.0,
                // Nothing moves before the first batch is through.
                EventTime::Idle(_) => i64::MIN,
            },
            next: moves,
        });
        Self { still, moving }
    }

    /// The limit by others that all stand still.
    pub(super) fn still(others: EventTime) -> Self {
        Self {
            still: others.limit(),
            moving: None,
        }
    }

    /// The limit at a record; records do not decrease from call to call.
    fn at(&mut self, record: u32) -> i64 {
        let Some(moving) = &mut self.moving else {
            return self.still;
        };
        while let Some((next, rest)) = moving.next.split_first()
            && next.record < record
        {
            moving.at = next.watermark;
            moving.next = rest;
        }
        self.still.min(moving.held_at).min(moving.at)
    }

    /// Holds the watermarks of rows back.
    fn apply(&mut self, rows: Arc<Rows>) -> Arc<Rows> {
        let mut first = None;
        for (row, head) in rows.heads().iter().enumerate() {
            let at = self.at(head.record);
            if head.watermark > at {
                first = Some((row, at));
                break;
            }
        }
        let Some((first, at)) = first else {
            return rows;
        };
        let mut rows = Arc::unwrap_or_clone(rows);
        rows.heads_mut()[first].watermark = at;
        for head in &mut rows.heads_mut()[first + 1..] {
            head.watermark = head.watermark.min(self.at(head.record));
        }
        Arc::new(rows)
    }
}

/// Cuts the batches that wait for a stage, those of each input in order of their records, into runs
/// in order of their records, then of the inputs; and holds watermarks back by what `limit` says of
/// an input.
pub(super) fn in_order<'m>(
    waiting: Vec<(usize, Arc<Rows>)>,
    limit: impl Fn(usize) -> Limit<'m>,
) -> Vec<(usize, Arc<Rows>)> {
    let mut inputs: Vec<Waiting<'m>> = Vec::new();
    for (input, rows) in waiting {
        match inputs.iter_mut().find(|one| one.input == input) {
            Some(one) => one.batches.push(rows),
            None => inputs.push(Waiting {
                input,
                limit: limit(input),
                batches: vec![rows],
                batch: 0,
                row: 0,
            }),
        }
    }
    inputs.sort_by_key(|one| one.input);
    let mut runs = Vec::new();
    loop {
        // The least, and the one after it: up to there is one run.
        let (mut least, mut second) = (None, None);
        for (place, one) in inputs.iter().enumerate() {
            let Some(record) = one.record() else { continue };
            let at = (record, place);
            if least.is_none_or(|least| at < least) {
                second = least.replace(at);
            } else if second.is_none_or(|second| at < second) {
                second = Some(at);
            }
        }
        let Some((_, place)) = least else {
            return runs;
        };
        let one = &mut inputs[place];
        let rows = one.take(|record| second.is_none_or(|second| (record, place) < second));
        runs.push((one.input, one.limit.apply(rows)));
    }
}

/// What waits at one input.
#[derive(Debug)]
struct Waiting<'m> {
    input: usize,
    limit: Limit<'m>,
    batches: Vec<Arc<Rows>>,
    // How far they have been taken.
    batch: usize,
    row: usize,
}

impl Waiting<'_> {
    /// The record of the next row.
    fn record(&self) -> Option<u32> {
        let rows = self.batches.get(self.batch)?;
        Some(rows.head(self.row).record)
    }

    /// Takes rows of the batch at hand for as long as `more` says.
    fn take(&mut self, more: impl Fn(u32) -> bool) -> Arc<Rows> {
        let rows = &self.batches[self.batch];
        let from = self.row;
        let heads = rows.heads()[from..].iter();
        // One at least, so that this ends.
        let count = heads.skip(1).take_while(|head| more(head.record)).count() + 1;
        let to = from + count;
        let taken = if count == rows.len() {
            rows.clone()
        } else {
            Arc::new(rows.slice(from..to))
        };
        if to == rows.len() {
            self.batch += 1;
            self.row = 0;
        } else {
            self.row = to;
        }
        taken
    }
}
