//! What the state of a stage is made of: what was written as one thing must not be read as another.

use xxhash_rust::xxh3::xxh3_64;

use crate::config::Plan;
use crate::config::plan::{OpPlan, StagePlan};
use crate::config::words::{event, function};
use crate::events::Field;

/// Stands for names, types and order of all that `stage` keeps; nothing if it keeps nothing.
pub(super) fn fingerprint(plan: &Plan, stage: &StagePlan) -> Option<String> {
    let input = *stage.inputs.first()?;
    let schema = plan.schema_of(input);
    let kept = match &stage.op {
        OpPlan::KeyBy { .. } | OpPlan::Route { .. } => return None,
        OpPlan::Dedupe { id, .. } => {
            format!("{}; {}", fields(plan.key_of(input)), fields(schema.at(id)))
        }
        OpPlan::TumblingWindow {
            key, aggregates, ..
        } => {
            // Accumulators are kept by place, in the scale of what they read.
            let aggregates = aggregates.iter().map(|aggregate| {
                let read = fields(schema.at(&aggregate.function.reads()));
                format!("{} of {read}", function(schema, aggregate.function))
            });
            let aggregates: Vec<String> = aggregates.collect();
            format!("{}; {}", fields(schema.at(key)), aggregates.join(", "))
        }
        // Whole events.
        OpPlan::Merge => event(schema),
    };
    let text = format!("{kept} at {:?}", schema.time);
    Some(format!("{:08x}", xxh3_64(text.as_bytes()) >> 32))
}

/// Fields with their types.
fn fields(fields: Vec<&Field>) -> String {
    let fields = fields.into_iter();
    let fields = fields.map(|field| format!("{} {}", field.name, field.ty));
    fields.collect::<Vec<_>>().join(", ")
}
