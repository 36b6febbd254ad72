//! From a task's store and its changelog to its state at the last marker.

use std::sync::Arc;

use bytes::Bytes;
use tidemill_broker::{Broker, Offset, Start, TopicPartition, Watermarks};
use tidemill_state::{
    Digest, Doing as Work, Epoch, Error as StateError, Headway, Recovered, State, StateOptions,
    StateStore, Stored, crash_point,
};
use tracing::{info, warn};

use super::error::Doing;
use super::recovery::{Changelog, decode_marker, last_marker, retrying};
use super::{Error, MARKER_KEY, Marker, Result, TaskId};

/// Told how far the redo has come, before each batch and at its end; says whether to go on.
pub(crate) type GoOn<'a> = &'a (dyn Fn(Headway) -> Result<()> + Sync);

/// Opens a task's state over its store, and brings it up to the last marker of its changelog partition.
///
/// The log may be compacted meanwhile: a key that was redone, or is in the store, may lose its tombstone before
/// the redo comes to it. Then all is begun anew, from the log alone. While the task has one owner, nothing is
/// added to its changelog, so that this ends.
///
/// A store is believed only if the marker of its epoch says the same of it: one that followed another log, or
/// this one before it was replaced by a copy of itself, holds something else. Where a compaction took that
/// marker away, the store is brought up to the last one and compared with that as a whole.
///
/// # Errors
///
/// If store and log contradict each other, or the store followed another log, which is damage of the store; what
/// `go_on` says.
pub(crate) async fn recover(
    broker: &dyn Broker,
    at: &TopicPartition,
    task: TaskId,
    store: Arc<dyn StateStore>,
    options: StateOptions,
    go_on: GoOn<'_>,
) -> Result<(State, Option<Marker>)> {
    loop {
        let before = watermarks(broker, at).await?;
        let stored = stored_unless_overtaken(before, task, &*store).await?;
        let failed = |source| Error::State { task, source };
        let opened = State::open(store.clone(), options.clone()).await;
        let (state, recovered) = opened.map_err(failed)?;
        let (marker, proven) = redo(
            broker,
            (at, before),
            task,
            &state,
            &recovered,
            stored,
            go_on,
        )
        .await?;
        // Below these, nothing that was read could miss them.
        let followed = stored.map_or(before.tombstones_gone, |stored| {
            Offset(stored.changelog_offset)
        });
        let gone = watermarks(broker, at).await?.tombstones_gone;
        if gone <= followed {
            if !proven {
                info!(%task, "the changelog no longer says what the store held: comparing all of it");
                compare(broker, task, &state, go_on).await?;
            }
            return Ok((state, marker));
        }
        warn!(%task, %gone, "the changelog was compacted while it was redone: beginning anew");
    }
}

async fn watermarks(broker: &dyn Broker, at: &TopicPartition) -> Result<Watermarks> {
    let ends = retrying(|| broker.watermarks(at)).await;
    ends.doing(|| format!("cannot look at {at}"))
}

/// How far the store is. It is emptied if it has followed the changelog only up to where tombstones have been
/// removed since: it may hold keys that are gone.
async fn stored_unless_overtaken(
    ends: Watermarks,
    task: TaskId,
    store: &dyn StateStore,
) -> Result<Option<Stored>> {
    let failed = |source| Error::State { task, source };
    let stored = store.stored().await.map_err(failed)?;
    let overtaken = |stored: &Stored| stored.changelog_offset < ends.tombstones_gone.0;
    if let Some(stored) = stored.filter(overtaken) {
        warn!(%task, offset = stored.changelog_offset, gone = %ends.tombstones_gone, "the store is older than the changelog's tombstones: rebuilding it");
        store.clear().await.map_err(failed)?;
        return Ok(None);
    }
    Ok(stored)
}

