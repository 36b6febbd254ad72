//! SIGTERM and SIGINT at each named instant of a commit: the process waits there until it was sent. One
//! commits and leaves, a second leaves at once; and in the end nothing is lost or doubled.

use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::mpsc::channel;
use std::time::Duration;

use crate::errand::is_reason_of_ours;
use crate::job::{Job, Outcome, Process, Scratch, Signal, Ticks, stores};

/// The instants of a commit, from what is taken to what is written behind, in their order.
const POINTS: [&str; 15] = [
    "task.taken",
    "task.processed",
    "task.closed",
    "commit.composed",
    "append.encoded",
    "append.written",
    "sync.begun",
    "sync.file",
    "sync.published",
    "commit.answered",
    "task.committed",
    "write_behind.durable",
    "write_behind.noted",
    "write_behind.flushed",
    "write_behind.stored",
];

/// What a process that was told twice ends with.
const INTERRUPTED: &str = "exit status: 130";

/// Longer than any run takes to come to a point.
const PATIENCE: Duration = Duration::from_secs(60);

/// Ticks that come in before each run, so that it has something to commit.
const TICKS: usize = 300;

#[test]
fn a_signal_at_any_instant_of_a_commit_ends_the_run_and_loses_nothing() {
    let directory = Scratch::new("cargo test --all-features --test kill signal");
    let signals: [&[Signal]; 2] = [&[Signal::TERM], &[Signal::TERM, Signal::INT]];
    std::thread::scope(|scope| {
        for (number, signals) in signals.into_iter().enumerate() {
            let dir = directory.path().join(number.to_string());
            scope.spawn(move || interrupt(&dir, signals));
        }
    });
}

/// Sends the signals to a run at each point, one after the other, and lets the last come to its end.
fn interrupt(dir: &Path, signals: &[Signal]) {
    std::fs::create_dir_all(dir).unwrap();
    let mut ticks = Ticks::new(signals.len() as u64);
    let pieces: Vec<_> = POINTS.iter().map(|_| ticks.file(dir, TICKS)).collect();
    let job = Job::new(&dir.join("job"), "exactly_once", "?fsync=5ms", &[]);
    let expected = job.undisturbed(&dir.join("reference"), &pieces);
    for (point, piece) in POINTS.iter().zip(&pieces) {
        Process::start(job.import(piece)).done();
        let (process, waiting) = run_to(&job, point, &dir.join("socket"));
        for &signal in signals {
            process.send(signal);
        }
        if signals.len() == 1 {
            // Sent there; it goes on from there.
            drop(waiting);
            process.done();
        } else {
            // It is still there when it leaves.
            let ended = process.end(PATIENCE, Signal::KILL);
            assert!(
                ended.told.starts_with(INTERRUPTED),
                "{point}: {}",
                ended.told
            );
            drop(waiting);
        }
    }
    Process::start(job.run(true)).done();
    let found = Outcome::read(&job).unwrap();
    let wrong = found.difference(&expected);
    let wrong = wrong.or_else(|| stores::wrong(&job, &found, |_, why| is_reason_of_ours(why)));
    assert!(
        wrong.is_none(),
        "{signals:?}: {}",
        wrong.unwrap_or_default()
    );
}

/// Starts a run and returns once it waits at a point, with what it waits for.
fn run_to(job: &Job, point: &str, socket: &Path) -> (Process, UnixStream) {
    // Of the run before.
    let _ = std::fs::remove_file(socket);
    let listener = UnixListener::bind(socket).unwrap();
    let mut command = job.run(false);
    command
        .env("TIDEMILL_WAIT_AT", format!("{point}:1"))
        .env("TIDEMILL_WAIT_FOR", socket);
    let process = Process::start(command);
    let (tell, reached) = channel();
    std::thread::spawn(move || {
        let (waiting, _) = listener.accept().unwrap();
        // Nobody listens where it came too late.
        let _ = tell.send(waiting);
    });
    match reached.recv_timeout(PATIENCE) {
        Ok(waiting) => (process, waiting),
        Err(_) => panic!(
            "{point} was not reached: {:?}",
            process.end(Duration::ZERO, Signal::KILL)
        ),
    }
}
