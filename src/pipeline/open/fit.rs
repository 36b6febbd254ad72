//! Whether state and file fit each other.

use tidemill_broker::TopicPartition;
use tidemill_state::State;

use super::Shared;
use crate::pipeline::accept::{Unfit, refuse_stranger, unfit};
use crate::pipeline::{Error, Marker, Result, TaskId, version};

/// Refuses state that a new version of the file cannot go on with. It was [looked at](crate::pipeline::accept)
/// before, but others may have run meanwhile.
pub(super) async fn refuse_unfit(
    shared: &Shared,
    id: TaskId,
    state: &State,
    marker: &Marker,
    changelog: &TopicPartition,
) -> Result<()> {
    let plan = &*shared.plan;
    let parts = version::parts(&*shared.outputs, changelog, marker.config_hash).await?;
    let tables = state.tables();
    let specs = tables.iter().map(|(_, spec)| spec);
    for unfit in unfit(plan, &shared.topologies, id, parts.as_ref(), specs) {
        refuse_unless_empty(state, &unfit, id).await?;
    }
    Ok(())
}

async fn refuse_unless_empty(state: &State, unfit: &Unfit, id: TaskId) -> Result<()> {
    let failed = |source| Error::State { task: id, source };
    for (table, spec) in state.tables() {
        if spec.name != unfit.state {
            continue;
        }
        let page = state.scan(table.prefix(), None, 1).await.map_err(failed)?;
        if !page.is_empty() {
            return Err(unfit.refused(id));
        }
    }
    Ok(())
}

/// Whether another version of the file wrote the marker, and was accepted.
pub(super) async fn check_version(
    shared: &Shared,
    id: TaskId,
    marker: &Marker,
    changelog: &TopicPartition,
) -> Result<bool> {
    let plan = &*shared.plan;
    let same = marker.config_hash == plan.config_hash && marker.version == plan.version;
    if !same && !shared.accept_new_version {
        return Err(version::changed(plan, &*shared.outputs, changelog, marker.config_hash).await);
    }
    refuse_stranger(plan, &shared.topologies, &shared.topics, id, marker)?;
    Ok(!same)
}
