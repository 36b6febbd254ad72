//! How a task shares out the memory that the file allows it.

use tidemill_state::{StateOptions, planted};

use super::topology::SubTopology;
use crate::config::Plan;
use crate::config::plan::OpPlan;

/// However little memory a task is given: so much may wait to be written behind, more than most epochs
/// hold.
const DIRTY_BYTES_MIN: usize = 64 << 10;

/// The bounds of a task's state. Who is given little memory has little waiting to be written behind.
pub(crate) fn state_options(plan: &Plan) -> StateOptions {
    let options = StateOptions::default();
    let dirty_bytes_max = options
        .dirty_bytes_max
        .min(plan.memory)
        .max(DIRTY_BYTES_MIN);
    StateOptions {
        dirty_bytes_max,
        ..options
    }
}

/// How many bytes of what is unchanged each table of a task keeps: an even share of what the file
/// allows, among those that can use any. What event time has come to is always in memory, and so are
/// the ids of a dedupe, in an index of its own.
///
/// Even, and not by what is in use at the time: so what is in memory depends on nothing but the
/// stage's own input.
pub(crate) fn table_bytes(plan: &Plan, topology: &SubTopology) -> usize {
    let stages = topology.stages.iter().map(|&stage| &plan.stages[stage].op);
    let sharing = stages.filter(|op| match op {
        OpPlan::TumblingWindow { .. } | OpPlan::Merge => true,
        OpPlan::Dedupe { .. } | OpPlan::KeyBy { .. } | OpPlan::Route { .. } => false,
    });
    planted!(P20, {
        return plan.memory;
    });
    plan.memory / sharing.count().max(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::tests::{BARS, plan};
    use crate::pipeline::topology::sub_topologies;

    fn share_of(stages: &str) -> usize {
        let plan = plan("memory = \"120MiB\"", &format!("{BARS}{stages}"));
        table_bytes(&plan, &sub_topologies(&plan)[0]) >> 20
    }

    #[test]
    fn what_keeps_nothing_there_takes_no_share_of_the_memory() {
        assert_eq!(share_of(""), 120);
        let once = r#"
            [stages.once]
            from = "market-data-updates"
            op = "dedupe"
            id = "quantity"
            window = "1h"
            [sinks.once]
            from = "once"
            topic = "unique"
            [topics.unique]
            broker = "main"
        "#;
        assert_eq!(share_of(once), 120);
        let minute = r#"
            [stages.minute]
            from = "market-data-updates"
            op = "tumbling_window"
            size = "1m"
            aggregate = { trades = "count()" }
            [sinks.minute]
            from = "minute"
            topic = "minutes"
            [topics.minutes]
            broker = "main"
        "#;
        assert_eq!(share_of(minute), 60);
        assert_eq!(share_of(&format!("{once}{minute}")), 60);
    }
}
