//! What a seed decides before anything runs.

use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use tidemill::config::plan::Guarantee;
use tidemill::pipeline::Bounds;
use tidemill_broker_file::Fsync;
use tidemill_broker_memory::{FaultPlan, Persona};
use tidemill_state::StateOptions;

use crate::scenario::{Scenario, Setting};
use crate::shape::Shape;

/// Everything that a seed decides once for its run.
#[derive(Debug, Clone)]
pub(crate) struct Draw {
    pub(crate) seed: u64,
    pub(crate) shape: Shape,
    pub(crate) persona: Persona,
    pub(crate) groups: bool,
    pub(crate) guarantee: Guarantee,
    pub(crate) partitions: u32,
    pub(crate) output_partitions: u32,
    pub(crate) processes: usize,
    pub(crate) records: usize,
    /// How long records and faults come.
    pub(crate) busy: Duration,
    pub(crate) commit_interval: Duration,
    pub(crate) commit_records: u64,
    pub(crate) memory: usize,
    pub(crate) batch_records: usize,
    pub(crate) revoke_deadline: Duration,
    pub(crate) faults: [FaultPlan; 2],
    /// Crashes at named instants, and at random times.
    pub(crate) crashes_at_points: u32,
    pub(crate) crashes_at_times: u32,
    pub(crate) freezes: u32,
    pub(crate) rebalances: u32,
    pub(crate) expulsions: u32,
    pub(crate) restarts: u32,
    pub(crate) cleans: u32,
    /// Failures of the stores' medium, after which a person starts the process again.
    pub(crate) disk_faults: u32,
    pub(crate) disk_latency: Duration,
    /// Whether a crash may lose what a store had not synced.
    pub(crate) power_loss: bool,
    pub(crate) rejects: bool,
    pub(crate) poison: f64,
    pub(crate) repeats: f64,
    pub(crate) out_of_order: Duration,
    pub(crate) lateness: Duration,
    pub(crate) keys: u32,
    /// Whether the final state is compared with that of a run without any fault.
    pub(crate) reference: bool,
    /// Whether it is run a second time, to see that it comes out equal.
    pub(crate) twice: bool,
    /// How long a source may be silent before it holds nobody back.
    pub(crate) idle: Option<Duration>,
    /// How often somebody starts a process again that still runs, on another machine. Without a
    /// group: within one, two of a name shut each other out for as long as both run.
    pub(crate) twins: u32,
    /// How much may wait in a process.
    pub(crate) bounds: Bounds,
    /// Of a log in files.
    pub(crate) files: Option<Files>,
    /// What lies on a second broker, which has no transactions with the first.
    pub(crate) second: Option<Second>,
}

/// Topics on a second broker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Second {
    /// All that is read.
    Sources,
    /// The last of those that are written.
    Sink,
}

/// What a seed decides for a log in files.
#[derive(Debug, Clone)]
pub(crate) struct Files {
    pub(crate) fsync: Fsync,
    pub(crate) split_bytes: u64,
    pub(crate) unsplit_max: usize,
    pub(crate) short_writes: bool,
    /// Crashes between two changes of the disk.
    pub(crate) crashes_at_changes: u32,
    /// How likely a call is to be slow, and how slow.
    pub(crate) slow: f64,
    pub(crate) slow_max: Duration,
}

impl Draw {
    pub(crate) fn new(scenario: Scenario) -> Self {
        let draw = Self::of_seed(scenario.seed);
        // Chance of its own: what a seed means in one setting does not depend on the others.
        let rng = &mut SmallRng::seed_from_u64(scenario.seed ^ 0x7e77_1265);
        match scenario.setting {
            Setting::Memory => draw,
            Setting::Tight => draw.tightened(rng),
            Setting::Files => draw.put_into_files(rng),
            Setting::Wide => draw.widened(rng),
        }
    }

