//! What `at_most_once` may lose: of each task the last epoch that the log has of a process that was killed.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use tidemill::pipeline::Marker;

use crate::errand::files;
use crate::job::{Job, Outcome, Outputs};

/// Follows the log of a job from process to process.
#[derive(Debug)]
pub(crate) struct Interrupted {
    dir: PathBuf,
    /// The last of each task.
    markers: BTreeMap<u32, Marker>,
    /// What they may have been sending when they were killed.
    pub(crate) outputs: Outputs,
}

impl Interrupted {
    pub(crate) fn new(dir: &Path) -> Self {
        Self {
            dir: dir.join("looked-at"),
            markers: BTreeMap::new(),
            outputs: Outputs::default(),
        }
    }

    /// Looks at the log after each process that may have run the job.
    pub(crate) fn look(&mut self, job: &Job, was_killed: bool) {
        // At a copy: opening it as its owner mends it.
        copy(&job.data().join("log"), &self.dir);
        let mut now = Outcome::read_logs(std::slice::from_ref(&self.dir)).unwrap();
        std::fs::remove_dir_all(&self.dir).unwrap();
        let before = std::mem::replace(&mut self.markers, now.markers.clone());
        if was_killed {
            // Of a process that has committed nothing there is nothing to send.
            let has_committed = |task| before.get(&task) != self.markers.get(&task);
            for (task, marker) in &before {
                // Compaction may have taken it.
                let of_task = now.markers_before.entry(*task);
                of_task.or_insert_with(|| marker.clone());
            }
            self.outputs.extend(now.last_epochs(has_committed));
        }
    }
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for path in files(from) {
        let to = to.join(path.file_name().unwrap());
        if path.is_dir() {
            copy(&path, &to);
        } else {
            std::fs::copy(&path, &to).unwrap();
        }
    }
}
