//! The broker's answer to produced records, one for each.

use crate::{Error, Offset};

/// One answer per record of a [`RecordSet`](crate::RecordSet), in its order.
#[derive(Debug)]
pub struct Acks {
    answers: Answers,
}

#[derive(Debug)]
enum Answers {
    Contiguous { first: Offset, count: usize },
    Each(Vec<Result<Offset, Error>>),
}

impl Acks {
    /// All `count` records were appended, at consecutive offsets from `first`.
    pub fn contiguous(first: Offset, count: usize) -> Self {
        Self {
            answers: Answers::Contiguous { first, count },
        }
    }

    /// One answer for each record.
    pub fn each(answers: Vec<Result<Offset, Error>>) -> Self {
        Self {
            answers: Answers::Each(answers),
        }
    }

    /// Number of answers.
    pub fn len(&self) -> usize {
        match &self.answers {
            Answers::Contiguous { count, .. } => *count,
            Answers::Each(answers) => answers.len(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The answer for the record at `index`: its offset, or why it was not appended.
    ///
    /// # Panics
    ///
    /// If `index` is not below [`len`](Self::len).
    pub fn get(&self, index: usize) -> Result<Offset, &Error> {
        match &self.answers {
            Answers::Contiguous { first, count } => {
                assert!(index < *count, "answer {index} of {count}");
                Ok(Offset(first.0 + index as u64))
            }
            Answers::Each(answers) => answers[index].as_ref().map(|offset| *offset),
        }
    }

    /// The first failure and its record, if any record failed.
    pub fn failure(&self) -> Option<(usize, &Error)> {
        match &self.answers {
            Answers::Contiguous { .. } => None,
            Answers::Each(answers) => answers
                .iter()
                .enumerate()
                .find_map(|(index, answer)| answer.as_ref().err().map(|error| (index, error))),
        }
    }

    /// The first failure as an owned error, or the offset of the first record.
    ///
    /// # Errors
    ///
    /// If any record was not appended.
    pub fn into_result(self) -> Result<Option<Offset>, Error> {
        match self.answers {
            Answers::Contiguous { first, count } => Ok((count > 0).then_some(first)),
            Answers::Each(answers) => {
                let mut first = None;
                for answer in answers {
                    let offset = answer?;
                    first.get_or_insert(offset);
                }
                Ok(first)
            }
        }
    }
}
