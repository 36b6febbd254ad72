//! File work that would hold up the tasks of a runtime.

use crate::{Error, Result};

/// Runs `work` beside the tasks of the runtime. Dropped, it goes on and nobody hears of it.
pub(crate) async fn off_thread<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    // An error means that it panicked, or that the runtime ends before it began.
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|error| Error::Poisoned {
            what: format!("file work was broken off: {error}"),
            kind: None,
        })?
}
