//! How far event time has come, as state: a restart opens no window that has fired.
//!
//! Key of an input: its source's name, 0, the partition (4 bytes, big endian). Key of a stage without
//! state that has come further than its inputs are, for one of them was idle and is no more, or still is:
//! 0, its name. Key of each that has state: 0, 2, the name of its state, which it keeps where a later
//! version of the file calls the stage otherwise. Value: the watermark, and whether the input is idle.
//! Under 0, 1 and the name of its state lies up to which end a stage has closed its windows, under 0, 0,
//! `record` and `step` how far control records have been followed, both as if they were watermarks.

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

/// Whose event time is kept.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Of<'a> {
    /// A stage without state, by its name.
    Stage(&'a [u8]),
    /// What is written into a state, by its name.
    State(&'a [u8]),
    /// Up to where the windows of a state are closed.
    Closed(&'a [u8]),
}

impl<'a> Of<'a> {
    fn node(node: &'a Node) -> Self {
        match &node.state {
            Some(state) => Self::State(state.as_bytes()),
            None => Self::Stage(node.name.as_bytes()),
        }
    }

    // No name begins with any of these bytes.
    fn key(&self) -> Vec<u8> {
        match self {
            Self::Stage(name) => [&[0], *name].concat(),
            Self::Closed(name) => [&[0, 1], *name].concat(),
            Self::State(name) => [&[0, 2], *name].concat(),
        }
    }

    /// What a key is of, if not of an input.
    pub(crate) fn key_of(key: &'a [u8]) -> Option<Self> {
        match key {
            [0, 1, name @ ..] => Some(Self::Closed(name)),
            [0, 2, name @ ..] => Some(Self::State(name)),
            [0, name @ ..] => Some(Self::Stage(name)),
            _ => None,
        }
    }
}

/// Up to where a stage has closed all of its windows, whatever the lateness of a later version.
fn closed_key(node: &Node) -> Option<Vec<u8>> {
    let state = node.state.as_ref()?;
    Some(Of::Closed(state.as_bytes()).key())
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
        // Of what has state, always: a later version of the file may read more, or take what is later still.
        let is_kept = match node.state {
            Some(_) => node.reached > Timestamp::MIN,
            None => node.reached > node.time().reached(),
        };
        let reached = is_kept.then_some((node.reached.0, false));
        put(times, &Of::node(node).key(), reached)?;
        let closed = node.operator.closed();
        let closed = closed.filter(|closed| *closed > Timestamp::MIN);
        if let Some(key) = closed_key(node) {
            put(times, &key, closed.map(|closed| (closed.0, false)))?;
        }
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
        let closed = closed_key(&graph.nodes[node]).map(|key| times.get(&key));
        if let Some(Postcard((closed, _))) = closed.transpose()?.flatten() {
            let operator = &mut graph.nodes[node].operator;
            operator.restore_closed(Timestamp(*closed));
        }
        let key = Of::node(&graph.nodes[node]).key();
        if let Some(Postcard((reached, _))) = times.get(&key)? {
            graph.restore_node(node, Timestamp(*reached));
        }
    }
    Ok(())
}
