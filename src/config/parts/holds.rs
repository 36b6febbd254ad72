//! What the state of a stage is made of: what was written as one thing must not be read as another.

use xxhash_rust::xxh3::xxh3_64;

use crate::config::Plan;
use crate::config::plan::{Input, OpPlan, StagePlan};
use crate::config::words::{event, function, input_schema};
use crate::events::Schema;

/// Stands for names, types and order of all that `stage` keeps; nothing if it keeps nothing.
pub(super) fn fingerprint(plan: &Plan, stage: &StagePlan) -> Option<String> {
    let input = stage.inputs.first()?;
    let schema = input_schema(plan, input);
    let kept = match &stage.op {
        OpPlan::KeyBy { .. } | OpPlan::Route { .. } => return None,
        OpPlan::Dedupe { id, .. } => {
            format!("{}; {}", key(plan, input), fields(schema, id))
        }
        OpPlan::TumblingWindow {
            key, aggregates, ..
        } => {
            // Accumulators are kept by place, in the scale of what they read.
            let aggregates = aggregates.iter().map(|aggregate| {
                let read = fields(schema, &aggregate.function.reads());
                format!("{} of {read}", function(schema, aggregate.function))
            });
            let aggregates: Vec<String> = aggregates.collect();
            format!("{}; {}", fields(schema, key), aggregates.join(", "))
        }
        // Whole events.
        OpPlan::Merge => event(schema),
    };
    let text = format!("{kept} at {:?}", schema.time);
    Some(format!("{:08x}", xxh3_64(text.as_bytes()) >> 32))
}

/// The key of the events of an input.
fn key(plan: &Plan, input: &Input) -> String {
    let stage = match input {
        Input::Source(source) => {
            let source = &plan.sources[*source];
            return fields(&source.schema, &source.key);
        }
        Input::Stage { stage, .. } => &plan.stages[*stage],
    };
    match (&stage.op, stage.inputs.first()) {
        (OpPlan::KeyBy { key } | OpPlan::TumblingWindow { key, .. }, Some(input)) => {
            fields(input_schema(plan, input), key)
        }
        (_, Some(input)) => self::key(plan, input),
        (_, None) => String::new(),
    }
}

/// Fields with their types.
fn fields(schema: &Schema, slots: &[usize]) -> String {
    let fields = slots.iter().map(|slot| &schema.fields[*slot]);
    let fields = fields.map(|field| format!("{} {}", field.name, field.ty));
    fields.collect::<Vec<_>>().join(", ")
}
