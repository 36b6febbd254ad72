//! What the stores of a job hold, against what its log says. A restart adopts the digest of the last
//! marker, so that the marker alone proves nothing of them.

use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use tidemill::pipeline::Marker;
use tidemill_state::{
    Digest, Error, Identity, Share, SledOptions, SledStore, StateStore as _, Stored,
};

use super::outcome::Elements;
use super::{Job, Outcome, Process, Signal};

/// What is wrong with the stores of a job that has come to its end, first. `is_ours` says of a task,
/// and of a reason for which its store was set aside, whether the test itself gave it.
pub(crate) fn wrong(
    job: &Job,
    left: &Outcome,
    is_ours: impl Fn(&str, &str) -> bool,
) -> Option<String> {
    let no_state = Elements::new();
    for (partition, marker) in &left.markers {
        let state = left.states.get(partition).unwrap_or(&no_state);
        let dir = job.stores().join(&marker.task);
        let is_ours = |why: &str| is_ours(&marker.task, why);
        let differs = differs_from_log(&dir, marker, state);
        if let Some(what) = differs.or_else(|| set_aside(&dir, is_ours)) {
            return Some(format!("the store of task {}: {what}", marker.task));
        }
    }
    let checked = Process::start(job.state("fsck")).end(Duration::from_secs(60), Signal::KILL);
    (!checked.is_done).then(|| format!("`state fsck` ends with {}", checked.told))
}

/// Where stores of a task were set aside, with the reasons.
fn asides(dir: &Path) -> Vec<(PathBuf, String)> {
    let entries = std::fs::read_dir(dir).into_iter().flatten();
    let paths = entries.map(|entry| entry.unwrap().path());
    let mut asides: Vec<PathBuf> = paths
        .filter(|path| {
            let name = path.file_name().unwrap().to_string_lossy();
            name.starts_with("aside-")
        })
        .collect();
    asides.sort();
    let why = |aside: &PathBuf| std::fs::read_to_string(aside.join("why")).unwrap_or_default();
    asides
        .into_iter()
        .map(|aside| (aside.clone(), why(&aside)))
        .collect()
}

fn differs_from_log(dir: &Path, marker: &Marker, state: &Elements) -> Option<String> {
    let mut digest = Digest::EMPTY;
    for (key, value) in state {
        digest.add(Share::of(key, value));
    }
    if digest != marker.digest {
        return Some(format!(
            "its changelog, replayed, has digest {digest}, and the marker of epoch {} says {}",
            marker.epoch, marker.digest
        ));
    }
    let (stored, elements) = match block_on(content(dir)) {
        Ok(content) => content,
        Err(error) => return Some(format!("it cannot be read: {}", told(&error))),
    };
    let says = stored.map(|stored| (stored.epoch, stored.digest));
    if says != Some((marker.epoch, marker.digest)) {
        return Some(format!("it is at {stored:?}, and the log at {marker:?}"));
    }
    (elements != *state).then(|| {
        format!(
            "it holds {} elements that are not the {} of its changelog",
            elements.len(),
            state.len()
        )
    })
}

/// A store that was set aside and that the test has not harmed.
fn set_aside(dir: &Path, is_ours: impl Fn(&str) -> bool) -> Option<String> {
    asides(dir).into_iter().find_map(|(aside, why)| {
        // Interrupted before anything was moved.
        let is_empty = !["sled", "identity.json", "note"]
            .iter()
            .any(|name| aside.join(name).exists());
        (!is_empty && !is_ours(&why)).then(|| format!("it was set aside: {why}"))
    })
}

/// Opens the store of a task as strictly as it can be.
pub(crate) async fn open(dir: &Path) -> Result<SledStore, Error> {
    let identity = tidemill_state::read_identity(dir)?;
    let identity = identity.unwrap_or(Identity {
        pipeline: "job".to_owned(),
        task: dir.file_name().unwrap().to_string_lossy().into_owned(),
    });
    SledStore::open_strict(SledOptions {
        path: dir.to_owned(),
        identity,
        owner: "the test".to_owned(),
        new_id: 1,
        cache_bytes: 1 << 20,
    })
    .await
}

/// All that a store holds, and how far it says that it is.
async fn content(dir: &Path) -> Result<(Option<Stored>, Elements), Error> {
    let store = open(dir).await?;
    let stored = store.stored().await?;
    let mut elements = Elements::new();
    let mut after: Option<Bytes> = None;
    loop {
        let page = store.scan(Bytes::new(), after, 10_000).await?;
        let Some((last, _)) = page.last() else { break };
        after = Some(last.clone());
        elements.extend(page);
    }
    store.close().await?;
    Ok((stored, elements))
}

/// An error with its causes.
fn told(error: &Error) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        text += &format!(": {error}");
        cause = error.source();
    }
    text
}

pub(crate) fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
        .block_on(future)
}
