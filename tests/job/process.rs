//! A process of the job, watched and ended.

use std::fs::File;
use std::io::Read as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::PathBuf;
use std::process::{Child, Command};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;

pub(crate) use rustix::process::Signal;
use rustix::process::{Pid, kill_process};

/// Longer than any run of the job takes, however slow the machine.
const HANGS: Duration = Duration::from_secs(60);

/// A process under way.
#[derive(Debug)]
pub(crate) struct Process {
    child: Child,
    // Everything it said, once it has ended.
    said: Receiver<String>,
    // Where its calls are recorded, if they are: it is killed between two of them.
    trace: Option<PathBuf>,
}

/// How a process ended.
#[derive(Debug)]
pub(crate) struct Ended {
    /// Whether it was killed, by itself or by us.
    pub(crate) was_killed: bool,
    /// Whether it ended well by itself.
    pub(crate) is_done: bool,
    /// Its exit code and what it said.
    pub(crate) told: String,
}

impl Process {
    pub(crate) fn start(mut command: Command) -> Self {
        let mut child = command.spawn().unwrap();
        let mut errors = child.stderr.take().unwrap();
        let (tell, said) = channel();
        std::thread::spawn(move || {
            let mut text = Vec::new();
            // The pipe ends when the process does.
            let _ = errors.read_to_end(&mut text);
            let _ = tell.send(String::from_utf8_lossy(&text).into_owned());
        });
        let mut variables = command.get_envs();
        let trace = variables.find(|(name, _)| *name == "TRACE_FILE");
        let trace = trace.and_then(|(_, file)| Some(file?.into()));
        Self { child, said, trace }
    }

    /// Sends it a signal.
    pub(crate) fn send(&self, signal: Signal) {
        // It has not been waited for, so its number is still its own.
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Waits until it ends; sends it `signal` after `patience`.
    pub(crate) fn end(mut self, patience: Duration, signal: Signal) -> Ended {
        let mut held = None;
        let said = self.said.recv_timeout(patience).or_else(|error| {
            assert_eq!(error, RecvTimeoutError::Timeout);
            if signal == Signal::KILL {
                held = self.trace.as_ref().map(|trace| {
                    let trace = File::open(trace).unwrap();
                    trace.lock().unwrap();
                    trace
                });
            }
            self.send(signal);
            self.said.recv_timeout(HANGS)
        });
        let Ok(said) = said else {
            self.child.kill().unwrap();
            panic!("it hangs: {:?}", self.said.recv());
        };
        let status = self.child.wait().unwrap();
        drop(held);
        Ended {
            // By SIGTERM only before it listens for it.
            was_killed: matches!(status.signal(), Some(9 | 15)),
            is_done: status.success(),
            told: format!("{status}: {said}"),
        }
    }

    /// Waits until it has ended well.
    pub(crate) fn done(self) {
        let ended = self.end(HANGS, Signal::KILL);
        assert!(ended.is_done, "{}", ended.told);
    }
}
