//! Where a test works.

use std::path::Path;

use tempfile::TempDir;

/// A directory for one test. Where the test fails it stays and is named, with the command that draws the same
/// again: what failed hangs on timing, so that what it left is all there is to look at.
pub(crate) struct Scratch {
    directory: TempDir,
    again: String,
}

impl Scratch {
    /// `again` is the command.
    pub(crate) fn new(again: impl Into<String>) -> Self {
        Self {
            directory: tempfile::tempdir().unwrap(),
            again: again.into(),
        }
    }

    pub(crate) fn path(&self) -> &Path {
        self.directory.path()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.directory.disable_cleanup(true);
            let left = self.path().display();
            println!(
                "what it left is in {left}; draw the same again with: {}",
                self.again
            );
        }
    }
}
