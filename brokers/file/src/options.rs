//! How to open a directory.

use std::sync::Arc;
use std::time::Duration;

use tidemill_broker::{Capabilities, Clock, Durability, Error, Result, SystemClock};

use crate::disk::{Disk, RealDisk};

/// When the log is made durable without being asked.
///
/// Whatever the policy, what is acknowledged survives the kill of the process, and
/// [`sync`](tidemill_broker::Broker::sync) makes everything durable at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fsync {
    /// Before each commit or produce is acknowledged; those that wait together share one.
    Commit,
    /// At most this long after a record was appended.
    Every(Duration),
    /// Only when asked, when a log file is split, and before retention takes anything away. Readers in
    /// other processes see nothing newer.
    Never,
}

impl Default for Fsync {
    fn default() -> Self {
        Self::Every(Duration::from_millis(100))
    }
}

/// Accepts `commit`, `never`, or a duration in `us`, `ms` or `s`.
impl std::str::FromStr for Fsync {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let refused = || Error::Invalid {
            what: format!("fsync `{text}` must be `commit`, `never` or a duration such as `100ms`"),
        };
        match text {
            "commit" => return Ok(Self::Commit),
            "never" => return Ok(Self::Never),
            _ => {}
        }
        let digits = text.bytes().take_while(u8::is_ascii_digit).count();
        let (count, unit) = text.split_at(digits);
        let count: u64 = count.parse().map_err(|_| refused())?;
        let period = match unit {
            "us" => Duration::from_micros(count),
            "ms" => Duration::from_millis(count),
            "s" => Duration::from_secs(count),
            _ => return Err(refused()),
        };
        if period.is_zero() {
            return Err(refused());
        }
        Ok(Self::Every(period))
    }
}

/// How to open a directory. The default is for production.
#[derive(Debug, Clone)]
pub struct FileOptions {
    /// Tells append times, which do not fall while a directory is open, and what retention by age and the
    /// leaving of tombstones take for now. What was appended by a clock that was ahead stays as much longer.
    pub clock: Arc<dyn Clock>,
    /// Where the bytes go.
    pub disk: Arc<dyn Disk>,
    /// When the log is made durable without being asked.
    pub fsync: Fsync,
    /// A log file is split at this many bytes, where the disk has hardly room left for that, or where it holds
    /// records that are to leave by their age, which is looked for once a minute when something is appended; a
    /// segment grows to about as many.
    pub split_bytes: u64,
    /// Appending waits while this many log files are not split yet.
    pub unsplit_max: usize,
    /// Largest record: key, payload and encoded headers, in bytes.
    pub record_bytes_max: usize,
    /// How often a handle from [`open_reader`](crate::FileBroker::open_reader) looks for news.
    pub poll: Duration,
}

impl Default for FileOptions {
    fn default() -> Self {
        Self {
            clock: Arc::new(SystemClock),
            disk: Arc::new(RealDisk),
            fsync: Fsync::default(),
            split_bytes: 64 << 20,
            // A burst of a gigabyte at full speed before splitting must keep up.
            unsplit_max: 16,
            record_bytes_max: 16 << 20,
            poll: Duration::from_millis(20),
        }
    }
}

impl FileOptions {
    /// What a broker opened with these can do, known without opening one.
    pub fn capabilities(&self) -> Capabilities {
        Capabilities::all(Durability::Power, self.record_bytes_max)
    }

    /// Takes in the query of a `file://` URL, such as `fsync=commit`.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] naming the parameter that is unknown or has no valid value.
    pub fn query(mut self, query: &str) -> Result<Self> {
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            match pair.split_once('=') {
                Some(("fsync", value)) => self.fsync = value.parse()?,
                _ => {
                    return Err(Error::Invalid {
                        what: format!("unknown parameter `{pair}`; known is `fsync`"),
                    });
                }
            }
        }
        Ok(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_sets_the_fsync_policy_and_refuses_what_it_does_not_know() {
        let fsync = |query| {
            FileOptions::default()
                .query(query)
                .map(|options| options.fsync)
        };
        assert_eq!(fsync("").unwrap(), Fsync::Every(Duration::from_millis(100)));
        assert_eq!(fsync("fsync=commit").unwrap(), Fsync::Commit);
        assert_eq!(fsync("fsync=never").unwrap(), Fsync::Never);
        assert_eq!(
            fsync("fsync=2s").unwrap(),
            Fsync::Every(Duration::from_secs(2))
        );
        for bad in [
            "fsync=",
            "fsync=0ms",
            "fsync=5",
            "fsync=ms",
            "sync=1ms",
            "fsync",
        ] {
            assert!(fsync(bad).is_err(), "{bad}");
        }
    }
}
