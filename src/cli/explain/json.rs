//! A pipeline, explained to a machine.

use serde_json::json;

use super::text::{operator, url};
use crate::config::guarantee::Cause;
use crate::config::plan::{Input, Plan, TopicPlan};
use crate::config::words::input_name;
use crate::events::Schema;

pub(super) fn pipeline(plan: &Plan, causes: &[Cause]) -> serde_json::Value {
    let topic = |topic: &TopicPlan| {
        let broker = &plan.brokers[topic.broker];
        json!({ "broker": &*broker.name, "url": url(&broker.url), "topic": topic.topic.as_str() })
    };
    let schema = |schema: &Schema| {
        let fields: Vec<_> = schema
            .fields
            .iter()
            .map(|field| {
                json!({
                    "name": &*field.name,
                    "type": field.ty.to_string(),
                    "required": field.required,
                })
            })
            .collect();
        json!({ "name": &*schema.name, "fields": fields })
    };
    let from = |inputs: &[Input]| -> Vec<String> {
        inputs.iter().map(|input| input_name(plan, input)).collect()
    };
    json!({
        "name": plan.name.as_str(),
        "version": plan.version,
        "configHash": format!("{:016x}", plan.config_hash),
        "guarantee": plan.guarantee.as_str(),
        "group": plan.group.as_str(),
        "home": &*plan.brokers[plan.home()].name,
        "sources": plan.sources.iter().map(|source| json!({
            "name": &*source.name,
            "topic": topic(&source.topic),
            "event": schema(&source.schema),
            "key": source.key.iter().map(|slot| &*source.schema.fields[*slot].name).collect::<Vec<_>>(),
        })).collect::<Vec<_>>(),
        "stages": plan.stages.iter().map(|stage| json!({
            "name": &*stage.name,
            "from": from(&stage.inputs),
            "does": operator(plan, stage),
            "ports": stage.ports.iter().map(|(name, port)| json!({
                "name": &**name,
                "event": schema(port),
            })).collect::<Vec<_>>(),
        })).collect::<Vec<_>>(),
        "sinks": plan.sinks.iter().map(|sink| json!({
            "name": &*sink.name,
            "from": from(&sink.inputs),
            "topic": topic(&sink.topic),
        })).collect::<Vec<_>>(),
        "deadLetter": topic(&plan.dead_letter),
        "causes": causes.iter().map(|cause| json!({
            "element": cause.element,
            "allows": cause.allows.as_str(),
            "because": cause.because,
        })).collect::<Vec<_>>(),
    })
}
