//! A task's share of what every task reads.

use std::sync::Arc;

use tidemill_broker::partition;

use super::{Context, Operator};
use crate::events::Rows;

/// Passes on the rows whose key would lie in the task's own partition, by the hash that brokers partition
/// by; those without a key lie in the first. Of all tasks that read a row, one passes it on.
///
/// The others move event time by it all the same.
#[derive(Debug)]
pub(crate) struct Share {
    partition: u32,
    partitions: u32,
}

impl Share {
    /// The share of the task of a partition among so many.
    pub(crate) fn new(partition: u32, partitions: u32) -> Self {
        Self {
            partition,
            partitions,
        }
    }
}

impl Operator for Share {
    fn process(&mut self, _input: usize, rows: Arc<Rows>, cx: &mut Context) {
        let home = |key| partition::for_key(key, self.partitions);
        let is_own = |row| rows.key(row).map_or(0, home) == self.partition;
        cx.emit(0, rows.select(is_own));
    }
}