/// Redoes the changelog, of which these are the ends, from where the store was, which is at or before the marker
/// of its epoch. Returns the last marker, and whether that of the store's epoch was still there to agree.
async fn redo(
    broker: &dyn Broker,
    (at, ends): (&TopicPartition, Watermarks),
    task: TaskId,
    state: &State,
    recovered: &Recovered,
    stored: Option<Stored>,
    go_on: GoOn<'_>,
) -> Result<(Option<Marker>, bool)> {
    let from = stored.map_or(ends.low, |stored| Offset(stored.changelog_offset));
    let mut unproven = stored.filter(|stored| stored.epoch > Epoch::NONE);
    let store = match &recovered.store.path {
        Some(path) => format!("its store {}", path.display()),
        None => "its store".to_owned(),
    };
    if from > ends.high {
        let advice = advice(broker, at).await?;
        let what = format!(
            "{store} follows the changelog up to offset {from}, but {at} ends at {}: {advice}",
            ends.high
        );
        return Err(Error::Contradiction { task, what });
    }
    crash_point!("recover.begin");
    // The last epoch of the log, which is durable; once something does not fit into memory.
    let mut spill_to = None;
    let mut last = None;
    let mut redone = 0_u64;
    let begin = from.max(ends.low);
    let total = ends.high.0.saturating_sub(begin.0);
    let come_to = |done: u64| {
        go_on(Headway {
            doing: Work::Redoing,
            done: done.min(total),
            total: Some(total),
        })
    };
    let mut done = 0;
    let mut changelog = Changelog::open(broker, at, Start::Offset(begin)).await?;
    while let Some(batch) = changelog.next().await? {
        come_to(done)?;
        let slab = batch.slab();
        for record in batch.iter() {
            let Some(key) = record.key else { continue };
            let value = record.value.map(|value| slab.slice_ref(value));
            done = record.offset.next().0.saturating_sub(begin.0);
            if key == MARKER_KEY {
                let Some(value) = value else { continue };
                if let Some(stored) = unproven {
                    let marker = decode_marker(at, record.offset, &value)?;
                    if marker.epoch == stored.epoch {
                        agree(task, stored, &marker)?;
                        unproven = None;
                    }
                }
                last = Some((value, record.offset));
            } else {
                // Copied: a key that stays must not pin its batch.
                let value = value.map(|value| Bytes::copy_from_slice(&value));
                state.redo(Bytes::copy_from_slice(key), value);
                redone += 1;
            }
        }
        if state.is_full() {
            // What does not fit is written to the store, which may then hold something of any epoch
            // up to the last.
            let epoch = match spill_to {
                Some(epoch) => epoch,
                None => last_durable(broker, at, from).await?,
            };
            spill_to = Some(epoch);
            let spilled = state.write_behind().spill(epoch).await;
            spilled.map_err(|source| Error::State { task, source })?;
        }
    }
    come_to(total)?;
    let Some((bytes, offset)) = last else {
        return match recovered.newest().filter(|epoch| *epoch > Epoch::NONE) {
            None => {
                let begun = state.finish_redo(Epoch::NONE, from.0, Digest::EMPTY).await;
                begun
                    .map(|()| (None, true))
                    .map_err(|source| Error::State { task, source })
            }
            Some(epoch) => {
                let advice = advice(broker, at).await?;
                Err(Error::Contradiction {
                    task,
                    what: format!(
                        "{store} has seen epoch {epoch}, but {at} has no marker from offset {from} on: {advice}"
                    ),
                })
            }
        };
    };
    let marker = decode_marker(at, offset, &bytes)?;
    state
        .finish_redo(marker.epoch, offset.0, marker.digest)
        .await
        .map_err(|source| Error::State { task, source })?;
    crash_point!("recover.redone");
    info!(%task, epoch = %marker.epoch, redone, "recovered");
    Ok((Some(marker), unproven.is_none()))
}

/// Brings the store up to what was redone, and compares all of it with the digest there.
async fn compare(broker: &dyn Broker, task: TaskId, state: &State, go_on: GoOn<'_>) -> Result<()> {
    let failed = |source| Error::State { task, source };
    let write_behind = state.write_behind();
    let durable = |_| async { retrying(|| broker.sync()).await };
    write_behind.pass(durable).await.map_err(failed)?;
    let compared = write_behind.verify(&|headway| drop(go_on(headway))).await;
    compared.map(drop).map_err(failed)
}

/// Refuses a store that held something else in its epoch than the log says.
fn agree(task: TaskId, stored: Stored, marker: &Marker) -> Result<()> {
    if stored.digest == marker.digest {
        return Ok(());
    }
    let source = StateError::DigestMismatch {
        epoch: stored.epoch,
        expected: marker.digest,
        found: stored.digest,
    };
    Err(Error::State { task, source })
}

/// What to do about a store that has seen more than its changelog holds. Where the changelog holds
/// nothing at all, there is nothing to go on from without the store either.
async fn advice(broker: &dyn Broker, at: &TopicPartition) -> Result<&'static str> {
    Ok(match last_marker(broker, at, Offset::START).await? {
        Some(_) => {
            "the log lost something; restore it, or take the store away to go on from the log"
        }
        None => {
            "there is nothing left of the changelog; restore it, or `tidemill offsets reset` makes the pipeline start anew"
        }
    })
}

/// The last epoch of a changelog, after the log was made durable.
async fn last_durable(broker: &dyn Broker, at: &TopicPartition, from: Offset) -> Result<Epoch> {
    retrying(|| broker.sync())
        .await
        .doing(|| format!("cannot make {at} durable"))?;
    let marker = last_marker(broker, at, from).await?;
    Ok(marker.map_or(Epoch::NONE, |(marker, _)| marker.epoch))
}

#[cfg(test)]
mod tests;
