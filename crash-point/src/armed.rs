//! What a crash point does where the feature `crash-points` is on.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::sync::{Mutex, OnceLock, PoisonError};

type Watcher = Box<dyn FnMut(&'static str)>;

thread_local! {
    static WATCHER: RefCell<Option<Watcher>> = const { RefCell::new(None) };
}

static HITS: Mutex<BTreeMap<&'static str, u64>> = Mutex::new(BTreeMap::new());
static CRASH_AT: OnceLock<Option<(String, u64)>> = OnceLock::new();
static PANIC_AT: OnceLock<Option<(String, u64)>> = OnceLock::new();
static WAIT_AT: OnceLock<Option<(String, u64)>> = OnceLock::new();

static LOG: OnceLock<Option<File>> = OnceLock::new();

/// Counts a hit of a crash point; called by [`crash_point!`](crate::crash_point!).
pub fn hit(name: &'static str) {
    let count = {
        let mut hits = HITS.lock().unwrap_or_else(PoisonError::into_inner);
        let count = hits.entry(name).or_default();
        *count += 1;
        *count
    };
    let log = LOG.get_or_init(|| {
        let path = std::env::var_os("TIDEMILL_CRASH_LOG")?;
        OpenOptions::new().append(true).create(true).open(path).ok()
    });
    if let Some(mut log) = log.as_ref() {
        // One write for a line: other threads and processes append to the same file. A hit that cannot be
        // noted is missed by the test that counts it.
        let _ = log.write_all(format!("{name}\n").as_bytes());
    }
    let is_at = |place: &Option<(String, u64)>| {
        let place = place.as_ref();
        place.is_some_and(|(at, nth)| at == name && *nth == count)
    };
    if is_at(CRASH_AT.get_or_init(|| place("TIDEMILL_CRASH_AT"))) {
        // Fails for no process that runs.
        let _ =
            rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
    }
    assert!(
        !is_at(PANIC_AT.get_or_init(|| place("TIDEMILL_PANIC_AT"))),
        "asked to panic at {name}"
    );
    if is_at(WAIT_AT.get_or_init(|| place("TIDEMILL_WAIT_AT"))) {
        wait();
    }
    // Taken out while it runs, so that a watcher may itself pass a crash point.
    if let Some(mut watcher) = WATCHER.with(|cell| cell.borrow_mut().take()) {
        watcher(name);
        WATCHER.with(|cell| {
            cell.borrow_mut().get_or_insert(watcher);
        });
    }
    crate::scope::leave_if_stopped();
}

/// The hit `NAME:NTH` that a variable of the environment names.
fn place(variable: &str) -> Option<(String, u64)> {
    let text = std::env::var(variable).ok()?;
    let (name, nth) = text.rsplit_once(':')?;
    Some((name.to_owned(), nth.parse().ok()?))
}

/// Tells whoever listens that the point was reached, and waits to be let go on.
fn wait() {
    let socket = std::env::var_os("TIDEMILL_WAIT_FOR").map(UnixStream::connect);
    if let Some(Ok(mut socket)) = socket {
        // Its end, however it comes, is the answer.
        let _ = socket.read(&mut [0]);
    }
}

/// How often each crash point was passed in this process.
pub fn hits() -> BTreeMap<&'static str, u64> {
    HITS.lock().unwrap_or_else(PoisonError::into_inner).clone()
}

/// Watches the crash points passed on this thread until it is dropped.
#[derive(Debug)]
#[must_use = "dropping it stops watching"]
pub struct Watch(());

/// Calls `watcher` at each crash point passed on this thread.
pub fn watch(watcher: impl FnMut(&'static str) + 'static) -> Watch {
    WATCHER.with(|cell| *cell.borrow_mut() = Some(Box::new(watcher)));
    Watch(())
}

impl Drop for Watch {
    fn drop(&mut self) {
        WATCHER.with(|cell| cell.borrow_mut().take());
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;
    use std::rc::Rc;

    use super::*;

    #[test]
    fn a_watcher_hears_of_its_thread_and_hits_are_counted() {
        let heard = Rc::new(RefCell::new(Vec::new()));
        let hearing = heard.clone();
        let watch = watch(move |name| hearing.borrow_mut().push(name));
        crate::crash_point!("test.watched");
        std::thread::spawn(|| crate::crash_point!("test.watched"))
            .join()
            .unwrap();
        drop(watch);
        crate::crash_point!("test.watched");
        assert_eq!(*heard.borrow(), ["test.watched"]);
        assert_eq!(hits()["test.watched"], 3);
    }

    #[test]
    fn the_environment_kills_the_process_at_the_nth_hit() {
        if std::env::var_os("TIDEMILL_CRASH_AT").is_some() {
            for _ in 0..3 {
                crate::crash_point!("test.killed");
            }
            return;
        }
        let run = |at: &str| {
            std::process::Command::new(std::env::current_exe().unwrap())
                .args([
                    "--exact",
                    "armed::tests::the_environment_kills_the_process_at_the_nth_hit",
                ])
                .env("TIDEMILL_CRASH_AT", at)
                .output()
                .unwrap()
                .status
        };
        assert_eq!(run("test.killed:3").signal(), Some(9));
        assert!(run("test.killed:4").success());
    }
}
