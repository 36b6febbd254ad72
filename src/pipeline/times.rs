//! How far event time has come, as state: a restart opens no window that has fired.
//!
//! Key of an input: its source's name, 0, the partition (4 bytes, big endian). Key of a stage that
//! has come further than its inputs are, for one of them was idle and is no more, or still is, and of
//! each that has windows: 0, its name. Value: the watermark, and whether the input is idle. Under 0, 1
//! and the name of a stage with windows lies up to which end it has closed them, under 0, 0, `record`
//! and `step` how far control records have been followed, both as if they were watermarks.

use tidemill_broker::Timestamp;
use tidemill_state::{KeyError, Postcard, Table};

use super::graph::{Graph, Node};
use super::input::InputPartition;
use super::ordered::Place;

/// The table of a task.
pub(crate) type Times = Table<Postcard<(i64, bool)>>;

// No stage is named like that.
const RECORD: &[u8] = b"\0\0record";
const STEP: &[u8] = b"\0\0step";

fn stage_key(node: &Node) -> Vec<u8> {
    [&[0], node.name.as_bytes()].concat()
}

/// Under which a stage has closed all of its windows, whatever the lateness of a later version.
fn closed_key(node: &Node) -> Vec<u8> {
    [&[0, 1], node.name.as_bytes()].concat()
}

/// The stage of a key of windows that are closed, if it is one.
pub(crate) fn closed_of(key: &[u8]) -> Option<&[u8]> {
    key.strip_prefix(&[0, 1])
}

/// The stage of a key, if it is of a stage.
pub(crate) fn stage_of(key: &[u8]) -> Option<&[u8]> {
    key.strip_prefix(&[0])
}

/// What a key tells of control records that are followed, if it does.
pub(crate) fn followed_of(key: &[u8]) -> Option<&[u8]> {
    key.strip_prefix(&[0, 0])
}

/// Puts down what has changed.
pub(crate) fn save(
    times: &mut Times,
    inputs: &[InputPartition],
    graph: &Graph,
    followed: Option<Place>,
) -> Result<(), KeyError> {
    for input in inputs {
        let time = (input.decode.watermark().0, input.is_idle);
        put(times, &input.time_key(), Some(time))?;
    }
    for node in &graph.nodes {
        let now = node.time().reached();
        let closed = node
            .operator
            .closed()
            .filter(|closed| *closed > Timestamp::MIN);
        // Of windows, always: a later version of the file may read more, or take what is later still.
        let is_kept = node.reached > now || closed.is_some();
        put(
            times,
            &stage_key(node),
            is_kept.then_some((node.reached.0, false)),
        )?;
        put(
            times,
            &closed_key(node),
            closed.map(|closed| (closed.0, false)),
        )?;
    }
    if let Some(Place { record, step }) = followed {
        put(times, RECORD, Some((record as i64, false)))?;
        put(times, STEP, Some((step as i64, false)))?;
    }
    Ok(())
}

/// How far control records had been followed.
pub(crate) fn followed(times: &Times) -> Result<Option<Place>, KeyError> {
    let (record, step) = (times.get(RECORD)?, times.get(STEP)?);
    let place = record.zip(step).map(|(record, step)| Place {
        record: record.0.0 as u64,
        step: step.0.0 as u64,
    });
    Ok(place)
}

fn put(times: &mut Times, key: &[u8], time: Option<(i64, bool)>) -> Result<(), KeyError> {
    let time = time.map(Postcard);
    if times.get(key)? == time.as_ref() {
        return Ok(());
    }
    match time {
        Some(time) => times.insert(key, time)?,
        None => times.remove(key)?,
    };
    Ok(())
}

/// Brings inputs and stages to where they were; event time has yet to be sent through the stages.
pub(crate) fn restore(
    times: &Times,
    inputs: &mut [InputPartition],
    graph: &mut Graph,
) -> Result<(), KeyError> {
    for input in inputs {
        // One that was not read before begins anew: a source of its name may have read another topic.
        let Some(key) = input.former_time_key() else {
            continue;
        };
        if let Some(Postcard((watermark, is_idle))) = times.get(&key)? {
            input.decode.restore(Timestamp(*watermark));
            // The file may say by now that it is never idle.
            input.is_idle = *is_idle && input.idle_after.is_some();
        }
    }
    for node in 0..graph.nodes.len() {
        let key = closed_key(&graph.nodes[node]);
        if let Some(Postcard((closed, _))) = times.get(&key)? {
            let operator = &mut graph.nodes[node].operator;
            operator.restore_closed(Timestamp(*closed));
        }
        if let Some(Postcard((reached, _))) = times.get(&stage_key(&graph.nodes[node]))? {
            graph.restore_node(node, Timestamp(*reached));
        }
    }
    Ok(())
}
