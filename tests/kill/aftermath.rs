//! What the errands have left, once a job is done: a sound log without litter, no record of theirs lost
//! or doubled, and stores that hold what the log says.

use std::collections::BTreeSet;
use std::path::Path;

use tidemill::broker::{Broker as _, BrokerExt as _, Start, TopicPartition};
use tidemill_broker_file::{FileBroker, FileOptions, RealDisk, verify};
use tidemill_state::savepoints;

use crate::errand::{Errands, SHORT, files, is_reason_of_ours};
use crate::job::{Job, Outcome, stores};
use crate::many::OUTPUT;

/// What is not as it should be, first.
pub(crate) fn wrong(job: &Job, left: &Outcome, errands: &Errands<'_>) -> Option<String> {
    let logs = job.logs();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let topics = runtime.block_on(topics_are_right(&logs[0], errands));
    if let Some(what) = logs.iter().find_map(|log| litter(log)) {
        return Some(what);
    }
    for task in files(&job.stores()) {
        let damaged = savepoints(&task.join("savepoints")).unwrap().into_iter();
        if let Some(error) = damaged.filter_map(Result::err).next() {
            return Some(format!(
                "a savepoint of {} is damaged: {error}",
                task.display()
            ));
        }
    }
    topics.or_else(|| stores::wrong(job, left, |_, why| is_reason_of_ours(why)))
}

/// What of a log is damaged, or lies there and is in no list.
fn litter(log: &Path) -> Option<String> {
    let report = verify(log, &RealDisk).unwrap();
    if let Some(finding) = report.findings.iter().find(|finding| !finding.harmless) {
        return Some(format!("the log is damaged: {finding:?}"));
    }
    let (mut segments, mut others) = (0, Vec::new());
    for path in files(&log.join("topics"))
        .iter()
        .flat_map(|topic| files(topic))
        .flat_map(|partition| files(&partition))
    {
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("segment") => segments += 1,
            Some("index") => {}
            _ => others.push(path),
        }
    }
    if segments != report.segments || !others.is_empty() {
        return Some(format!(
            "{segments} segments lie there and {} are listed; beside them {others:?}",
            report.segments
        ));
    }
    None
}

/// The topic that keeps little holds the end of what was brought into it, every window has fired once, and
/// what was deleted is gone.
async fn topics_are_right(log: &Path, errands: &Errands<'_>) -> Option<String> {
    let expiring = errands.expiring;
    let broker = FileBroker::open(log, FileOptions::default()).await.unwrap();
    let at = TopicPartition::new(SHORT.parse().unwrap(), 0);
    let (mut found, mut ends) = (0, (0, 0));
    if expiring > 0 {
        let marks = broker.watermarks(&at).await.unwrap();
        ends = (marks.low.0, marks.high.0);
        for batch in broker.read_to_end(&at, Start::Earliest).await.unwrap() {
            found += batch.len() as u64;
        }
    }
    let mut fired = Vec::new();
    if errands.many.fired() > 0 {
        let at = TopicPartition::new(OUTPUT.parse().unwrap(), 0);
        for batch in broker.read_to_end(&at, Start::Earliest).await.unwrap() {
            fired.extend(
                batch
                    .iter()
                    .map(|record| [record.key, record.value].map(|part| part.map(<[u8]>::to_vec))),
            );
        }
    }
    let topics = broker.list_topics().await.unwrap();
    broker.close().await.unwrap();
    if let Some(topic) = topics
        .iter()
        .find(|topic| topic.as_str().starts_with("scratch"))
    {
        return Some(format!("{topic} was deleted and is there"));
    }
    let all = fired.len();
    let distinct: BTreeSet<_> = fired.into_iter().collect();
    if distinct.len() != all || all as u64 != errands.many.fired() {
        return Some(format!(
            "{all} windows fired, {} of them different, instead of {}",
            distinct.len(),
            errands.many.fired()
        ));
    }
    let kept = ends.1 - ends.0;
    (ends.1 != expiring || found != kept).then(|| {
        format!(
            "{found} records of {kept} of {SHORT}, which ends at {} after {expiring}",
            ends.1
        )
    })
}
