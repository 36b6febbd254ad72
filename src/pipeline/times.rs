//! How far event time has come, as state: a restart opens no window that has fired.
//!
//! Key of an input: its source's name, 0, the partition (4 bytes, big endian). Key of a stage that
//! has come further than its inputs are, for one of them was idle and is no more, or still is: 0,
//! its name. Value: the watermark, and whether the input is idle.

use tidemill_broker::Timestamp;
use tidemill_state::{KeyError, Postcard, Table};

use super::graph::{EventTime, Graph, Node};
use super::input::InputPartition;

/// The table of a task.
pub(crate) type Times = Table<Postcard<(i64, bool)>>;

fn stage_key(node: &Node) -> Vec<u8> {
    [&[0], node.name.as_bytes()].concat()
}

/// The stage of a key, if it is of a stage.
pub(crate) fn stage_of(key: &[u8]) -> Option<&[u8]> {
    key.strip_prefix(&[0])
}

/// Puts down what has changed.
pub(crate) fn save(
    times: &mut Times,
    inputs: &[InputPartition],
    graph: &Graph,
) -> Result<(), KeyError> {
    for input in inputs {
        let time = (input.decode.watermark().0, input.is_idle);
        put(times, &input.time_key(), Some(time))?;
    }
    for node in &graph.nodes {
        let now = match node.time() {
            EventTime::At(now) => now,
            EventTime::Idle => Timestamp::MIN,
        };
        let ahead = (node.reached > now).then_some((node.reached.0, false));
        put(times, &stage_key(node), ahead)?;
    }
    Ok(())
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
        if let Some(Postcard((watermark, is_idle))) = times.get(&input.time_key())? {
            input.decode.restore(Timestamp(*watermark));
            input.is_idle = *is_idle;
        }
    }
    for node in 0..graph.nodes.len() {
        if let Some(Postcard((reached, _))) = times.get(&stage_key(&graph.nodes[node]))? {
            graph.restore_time(node, Timestamp(*reached));
        }
    }
    Ok(())
}
