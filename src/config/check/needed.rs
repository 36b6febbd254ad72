//! Which fields are read by anyone: the rest is skipped, not decoded.

use super::{as_source, bits};
use crate::config::plan::{Input, OpPlan, Plan};
use crate::events::Schema;

/// Fills in [`needed`](crate::config::plan::SourcePlan::needed) of every source.
pub(super) fn fill(plan: &mut Plan) {
    let mut sources = vec![0_u64; plan.sources.len()];
    let mut ports: Vec<Vec<u64>> = plan
        .stages
        .iter()
        .map(|stage| vec![0; stage.ports.len()])
        .collect();
    let mut ask = |inputs: &[Input], bits: u64, ports: &mut [Vec<u64>]| {
        for input in inputs {
            if let Some(source) = as_source(input) {
                sources[source] |= bits;
            } else if let Input::Stage { stage, port } = input {
                ports[*stage][*port] |= bits;
            }
        }
    };
    for sink in &plan.sinks {
        ask(&sink.inputs, all(&sink.schema), &mut ports);
    }
    // Readers come after what they read.
    for index in (0..plan.stages.len()).rev() {
        let stage = &plan.stages[index];
        let passed = ports[index].iter().fold(0, |all, port| all | port);
        let bits = match &stage.op {
            OpPlan::KeyBy { key } => passed | bits(key),
            OpPlan::Dedupe { id, .. } => passed | bits(id),
            OpPlan::Route { field, .. } => passed | 1 << field,
            // What it holds outlives its record, and may be asked for more by a later version of the file.
            OpPlan::Merge => stage.ports.first().map_or(0, |(_, schema)| all(schema)),
            OpPlan::TumblingWindow {
                key, aggregates, ..
            } => {
                // Only what leaves by the port of late events has the input's fields.
                let late = ports[index].iter().skip(1).fold(0, |all, port| all | port);
                let read = aggregates
                    .iter()
                    .map(|aggregate| self::bits(&aggregate.function.reads()));
                late | bits(key) | read.fold(0, |all, bits| all | bits)
            }
        };
        ask(&stage.inputs, bits, &mut ports);
    }
    for (source, bits) in plan.sources.iter_mut().zip(sources) {
        let time = source.schema.time.map_or(0, |slot| 1 << slot);
        source.needed = bits | time | self::bits(&source.key);
    }
}

fn all(schema: &Schema) -> u64 {
    (0..schema.width()).fold(0, |all, slot| all | 1 << slot)
}