    /// Lets more come than is taken, in the same time.
    fn tightened(self, rng: &mut SmallRng) -> Self {
        Self {
            records: rng.random_range(300..1_000),
            busy: self.busy.div_f64(rng.random_range(1.0..8.0)),
            commit_records: [1, 7, 20, 50][rng.random_range(0..4)],
            batch_records: [1, 3, 16][rng.random_range(0..3)],
            disk_latency: Duration::from_micros([0, 1_000, 20_000, 50_000][rng.random_range(0..4)]),
            bounds: Bounds {
                inbox_batches: rng.random_range(1..4),
                state: Some(StateOptions {
                    dirty_bytes_max: [0, 500, 2_000, 10_000][rng.random_range(0..4)],
                    chunk_elements: [1, 4, 256][rng.random_range(0..3)],
                    chunk_bytes: [1, 300, 1 << 18][rng.random_range(0..3)],
                }),
                due_at_once: [1, 1, 2, 5][rng.random_range(0..4)],
                transaction_bytes: [0, 1_000, 10_000, usize::MAX][rng.random_range(0..4)],
            },
            ..self
        }
    }

    /// Two sources side by side in one task, or some topics on another broker; or both.
    fn widened(self, rng: &mut SmallRng) -> Self {
        let mut draw = self;
        let second = [None, Some(Second::Sources), Some(Second::Sink)];
        draw.second = second[rng.random_range(0..3)];
        if draw.second.is_none() || rng.random() {
            draw.shape = Shape::Apart;
            draw.idle =
                [None, Some(50), Some(1_000)][rng.random_range(0..3)].map(Duration::from_millis);
        }
        match draw.second {
            // Their offsets are in no transaction of the other broker: nobody hands them out.
            Some(Second::Sources) => {
                draw.groups = false;
                draw.processes = 1;
                draw.twins = [0, 0, 1, 2][rng.random_range(0..4)];
            }
            // Nothing is exact there.
            Some(Second::Sink) if draw.guarantee == Guarantee::ExactlyOnce => {
                draw.guarantee =
                    [Guarantee::AtLeastOnce, Guarantee::AtMostOnce][rng.random_range(0..2)];
            }
            _ => {}
        }
        draw
    }

    fn put_into_files(self, rng: &mut SmallRng) -> Self {
        let files = Files {
            fsync: match rng.random_range(0..4) {
                0 => Fsync::Commit,
                1 => Fsync::Never,
                _ => Fsync::Every(Duration::from_millis(
                    [1, 100, 2_000][rng.random_range(0..3)],
                )),
            },
            split_bytes: [3_000, 20_000, 100_000, 64 << 20][rng.random_range(0..4)],
            unsplit_max: [1, 2, 16][rng.random_range(0..3)],
            short_writes: rng.random(),
            crashes_at_changes: if rng.random_bool(0.7) {
                rng.random_range(1..6)
            } else {
                0
            },
            slow: [0.0, 0.05, 0.3][rng.random_range(0..3)],
            slow_max: Duration::from_millis(rng.random_range(1..300)),
        };
        let draw = if rng.random_bool(0.3) {
            self.tightened(rng)
        } else {
            self
        };
        Self {
            files: Some(files),
            power_loss: rng.random_bool(0.8),
            // The log keeps groups in its own process, and one process only has it open.
            faults: [FaultPlan::default(); 2],
            rejects: false,
            rebalances: 0,
            expulsions: 0,
            twins: 0,
            ..draw
        }
    }

