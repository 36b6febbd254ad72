//! Brokers: their URLs, and which one a topic means.

use std::path::PathBuf;
use std::time::Duration;

use crate::config::error::Report;
use crate::config::file::File;
use crate::config::plan::{BrokerPlan, BrokerUrl, FsyncPolicy};
use crate::config::source::{At, Located};
use crate::config::suggest::{nearest, one_of};
use crate::config::{Code, value};

/// The brokers of a file, sorted by name.
#[derive(Debug)]
pub(super) struct Brokers {
    /// One for each section; those that are broken stand as memory so that checking can go on.
    pub(super) plans: Vec<BrokerPlan>,
    places: Vec<At>,
    used: Vec<bool>,
    /// Whether each is where its URL says.
    pub(super) whole: bool,
}

impl Brokers {
    pub(super) fn check(file: &File, report: &mut Report) -> Self {
        let mut brokers = Self {
            plans: Vec::new(),
            places: Vec::new(),
            used: vec![false; file.brokers.len()],
            whole: true,
        };
        for (name, section) in &file.brokers {
            let url = section.body.as_ref().and_then(|body| body.url.as_ref());
            let url = url.and_then(|url| match parse_url(&url.value) {
                Ok(parsed) => Some(parsed),
                Err(refusal) => {
                    let problem = report.add(refusal.code, &url.at, refusal.message);
                    problem.help = refusal.help;
                    None
                }
            });
            brokers.whole &= url.is_some();
            brokers.plans.push(BrokerPlan {
                name: name.as_str().into(),
                url: url.unwrap_or(BrokerUrl::Memory),
            });
            brokers.places.push(section.at.clone());
        }
        brokers
    }

    /// The broker that is named; without a name, the only one. `at` is the topic that needs it.
    pub(super) fn find(
        &mut self,
        name: Option<&Located<String>>,
        at: &At,
        report: &mut Report,
    ) -> Option<usize> {
        let found = match name {
            Some(name) => {
                let same = |plan: &BrokerPlan| *plan.name == name.value;
                let found = self.plans.iter().position(same);
                if found.is_none() {
                    let shown = value::short(&name.value);
                    let problem = report.add(
                        Code::UnknownBroker,
                        &name.at,
                        format!("unknown broker `{shown}`"),
                    );
                    let names = || self.plans.iter().map(|plan| &*plan.name);
                    match nearest(&name.value, names()) {
                        Some(near) => problem.did_you_mean(Some(near)),
                        None if self.plans.is_empty() => {
                            problem.help("declare it in `[brokers.NAME]`")
                        }
                        None => problem.help(format!("declared are {}", one_of(names()))),
                    };
                }
                found
            }
            None if self.plans.len() == 1 => Some(0),
            None => {
                let message = match self.plans.len() {
                    0 => "the file declares no broker",
                    _ => "the file declares several brokers: say which one",
                };
                report
                    .add(Code::WhichBroker, &at.child("broker"), message)
                    .help("declare one in `[brokers.NAME]`, and name it with `broker = \"NAME\"`");
                None
            }
        };
        if let Some(index) = found {
            self.used[index] = true;
        }
        found
    }

    pub(super) fn is_stdio(&self, index: usize) -> bool {
        self.plans[index].url == BrokerUrl::Stdio
    }

    pub(super) fn mark_used(&mut self, index: usize) {
        self.used[index] = true;
    }

    /// Warns of brokers that nothing lies on.
    pub(super) fn warn_unused(&self, report: &mut Report) {
        for (used, at) in self.used.iter().zip(&self.places) {
            if !used {
                report.add(Code::UnusedBroker, at, "nothing uses this broker");
            }
        }
    }
}

struct Refusal {
    code: Code,
    message: String,
    help: Option<String>,
}

/// How often the embedded log is made durable unless its URL says otherwise.
const FSYNC_DEFAULT: FsyncPolicy = FsyncPolicy::Every(Duration::from_millis(100));

/// The smallest bound of a log file: splitting one costs a few fsyncs.
const SPLIT_MIN: u64 = 4 << 10;

const SCHEMES: [&str; 3] = ["mem", "file", "stdio"];

