//! Whether state and file fit each other.

use tidemill_state::State;

use super::Shared;
use crate::pipeline::{Error, Marker, Result, TaskId};

/// Refuses state that a new version of the file cannot go on with.
pub(super) async fn refuse_unless_empty(state: &State, name: &str, id: TaskId) -> Result<()> {
    let failed = |source| Error::State { task: id, source };
    for (table, spec) in state.tables() {
        if spec.name != name {
            continue;
        }
        let page = state.scan(table.prefix(), None, 1).await.map_err(failed)?;
        if !page.is_empty() {
            return Err(Error::Contradiction {
                task: id,
                what: format!(
                    "its state `{name}` holds what means something else to the new version of the file; a stage or state of another name begins empty, and `tidemill offsets reset --drop-state` makes the pipeline start anew"
                ),
            });
        }
    }
    Ok(())
}

/// Whether another version of the file wrote the marker, and was accepted.
pub(super) fn check_version(shared: &Shared, id: TaskId, marker: &Marker) -> Result<bool> {
    let plan = &*shared.plan;
    if marker.partitions != shared.topics.tasks[id.sub_topology] {
        return Err(Error::Contradiction {
            task: id,
            what: format!(
                "its inputs have {} partitions, and had {} when its state was written: keys have moved; `tidemill offsets reset` makes it start anew",
                shared.topics.tasks[id.sub_topology], marker.partitions
            ),
        });
    }
    let same = marker.config_hash == plan.config_hash && marker.version == plan.version;
    if !same && !shared.accept_new_version {
        return Err(Error::Changed {
            was: marker.config_hash,
            now: plan.config_hash,
        });
    }
    Ok(!same)
}