    fn of_seed(seed: u64) -> Self {
        let mut rng = SmallRng::seed_from_u64(seed);
        let rng = &mut rng;
        let shape = Shape::ALL[rng.random_range(0..Shape::ALL.len())];
        let persona = [Persona::Memory, Persona::Kafka][rng.random_range(0..2)];
        let groups = rng.random_bool(0.85);
        let guarantee = match rng.random_range(0..10) {
            0..6 => Guarantee::ExactlyOnce,
            6..8 => Guarantee::AtLeastOnce,
            _ => Guarantee::AtMostOnce,
        };
        let rejects = rng.random_bool(0.05);
        let plan = |rng: &mut SmallRng| {
            if rng.random_bool(0.2) {
                return FaultPlan::default();
            }
            let mut plan = FaultPlan::swarm(rng.random());
            plan.hanging_max = plan.hanging_max.min(Duration::from_secs(8));
            // Long waits make long runs, not hard ones.
            plan.delay_max = plan.delay_max.mul_f64(rng.random_range(0.01..0.5));
            if rejects {
                plan.rejection = 0.002;
            }
            plan
        };
        let up_to = |rng: &mut SmallRng, most: u32| {
            if rng.random_bool(0.6) {
                rng.random_range(0..=most)
            } else {
                0
            }
        };
        let busy = Duration::from_millis(rng.random_range(1_000..15_000));
        Self {
            seed,
            shape,
            persona,
            groups,
            guarantee,
            partitions: rng.random_range(1..=4),
            output_partitions: rng.random_range(1..=3),
            processes: if groups { rng.random_range(1..=3) } else { 1 },
            records: rng.random_range(100..600),
            busy,
            commit_interval: Duration::from_millis(
                [5, 20, 100, 300, 1_000][rng.random_range(0..5)],
            ),
            commit_records: [1, 7, 50, 10_000][rng.random_range(0..4)],
            memory: [0, 2_000, 20_000, 1 << 24][rng.random_range(0..4)],
            batch_records: [1, 3, 16, 256][rng.random_range(0..4)],
            revoke_deadline: Duration::from_millis([500, 3_000, 30_000][rng.random_range(0..3)]),
            faults: [plan(rng), plan(rng)],
            crashes_at_points: up_to(rng, 6),
            crashes_at_times: up_to(rng, 4),
            freezes: up_to(rng, 2),
            rebalances: up_to(rng, 6),
            expulsions: up_to(rng, 2),
            restarts: up_to(rng, 2),
            cleans: up_to(rng, 3),
            disk_faults: if rng.random_bool(0.1) {
                rng.random_range(1..3)
            } else {
                0
            },
            disk_latency: if rng.random_bool(0.5) {
                Duration::from_micros(rng.random_range(1..20_000))
            } else {
                Duration::ZERO
            },
            power_loss: rng.random_bool(0.5),
            rejects,
            poison: if rng.random_bool(0.7) { 0.02 } else { 0.0 },
            repeats: if rng.random_bool(0.7) { 0.1 } else { 0.0 },
            out_of_order: Duration::from_millis([0, 200, 1_000][rng.random_range(0..3)]),
            lateness: Duration::from_millis([0, 0, 500, 2_000][rng.random_range(0..4)]),
            keys: [1, 3, 20][rng.random_range(0..3)],
            reference: rng.random_bool(0.15),
            twice: rng.random_bool(0.05),
            idle: [None, None, Some(50), Some(1_000)][rng.random_range(0..4)]
                .map(Duration::from_millis)
                // Where inputs meet, results depend on who was silent when.
                .filter(|_| shape != Shape::Joined),
            // Two processes of one name: the later one must shut the earlier one out.
            twins: if rng.random_bool(0.5) && !groups {
                rng.random_range(1..3)
            } else {
                0
            },
            bounds: Bounds::default(),
            files: None,
            second: None,
        }
    }

    /// On which broker a topic lies.
    pub(crate) fn broker_of(&self, topic: &str) -> &'static str {
        let is_second = match self.second {
            None => false,
            Some(Second::Sources) => self.shape.inputs().contains(&topic),
            Some(Second::Sink) => self.shape.outputs().last() == Some(&topic),
        };
        if is_second { "second" } else { "main" }
    }

    /// Whether a person must start processes again, because tasks may halt for good.
    pub(crate) fn halts(&self) -> bool {
        self.rejects || self.disk_faults > 0
    }
}
