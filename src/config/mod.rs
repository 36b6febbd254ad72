//! Pipeline files: as written, then as checked.
//!
//! ```text
//! text ─ tree ─ file ─ check ─ plan
//!        │      │      └ names resolved, types checked, guarantee computed
//!        │      └ sections in their shapes, values in their ranges
//!        └ TOML with the place of every value, variables put in
//! ```
//!
//! All problems are told at once. Checking connects to nothing.

mod aggregate;
mod check;
mod codes;
mod env;
mod error;
mod file;
pub mod guarantee;
mod ops;
pub(crate) mod parts;
pub mod plan;
mod reader;
pub mod reference;
mod source;
mod suggest;
mod topics;
mod tree;
mod value;
pub(crate) mod words;

#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::sync::Arc;

pub use check::broker_url;
pub(crate) use check::entangled;
pub use codes::Code;
pub use error::{Pretty, Problem, Problems, Severity};
pub(crate) use file::{PARTITIONS_MAX, threads};
pub use parts::Changes;
pub use plan::Plan;
pub(crate) use reader::not_in_range;
pub use source::{Place, Source};
pub(crate) use suggest::nearest;
pub(crate) use value::{duration, size};
pub use value::{show_duration, show_size};
pub use words::shell_word;

use self::error::Report;
use self::file::File;
use self::source::At;

/// A pipeline that was read and checked.
#[derive(Debug, Clone)]
pub struct Pipeline {
    /// What to run.
    pub plan: Plan,
    /// What is probably not meant.
    pub warnings: Problems,
}

impl Pipeline {
    /// Reads and checks one file that is already in memory.
    ///
    /// # Errors
    ///
    /// All problems, if any keeps the pipeline from running; warnings among them.
    pub fn parse(
        name: &str,
        text: &str,
        env: &dyn Fn(&str) -> Option<String>,
    ) -> Result<Self, Problems> {
        Self::from_sources(vec![Source::new(name, text)], Report::default(), env)
    }

    /// Reads several files and checks them as one pipeline.
    ///
    /// # Errors
    ///
    /// All problems, if any keeps the pipeline from running; warnings among them.
    pub fn load(paths: &[PathBuf], env: &dyn Fn(&str) -> Option<String>) -> Result<Self, Problems> {
        let mut report = Report::default();
        let mut sources = Vec::with_capacity(paths.len());
        for (index, path) in paths.iter().enumerate() {
            let name = path.display().to_string();
            let text = read(path, index, &mut report);
            sources.push(Source::new(&name, &text));
        }
        Self::from_sources(sources, report, env)
    }

    fn from_sources(
        sources: Vec<Source>,
        mut report: Report,
        env: &dyn Fn(&str) -> Option<String>,
    ) -> Result<Self, Problems> {
        let mut file = File::default();
        // Half of a pipeline is full of unknown names: with a part unreadable, only that is told.
        let mut whole = !report.failed();
        let mut says_nothing = true;
        for (index, source) in sources.iter().enumerate() {
            if report.told_of(index) {
                continue;
            }
            match tree::parse(index, source.text(), env, &mut report) {
                Some(tree) => {
                    says_nothing &= tree.is_empty();
                    file.add(tree, &mut report);
                }
                None => whole = false,
            }
        }
        let plan = match (whole, says_nothing) {
            (false, _) => None,
            (true, false) => check::check(&file, &start_of(0), &mut report),
            (true, true) => {
                tell_empty(&sources, &mut report);
                None
            }
        };
        let problems = report.into_problems(Arc::from(sources));
        match plan {
            Some(plan) => Ok(Self {
                plan,
                warnings: problems,
            }),
            None => Err(problems),
        }
    }
}

/// Reads several files and checks them as one pipeline.
///
/// # Errors
///
/// As for [`Pipeline::load`].
pub fn load(paths: &[PathBuf], env: &dyn Fn(&str) -> Option<String>) -> Result<Plan, Problems> {
    Pipeline::load(paths, env).map(|pipeline| pipeline.plan)
}

/// Tells that there is no section in any of the files.
fn tell_empty(sources: &[Source], report: &mut Report) {
    let message = match (sources, sources.iter().all(Source::is_blank)) {
        ([_], true) => "the file is empty",
        ([_], false) => "the file holds nothing but comments",
        (_, true) => "the files are empty",
        (_, false) => "the files hold nothing but comments",
    };
    report.add(Code::MissingKey, &start_of(0), message).help(
        "a pipeline has at least `[pipeline]` with `format = 1` and `name`, `[brokers.NAME]`, \
         `[topics.NAME]` and `[sinks.NAME]`; `tidemill explain sections` tells what stands in each",
    );
}

fn start_of(source: usize) -> At {
    At {
        place: Place::new(source, 0..0),
        path: "".into(),
    }
}

/// The text of a file; of one that cannot be used, which is told, as much as shows why.
fn read(path: &std::path::Path, index: usize, report: &mut Report) -> String {
    use std::io::Read as _;

    let mut bytes = Vec::new();
    // Beyond the limit no more is read than shows that it is exceeded.
    let limit = tree::FILE_BYTES_MAX as u64 + 1;
    let read = std::fs::File::open(path).and_then(|file| {
        let len = file.metadata()?.len();
        file.take(limit).read_to_end(&mut bytes)?;
        Ok(len)
    });
    match read {
        Err(error) => {
            let help = match error.kind() {
                std::io::ErrorKind::NotFound => {
                    "name a file that is there: paths begin where the command runs"
                }
                std::io::ErrorKind::IsADirectory => {
                    "name the files in it: those of one pipeline are given together"
                }
                _ => "make it readable for whoever runs the command",
            };
            let message = format!("cannot be read: {error}");
            report
                .add(Code::UnreadableFile, &start_of(index), message)
                .help(help);
            return String::new();
        }
        Ok(len) if bytes.len() as u64 == limit => {
            // What is no file on disk has no length beforehand.
            tree::too_large(len.max(limit), &start_of(index), report);
            return String::new();
        }
        Ok(_) => {}
    }
    String::from_utf8(bytes).unwrap_or_else(|error| {
        let valid = error.utf8_error().valid_up_to();
        let at = At {
            place: Place::new(index, valid..valid),
            path: "".into(),
        };
        let message = format!("is not UTF-8 from byte {valid} on");
        report.add(Code::Syntax, &at, message);
        String::from_utf8_lossy(error.as_bytes()).into_owned()
    })
}
