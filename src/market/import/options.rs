//! What to import, and how.

use std::num::NonZeroU32;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use jiff::civil::Date;
use tidemill_broker::Topic;

use super::detect::Heeds;
use super::error::{Error, Result};
use super::json::Mapping;
use super::layout::{Kind, Layout};

/// What becomes of a line that is not what its layout says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnBadLine {
    /// The import stops before anything is written.
    #[default]
    Stop,
    /// It goes to the side topic with its fault, and is counted.
    Skip,
}

/// What becomes of a file that the topic holds already, from an import of other files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnImported {
    /// The import is refused.
    #[default]
    Refuse,
    /// It is left out.
    Skip,
}

/// What to import, and how. Start from [`Options::new`].
#[derive(Debug, Clone)]
pub struct Options {
    /// The files. Their order decides where event times are equal.
    pub files: Vec<PathBuf>,
    /// Where updates go.
    pub topic: Topic,
    /// Where what is set aside goes.
    pub suspect_topic: Topic,
    /// Where it is kept what was imported.
    pub log_topic: Topic,
    /// Partitions to create missing topics with.
    pub partitions: NonZeroU32,
    /// Only files of this kind; the rest is left out. `None` refuses a mix.
    pub only: Option<Kind>,
    /// The layout; told from path and content when absent.
    pub layout: Option<Layout>,
    /// The pair; told from the path when absent.
    pub pair: Option<String>,
    /// The day of files whose times count from midnight; told from the file's name when absent.
    pub date: Option<Date>,
    /// The time zone of that midnight, and of bars' times that do not say theirs, as in
    /// `America/New_York`; told from the market when absent, or else UTC.
    pub zone: Option<String>,
    /// The length of a bar of [`Layout::Ohlcv`]; the least time between two that follow each
    /// other when absent.
    pub bar: Option<Duration>,
    /// What the fields of JSON lines are called.
    pub mapping: Arc<Mapping>,
    /// Decimals of prices, at most 18.
    pub price_scale: u8,
    /// Decimals of quantities, at most 18.
    pub quantity_scale: u8,
    /// What becomes of bad lines.
    pub on_bad_line: OnBadLine,
    /// What becomes of files that are in already.
    pub on_imported: OnImported,
}

impl Options {
    /// Imports `files` into `topic`; side topic `market-data-suspect`, log `import-log`, one
    /// partition, 8 decimals, stopping at a bad line.
    pub fn new(files: Vec<PathBuf>, topic: Topic) -> Self {
        let name = |name| Topic::new(name).unwrap_or_else(|_| topic.clone());
        Self {
            files,
            suspect_topic: name("market-data-suspect"),
            log_topic: name("import-log"),
            topic,
            partitions: NonZeroU32::MIN,
            only: None,
            layout: None,
            pair: None,
            date: None,
            zone: None,
            bar: None,
            mapping: Arc::new(Mapping::default()),
            price_scale: 8,
            quantity_scale: 8,
            on_bad_line: OnBadLine::default(),
            on_imported: OnImported::default(),
        }
    }

    /// Refuses an option that means nothing to any of the files: whoever gave it expects that it does.
    pub(super) fn are_heeded(&self, files: Vec<Heeds>) -> Result<()> {
        let heeded = |by: fn(&Heeds) -> bool| files.iter().any(by);
        let unheeded = |option: &str, why: &str| {
            let message = format!("{option} means nothing to these files: {why}; leave it out");
            Err(Error::Invalid(message))
        };
        if self.date.is_some() && !heeded(|file| file.date) {
            return unheeded("--date", "none has times that count from midnight");
        }
        if self.zone.is_some() && !heeded(|file| file.zone) {
            return unheeded("--zone", "all their times say of themselves when they are");
        }
        if self.bar.is_some() && !heeded(|file| file.bar) {
            return unheeded("--bar", "none is of layout ohlcv");
        }
        if *self.mapping != Mapping::default() && !heeded(|file| file.map) {
            return unheeded("--map", "none is of layout json");
        }
        Ok(())
    }
}
