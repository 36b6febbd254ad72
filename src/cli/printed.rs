//! A broker whose records count as written once they have been printed.

use std::sync::Arc;

use async_trait::async_trait;
use tidemill_broker::{Acks, Broker, Error, Layer, Offset, RecordSet, Result};
use tokio::sync::watch;

/// A broker in memory in front of standard output.
///
/// # Delivery
///
/// A record is acknowledged when it has been handed to whoever reads standard output. So an epoch is
/// not committed before its lines are out, and a reader that is slow is felt by the source.
#[derive(Debug)]
pub(super) struct Printed {
    inner: Arc<dyn Broker>,
    /// The offset after the last line that was printed.
    next: watch::Receiver<Offset>,
}

impl Printed {
    pub(super) fn new(inner: Arc<dyn Broker>, next: watch::Receiver<Offset>) -> Self {
        Self { inner, next }
    }
}

#[async_trait]
impl Layer for Printed {
    fn inner(&self) -> &dyn Broker {
        &*self.inner
    }

    /// # Cancel safety
    ///
    /// Dropping the future leaves unknown which of them are or will be printed.
    async fn append(&self, records: Vec<RecordSet>) -> Result<Vec<Acks>> {
        let acks = self.inner.produce(records).await?;
        let last = acks.iter().filter_map(|acks| {
            let last = acks.len().checked_sub(1)?;
            acks.get(last).ok()
        });
        if let Some(last) = last.max() {
            let mut next = self.next.clone();
            let printed = next.wait_for(|next| *next > last).await;
            printed.map_err(|_| Error::Io {
                doing: "write",
                path: "standard output".into(),
                source: std::io::ErrorKind::BrokenPipe.into(),
            })?;
        }
        Ok(acks)
    }
}
