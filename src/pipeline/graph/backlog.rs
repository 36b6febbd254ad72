//! What event time has made due and was too much to do at once: it goes through the stages in pieces.
//!
//! A stage with a backlog is as far in event time as its inputs, but holds those behind it where its
//! own next row is. The stage that comes first does a piece, which flows through those behind it; so
//! what comes out, and in which order, follows from the state alone, wherever epochs were cut or the
//! process was stopped.

use tidemill_broker::Timestamp;
use tidemill_state::State;

use super::fan_in::{Limit, in_order};
use super::{EventTime, Graph, Node, Origin, Output, Target, least, least_of, load};
use crate::events::Rows;
use crate::operators::{Ahead, Context, weight};

/// How much larger a row may be than its record: a key is made of fields that are there as well.
const GROWS: usize = 4;

/// More than the numbers of a row take.
const NUMBERS_BYTES: usize = 512;

impl Graph {
    /// How many of the first records of a batch a source may bring at once: up to the one at which more
    /// may fall due in a stage than it does at once. `None` for all.
    pub(crate) fn cut(&self, source: usize, rows: &Rows) -> Option<usize> {
        let heads = rows.heads();
        let weights = self.sources[source].is_held.then(|| weights(rows));
        let is_too_much = |row: usize| {
            let before = weights.as_ref().map_or(row, |weights| weights[row]);
            self.falls_due(source, heads[row].watermark, before)
        };
        if heads.is_empty() || !is_too_much(heads.len() - 1) {
            return None;
        }
        // The first of which it is true: with each row there is more.
        let (mut few, mut many) = (0, heads.len() - 1);
        while few < many {
            let row = few + (many - few) / 2;
            if is_too_much(row) {
                many = row;
            } else {
                few = row + 1;
            }
        }
        Some(heads[many].record as usize + 1)
    }

    /// Whether more may fall due in a stage than it does at once, if a source brings rows of so much and
    /// then event time comes to `watermark` on it. What falls due in a stage is what it holds, or has
    /// come from those before; what comes from a stage is no more than that.
    fn falls_due(&self, source: usize, watermark: i64, rows: usize) -> bool {
        let mut held_at = vec![i64::MAX; self.nodes.len()];
        // Of each node: how many rows it makes, at most.
        let mut made = vec![0_usize; self.nodes.len()];
        for one in &*self.sources[source].reached {
            let node = &self.nodes[one.node];
            let at = least_of(one.others(node), &one.moving(&held_at));
            held_at[one.node] = at;
            let taken = one.inputs.iter().map(|(_, origin)| match origin {
                Origin::Source => rows,
                Origin::Node(before) => made[*before],
            });
            let taken = taken.fold(0, usize::saturating_add);
            let due = node.operator.due(Timestamp(watermark.min(at)), self.most);
            made[one.node] = taken.saturating_add(due);
            // Each may fall due twice: to go on, and to be let go.
            if made[one.node].saturating_mul(2) > self.most {
                return true;
            }
        }
        false
    }

    /// Whether anything is left to do before the next record.
    pub(crate) fn has_backlog(&self) -> bool {
        self.nodes.iter().any(|node| node.operator.has_backlog())
    }

    /// Does a piece of what is left, and sends it through the stages behind. Returns how much it was
    /// at most.
    pub(crate) async fn work_off(
        &mut self,
        state: &mut State,
        output: &mut Output,
    ) -> tidemill_state::Result<usize> {
        let first = self
            .nodes
            .iter()
            .position(|node| node.operator.has_backlog());
        let Some(first) = first else {
            return Ok(0);
        };
        let mut context = Context::default().at_most(self.most);
        let node = &mut self.nodes[first];
        load(node, Ahead::Backlog { most: self.most }, state).await?;
        node.operator.work_off(&mut context);
        self.deliver(first, context, output);
        for index in first + 1..self.nodes.len() {
            let reads = &self.reads[index];
            if reads.is_empty() {
                continue;
            }
            let mut context = Context::default().at_most(self.most);
            let node = &self.nodes[index];
            let waiting = std::mem::take(&mut self.pending[index]);
            // Each input as the others were before this piece: their rows of it may be yet to come.
            let waiting = in_order(waiting, |input| {
                let others = node.inputs.iter().enumerate();
                let others = others.filter(|(other, _)| *other != input);
                Limit::still(least(others.map(|(_, time)| *time)))
            });
            let after: Vec<(usize, EventTime)> = reads
                .iter()
                .map(|(input, read)| (*input, self.nodes[*read].time_behind()))
                .collect();
            let node = &mut self.nodes[index];
            node.run(after, waiting, &mut context, state).await?;
            self.deliver(index, context, output);
        }
        Ok(self.most)
    }
}

/// Of each row of a source: what those before it count for at most, wherever they are held.
fn weights(rows: &Rows) -> Vec<usize> {
    let mut sum = 0;
    let heads = rows.heads().iter();
    let before = heads.map(|head| {
        let bytes = rows.source().map_or(0, |batch| {
            let record = batch.get(head.record as usize);
            record.key.map_or(0, <[u8]>::len) + record.value.map_or(0, <[u8]>::len)
        });
        let after = sum + weight(bytes * GROWS + NUMBERS_BYTES);
        std::mem::replace(&mut sum, after)
    });
    before.collect()
}

/// Of each node: its inputs that read another, and which.
pub(super) fn reads(nodes: &[Node]) -> Vec<Vec<(usize, usize)>> {
    let mut reads = vec![Vec::new(); nodes.len()];
    for (index, node) in nodes.iter().enumerate() {
        for target in node.ports.iter().flatten() {
            if let Target::Node { node, input, .. } = *target {
                reads[node].push((input, index));
            }
        }
    }
    reads
}
