//! What has happened so far, in all jobs, and which crash point is next.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use crate::job::Job;
use crate::points::all;

/// Where no real process is killed, though every named crash point should be: on a log of its own nobody
/// else is in its group, so that nothing is revoked, and no reply is lost without the log, so that no
/// transactional id is opened again. The simulator lets processes crash there, and counts it.
const BY_THE_SIMULATOR: [&str; 2] = ["commit.reopened", "intake.revoked"];

/// How often each point must be passed.
const HITS_MIN: u64 = 20;

/// How often a process must have died there.
pub(crate) const KILLS_MIN: u64 = 1;

/// How often one is to die there: jobs go on for longer where fewer have. Upkeep beside all else is hard
/// to hit, so chance may leave some below.
pub(crate) const KILLS_WANTED: u64 = 3;

/// What happened at one crash point.
#[derive(Debug, Default)]
struct Point {
    aimed: u64,
    killed: u64,
    passed: u64,
}

#[derive(Debug)]
pub(crate) struct Tally {
    points: BTreeMap<String, Point>,
    kills: u32,
    jobs: u32,
    pub(crate) at_random: u32,
    pub(crate) stops: u32,
}

impl Tally {
    pub(crate) fn new() -> Self {
        let points = all().into_iter();
        let here = points.filter(|point| !BY_THE_SIMULATOR.contains(&point.as_str()));
        Self {
            points: here.map(|point| (point, Point::default())).collect(),
            kills: 0,
            jobs: 0,
            at_random: 0,
            stops: 0,
        }
    }

    /// The point at which the fewest have died, and how many; one that is hard to reach keeps nobody
    /// waiting for long.
    pub(crate) fn next_point(&mut self) -> (String, u64) {
        let of = |point: &Point| (point.killed * 2 + point.aimed, point.passed);
        let next = self.points.iter_mut().min_by_key(|(_, point)| of(point));
        let (name, point) = next.unwrap();
        point.aimed += 1;
        (name.clone(), point.killed)
    }

    /// A process that was sent to a point has died, there or before.
    pub(crate) fn note_kill(&mut self, point: &str, there: bool) {
        self.points.get_mut(point).unwrap().killed += u64::from(there);
        self.at_random += u32::from(!there);
    }

    /// A job is done.
    pub(crate) fn end(&mut self, job: &Job, kills: u32) {
        self.kills += kills;
        self.jobs += 1;
        for line in std::fs::read_to_string(job.hits()).unwrap().lines() {
            if let Some(point) = self.points.get_mut(line) {
                point.passed += 1;
            }
        }
    }

    pub(crate) fn print(&self) {
        println!(
            "{} kills ({} at random times), {} polite stops, {} jobs",
            self.kills, self.at_random, self.stops, self.jobs
        );
        println!(
            "{:<24} {:>8} {:>8} {:>8}",
            "crash point", "aimed", "killed", "passed"
        );
        for (name, point) in &self.points {
            let Point {
                aimed,
                killed,
                passed,
            } = point;
            println!("{name:<24} {aimed:>8} {killed:>8} {passed:>8}");
        }
        for name in BY_THE_SIMULATOR {
            println!("{name:<24} by the simulator");
        }
    }

    /// Crash points that were passed too rarely, or where fewer than `kills` have died.
    pub(crate) fn missed(&self, kills: u64) -> Vec<&str> {
        let points = self.points.iter();
        let missed = points.filter(|(_, point)| point.passed < HITS_MIN || point.killed < kills);
        missed.map(|(name, _)| name.as_str()).collect()
    }
}

/// How often a crash point was passed, in all processes of the job.
pub(crate) fn passed(job: &Job, point: &str) -> u64 {
    let hits = std::fs::read_to_string(job.hits()).unwrap_or_default();
    hits.lines().filter(|line| *line == point).count() as u64
}

#[test]
fn what_is_left_to_the_simulator_is_a_crash_point_and_is_counted_there() {
    let simulator = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/simulation/world.rs");
    let text = std::fs::read_to_string(simulator).unwrap();
    let list = text.split("POINTS: [&str;").nth(1).unwrap();
    let list = list.split("];").next().unwrap();
    let counted: BTreeSet<&str> = list.split('"').skip(1).step_by(2).collect();
    assert!(counted.len() > 10, "{counted:?}");
    let all = all();
    for point in &counted {
        assert!(all.contains(*point), "{point} is not in the source");
    }
    for point in BY_THE_SIMULATOR {
        assert!(counted.contains(point), "nobody counts {point}");
    }
}
