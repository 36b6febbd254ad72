//! Several files as one, by event time.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use tidemill_broker::Timestamp;

use super::error::{Error, Result};
use super::item::Item;
use super::options::OnBadLine;
use super::reader::{Reader, Source};

/// Merges files by event time, ties by the order of the files and of their lines.
///
/// The order within a file is kept, also where its time goes backwards. A file is opened when the
/// merge reaches its earliest item, and closed at its end, so that a year of daily files needs one
/// day's memory and handles.
#[derive(Debug)]
pub(super) struct Merge<'a> {
    sources: &'a [Source],
    on_bad_line: OnBadLine,
    // Files not opened yet, the earliest last.
    waiting: Vec<(Reverse<Timestamp>, Reverse<usize>)>,
    open: Vec<Option<(Reader<'a>, Item)>>,
    heads: BinaryHeap<Reverse<(Timestamp, usize)>>,
}

impl<'a> Merge<'a> {
    pub(super) fn new(sources: &'a [Source], on_bad_line: OnBadLine) -> Self {
        let mut waiting: Vec<_> = sources
            .iter()
            .enumerate()
            .map(|(index, source)| (Reverse(source.earliest), Reverse(index)))
            .collect();
        waiting.sort_unstable();
        Self {
            sources,
            on_bad_line,
            waiting,
            open: sources.iter().map(|_| None).collect(),
            heads: BinaryHeap::new(),
        }
    }

    /// The next item and the index of its file.
    pub(super) fn next(&mut self) -> Result<Option<(usize, Item)>> {
        while let Some((Reverse(earliest), Reverse(index))) = self.waiting.last().copied() {
            if self
                .heads
                .peek()
                .is_some_and(|Reverse((time, _))| *time < earliest)
            {
                break;
            }
            self.waiting.pop();
            let source = &self.sources[index];
            let reader = Reader::open(
                &source.path,
                &source.detected,
                self.on_bad_line,
                source.head,
            )?;
            self.advance(index, reader)?;
        }
        let Some(Reverse((_, index))) = self.heads.pop() else {
            return Ok(None);
        };
        let Some((reader, item)) = self.open[index].take() else {
            return Ok(None);
        };
        self.advance(index, reader)?;
        Ok(Some((index, item)))
    }

    fn advance(&mut self, index: usize, mut reader: Reader<'a>) -> Result<()> {
        if let Some(item) = reader.next()? {
            self.heads.push(Reverse((item.time, index)));
            self.open[index] = Some((reader, item));
        } else if reader.hash() != self.sources[index].hash {
            return Err(Error::Changed {
                path: self.sources[index].path.clone(),
            });
        }
        Ok(())
    }
}
