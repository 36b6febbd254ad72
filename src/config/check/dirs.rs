//! Directories: that of each log, and that of the state.

use std::ffi::OsString;
use std::path::{Component, Path, PathBuf};

use super::brokers::Brokers;
use super::head::Head;
use crate::config::Code;
use crate::config::error::Report;
use crate::config::file::File;
use crate::config::plan::{BrokerPlan, BrokerUrl, STATE_ROOT};

/// Tells where a log and the state, or two logs, would lie in each other.
pub(super) fn check(file: &File, head: &Head<'_>, brokers: &Brokers, report: &mut Report) {
    let logs: Vec<_> = brokers.plans.iter().zip(file.brokers.values()).collect();
    let url_of = |index: usize| {
        let (_, section) = logs[index];
        let body = section.body.as_ref().and_then(|body| body.url.as_ref());
        body.map_or(&section.at, |url| &url.at)
    };
    let given = head.body.and_then(|body| body.state_dir.as_ref());
    let state = match (given, &head.name) {
        (Some(dir), _) => Some(PathBuf::from(&dir.value)),
        (None, Some(name)) => Some(Path::new(STATE_ROOT).join(name.as_str())),
        (None, None) => None,
    };
    for (index, (broker, _)) in logs.iter().enumerate() {
        let others = logs[..index].iter().map(|(other, _)| *other).enumerate();
        for (other, first) in others {
            if let (Some(log), Some(first_log)) = (log_of(broker), log_of(first))
                && let Some(how) = in_each_other(log, first_log)
            {
                let message = format!("the log's directory {how} of broker `{}`", first.name);
                report
                    .add(Code::Directories, url_of(index), message)
                    .related(url_of(other), "the other")
                    .help("give each log a directory of its own");
            }
        }
        let Some(told) = state.as_deref().and_then(|dir| entangled(dir, broker)) else {
            continue;
        };
        let at = given.map_or(url_of(index), |dir| &dir.at);
        let problem = report.add(Code::Directories, at, told);
        if given.is_some() {
            problem.related(url_of(index), "the log");
        }
        problem.help("give the log and the state a directory each, such as `file://data` and `state_dir = \"state\"`");
    }
}

/// How the directory of the state and that of a broker's log lie in each other, if they do.
pub(crate) fn entangled(state: &Path, broker: &BrokerPlan) -> Option<String> {
    let how = in_each_other(state, log_of(broker)?)?;
    Some(format!(
        "the state's directory `{}` {how} of broker `{}`",
        state.display(),
        broker.name
    ))
}

fn log_of(broker: &BrokerPlan) -> Option<&Path> {
    match &broker.url {
        BrokerUrl::File { path, .. } => Some(path),
        BrokerUrl::Memory | BrokerUrl::Stdio => None,
    }
}

fn in_each_other(one: &Path, other: &Path) -> Option<&'static str> {
    let (one, other) = (resolved(one), resolved(other));
    match (one.starts_with(&other), other.starts_with(&one)) {
        (true, true) => Some("is that"),
        (true, false) => Some("lies in that"),
        (false, true) => Some("holds that"),
        (false, false) => None,
    }
}

/// Where a path leads: links are followed as far as it is there, and what is not yet there is taken to
/// become directories.
fn resolved(path: &Path) -> PathBuf {
    let mut there = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let mut rest: Vec<OsString> = Vec::new();
    let mut found = loop {
        if let Ok(found) = there.canonicalize() {
            break found;
        }
        match there.components().next_back() {
            Some(last @ (Component::Normal(_) | Component::ParentDir)) => {
                rest.push(last.as_os_str().to_owned());
                there.pop();
            }
            _ => break there,
        }
    };
    for part in rest.into_iter().rev() {
        match part == ".." {
            true => {
                found.pop();
            }
            false => found.push(part),
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_compared_by_where_they_lead() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("real")).unwrap();
        #[cfg(unix)]
        std::os::unix::fs::symlink("real", dir.path().join("link")).unwrap();
        let how =
            |one: &str, other: &str| in_each_other(&dir.path().join(one), &dir.path().join(other));
        assert_eq!(how("data", "./new/../data/"), Some("is that"));
        assert_eq!(how("data/state", "data"), Some("lies in that"));
        assert_eq!(how(".", "data"), Some("holds that"));
        assert_eq!(how("data-state", "data"), None);
        #[cfg(unix)]
        assert_eq!(how("link/new/state", "real/new"), Some("lies in that"));
        assert!(!dir.path().join("data").exists(), "nothing is made");
        assert_eq!(
            in_each_other(Path::new("data"), &std::path::absolute("data").unwrap()),
            Some("is that")
        );
    }
}