fn parse_url(url: &str) -> Result<BrokerUrl, Refusal> {
    let bad = |message: String, help: Option<&str>| Refusal {
        code: Code::BadUrl,
        message,
        help: help.map(str::to_owned),
    };
    let Some((scheme, rest)) = url.split_once(':') else {
        let message = format!("`{}` is not a URL", value::short(url));
        return Err(bad(
            message,
            Some("write `file://DIRECTORY`, `mem://` or `stdio:`"),
        ));
    };
    let rest_after_slashes = rest.strip_prefix("//");
    match (scheme, rest_after_slashes) {
        ("mem", Some("")) => Ok(BrokerUrl::Memory),
        ("mem", _) => Err(bad(
            "nothing may follow `mem://`: it lies in this process".into(),
            None,
        )),
        ("stdio", Some("")) => Ok(BrokerUrl::Stdio),
        ("stdio", None) if rest.is_empty() => Ok(BrokerUrl::Stdio),
        ("stdio", _) => Err(bad("nothing may follow `stdio:`".into(), None)),
        ("file", Some(rest)) => file_url(rest).map_err(|message| bad(message, None)),
        ("file", None) => Err(bad(
            "a file broker needs two slashes".into(),
            Some("write `file://DIRECTORY`, or `file:///DIRECTORY` from the root"),
        )),
        ("kafka" | "fluvio", _) => Err(Refusal {
            code: Code::NotBuiltIn,
            message: format!("`{scheme}://` is not built in yet"),
            help: Some("use `file://DIRECTORY` or `mem://`".into()),
        }),
        _ => {
            let message = format!("unknown scheme `{}`", value::short(scheme));
            let mut refusal = bad(
                message,
                Some("write `file://DIRECTORY`, `mem://` or `stdio:`"),
            );
            if let Some(near) = nearest(scheme, SCHEMES) {
                refusal.help = Some(format!("did you mean `{near}`?"));
            }
            Err(refusal)
        }
    }
}

fn file_url(rest: &str) -> Result<BrokerUrl, String> {
    let (path, query) = match rest.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (rest, None),
    };
    // An authority, which is this machine.
    let path = match path.strip_prefix("localhost") {
        Some(rooted) if rooted.starts_with('/') => rooted,
        _ => path,
    };
    if path.is_empty() {
        return Err("names no directory".into());
    }
    if path.contains('\0') {
        return Err("a path cannot hold a zero byte".into());
    }
    let (mut fsync, mut split) = (FSYNC_DEFAULT, BrokerUrl::SPLIT_DEFAULT);
    for option in query.into_iter().flat_map(|query| query.split('&')) {
        match option.split_once('=') {
            Some(("fsync", "commit")) => fsync = FsyncPolicy::Commit,
            Some(("fsync", "never")) => fsync = FsyncPolicy::Never,
            Some(("fsync", every)) => match value::duration(every) {
                Ok(every) if every.is_zero() => {
                    return Err("`fsync` must be longer than 0: write `fsync=commit`".into());
                }
                Ok(every) => fsync = FsyncPolicy::Every(every),
                Err(_) => return Err(no_fsync(every)),
            },
            Some(("split", size)) => match value::size(size) {
                Ok(bytes) if bytes < SPLIT_MIN => {
                    return Err("`split` must be at least 4KiB".into());
                }
                Ok(bytes) => split = bytes,
                Err(message) => return Err(format!("`split`: {message}")),
            },
            _ => {
                let shown = value::short(option);
                return Err(format!(
                    "unknown option `{shown}`: options are `fsync` and `split`"
                ));
            }
        }
    }
    Ok(BrokerUrl::File {
        path: PathBuf::from(path),
        fsync,
        split,
    })
}

/// What is neither of the words that `fsync` takes nor a time.
fn no_fsync(given: &str) -> String {
    let meant = match nearest(given, ["commit", "never"]) {
        Some(near) => format!("; did you mean `{near}`?"),
        None => String::new(),
    };
    let shown = value::short(given);
    format!("`fsync` is `commit`, `never` or a duration such as `100ms`, not `{shown}`{meant}")
}

/// Reads the URL of a broker, for commands that take one.
///
/// # Errors
///
/// What is wrong with it, in one line.
pub fn broker_url(url: &str) -> Result<BrokerUrl, String> {
    parse_url(url).map_err(|refusal| match refusal.help {
        Some(help) => format!("{}; {help}", refusal.message),
        None => refusal.message,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_name_a_broker_or_are_refused() {
        let file = |path: &str, fsync| {
            Ok(BrokerUrl::File {
                path: path.into(),
                fsync,
                split: BrokerUrl::SPLIT_DEFAULT,
            })
        };
        for (url, expected) in [
            ("mem://", Ok(BrokerUrl::Memory)),
            ("stdio:", Ok(BrokerUrl::Stdio)),
            ("file://data", file("data", FSYNC_DEFAULT)),
            ("file://localhost/tmp/x", file("/tmp/x", FSYNC_DEFAULT)),
            ("file://localhost", file("localhost", FSYNC_DEFAULT)),
            (
                "file:///a/b?fsync=commit",
                file("/a/b", FsyncPolicy::Commit),
            ),
            (
                "file://d?fsync=5ms",
                file("d", FsyncPolicy::Every(Duration::from_millis(5))),
            ),
        ] {
            assert_eq!(broker_url(url), expected, "{url}");
        }
        let small = broker_url("file://d?fsync=never&split=64KiB");
        assert!(matches!(small, Ok(BrokerUrl::File { split, .. }) if split == 64 << 10));
        for bad in [
            "",
            "data",
            "file:data",
            "file://",
            "file://d?sync=1s",
            "file://d?fsync=0s",
            "file://d?fsync=5",
            "file://d?split=1KiB",
            "file://d?split=many",
            "mem://x",
            "kafka://h:1",
            "fil://d",
            "stdio:x",
        ] {
            assert!(broker_url(bad).is_err(), "{bad}");
        }
    }
}
