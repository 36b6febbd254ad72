//! What the simulated processes share: broker, disks, chance, and the crashes that wait for them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use tidemill::config::Plan;
use tidemill::pipeline::Bounds;
use tidemill_broker::{Broker, Consumer, Timestamp, TokioClock};
use tidemill_broker_memory::{Faults, MemoryBroker, MemoryOptions};
use tidemill_state::{Call, Fault, MemoryDisk, Survivors, crash_point};
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use crate::checker::Checker;
use crate::draw::Draw;
use crate::event::EPOCH;
use crate::host::Host;
use crate::load::Load;

/// Everything outside of the processes.
#[derive(Debug)]
pub(crate) struct World {
    pub(crate) draw: Draw,
    pub(crate) plan: Plan,
    pub(crate) log: Log,
    /// A broker beside it, which keeps some of the topics.
    pub(crate) second: Option<MemoryBroker>,
    pub(crate) load: Load,
    me: Weak<World>,
    start: Instant,
    inner: Mutex<Inner>,
    /// Told when the process of that number was killed.
    pub(crate) killed: Vec<Notify>,
    /// Crashes at each named instant.
    pub(crate) crashes: Mutex<BTreeMap<&'static str, u64>>,
    /// Epochs at which the sum of a ledger was looked at.
    pub(crate) ledgers: AtomicU64,
}

/// The log of a world.
#[derive(Debug)]
pub(crate) enum Log {
    /// In memory: it outlives every process.
    Memory(MemoryBroker),
    /// In files, on the one machine where everything runs.
    Files(Box<Host>),
}

#[derive(Debug)]
struct Inner {
    rng: SmallRng,
    disks: BTreeMap<(usize, String), MemoryDisk>,
    /// The scope in which each process runs at present.
    scopes: Vec<Option<u64>>,
    /// The machine that each process runs on: whose disks are its own.
    machines: Vec<usize>,
    runs: u64,
    armed: Option<Armed>,
    graves: Vec<Grave>,
    lines: Vec<String>,
    wrong: Option<String>,
    caught: BTreeSet<Checker>,
    /// Whether everything that was slow is fast again.
    healed: bool,
}

/// A crash that waits for its instant.
#[derive(Debug)]
struct Armed {
    name: Option<&'static str>,
    left: u32,
}

/// The membership of a dead process, of whose death its group does not know yet.
#[derive(Debug)]
struct Grave {
    until: Instant,
    _consumer: Box<dyn Consumer>,
}

/// The instants at which a process can be made to crash, all that a simulated one passes: the last
/// one only where the bounds are tight.
pub(crate) const POINTS: [&str; 16] = [
    "task.taken",
    "task.processed",
    "task.closed",
    "task.committed",
    "commit.composed",
    "commit.answered",
    "commit.reopened",
    "intake.revoked",
    "recover.begin",
    "recover.redone",
    "write_behind.durable",
    "write_behind.noted",
    "write_behind.chunk",
    "write_behind.flushed",
    "write_behind.stored",
    "task.worked_off",
];

impl World {
    pub(crate) fn new(draw: &Draw) -> Arc<Self> {
        let clock = Arc::new(TokioClock::starting_at(Timestamp(EPOCH)));
        let log = match &draw.files {
            Some(files) => Log::Files(Box::new(Host::new(draw, files, clock))),
            None => {
                let mut options = MemoryOptions::new(draw.persona, clock, draw.seed);
                options.capabilities.groups &= draw.groups;
                Log::Memory(MemoryBroker::new(options))
            }
        };
        let second = draw.second.map(|_| {
            let clock = Arc::new(TokioClock::starting_at(Timestamp(EPOCH)));
            MemoryBroker::new(MemoryOptions::new(draw.persona, clock, draw.seed ^ 2))
        });
        Arc::new_cyclic(|me| Self {
            second,
            plan: draw.shape.plan(draw),
            log,
            load: Load::new(draw),
            me: me.clone(),
            start: Instant::now(),
            inner: Mutex::new(Inner {
                rng: SmallRng::seed_from_u64(draw.seed ^ 0x5eed),
                disks: BTreeMap::new(),
                scopes: vec![None; draw.processes],
                machines: (0..draw.processes).collect(),
                runs: 0,
                armed: None,
                graves: Vec::new(),
                lines: Vec::new(),
                wrong: None,
                caught: BTreeSet::new(),
                healed: false,
            }),
            killed: (0..draw.processes).map(|_| Notify::new()).collect(),
            crashes: Mutex::default(),
            ledgers: AtomicU64::default(),
            draw: draw.clone(),
        })
    }

    pub(crate) fn weak(&self) -> Weak<World> {
        self.me.clone()
    }

    /// The broker, which is opened first if its log is in files and its machine has died.
    pub(crate) async fn broker(&self) -> Arc<dyn Broker> {
        match &self.log {
            Log::Memory(broker) => Arc::new(broker.clone()),
            Log::Files(host) => Arc::new(host.broker(self).await),
        }
    }

    /// The broker that keeps a topic.
    pub(crate) async fn broker_of(&self, topic: &str) -> Arc<dyn Broker> {
        match &self.second {
            Some(second) if self.draw.broker_of(topic) == "second" => Arc::new(second.clone()),
            _ => self.broker().await,
        }
    }

    /// The broker for who only reads, from another process.
    pub(crate) async fn reader(&self) -> tidemill_broker::Result<Arc<dyn Broker>> {
        Ok(match &self.log {
            Log::Memory(broker) => Arc::new(broker.clone()),
            Log::Files(host) => Arc::new(host.reader().await?),
        })
    }

    /// What breaks the brokers that are in memory.
    pub(crate) fn faults(&self) -> Vec<Faults> {
        let first = match &self.log {
            Log::Memory(broker) => Some(broker),
            Log::Files(_) => None,
        };
        let brokers = first.into_iter().chain(&self.second);
        brokers.map(MemoryBroker::faults).collect()
    }

    /// The machine, where there is only one.
    pub(crate) fn host(&self) -> Option<&Host> {
        match &self.log {
            Log::Memory(_) => None,
            Log::Files(host) => Some(host),
        }
    }

    /// Tells of deaths of the machine that keeps the log.
    pub(crate) fn deaths(&self) -> watch::Receiver<u64> {
        match &self.log {
            // Of one that never dies.
            Log::Memory(_) => watch::channel(0).1,
            Log::Files(host) => host.deaths(),
        }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap()
    }

    /// Writes a line of the run's log.
    pub(crate) fn say(&self, line: impl Into<String>) {
        let since = self.start.elapsed().as_millis();
        self.inner()
            .lines
            .push(format!("{since:>7} ms  {}", line.into()));
    }

    /// Notes what must not be; the first is what the run fails with.
    pub(crate) fn wrong(&self, what: impl Into<String>) {
        self.caught(Checker::Run, what);
    }

    /// Notes what a checker found.
    pub(crate) fn caught(&self, by: Checker, what: impl Into<String>) {
        let what = what.into();
        self.say(format!("WRONG ({by:?}): {what}"));
        let mut inner = self.inner();
        inner.caught.insert(by);
        inner.wrong.get_or_insert(what);
    }

    pub(crate) fn first_wrong(&self) -> Option<String> {
        self.inner().wrong.clone()
    }

    /// Who found something.
    pub(crate) fn caught_by(&self) -> BTreeSet<Checker> {
        self.inner().caught.clone()
    }

    pub(crate) fn lines(&self) -> Vec<String> {
        self.inner().lines.clone()
    }

    /// Draws from the run's chance.
    pub(crate) fn draw_with<T>(&self, draw: impl FnOnce(&mut SmallRng) -> T) -> T {
        draw(&mut self.inner().rng)
    }

    /// Notes in which scope a process runs from now on, and numbers its start.
    pub(crate) fn started(&self, process: usize) -> (u64, u64) {
        let mut inner = self.inner();
        inner.runs += 1;
        let run = inner.runs;
        inner.scopes[process] = Some(run);
        (run, run)
    }

    pub(crate) fn ended(&self, process: usize) {
        self.inner().scopes[process] = None;
    }

    pub(crate) fn machine(&self, process: usize) -> usize {
        self.inner().machines[process]
    }

    /// Moves a process to a machine of its own, which nobody has used.
    pub(crate) fn move_to_another_machine(&self, process: usize) {
        let mut inner = self.inner();
        let newest = inner.machines.iter().max().copied().unwrap_or_default();
        inner.machines[process] = newest + 1;
    }

    pub(crate) fn scope_of(&self, process: usize) -> Option<u64> {
        self.inner().scopes[process]
    }

    /// Lets the process that passes this instant, or any, the `left`th time from now crash there.
    pub(crate) fn arm(&self, name: Option<&'static str>, left: u32) {
        self.inner().armed = Some(Armed { name, left });
    }

    pub(crate) fn disarm(&self) {
        self.inner().armed = None;
    }

    /// A process passes a named instant.
    pub(crate) fn pass(&self, name: &'static str) {
        let scope = crash_point::current();
        let process = {
            let mut inner = self.inner();
            let Some(process) = inner.scopes.iter().position(|of| *of == Some(scope)) else {
                return;
            };
            let Some(armed) = &mut inner.armed else {
                return;
            };
            if armed.name.is_some_and(|armed| armed != name) {
                return;
            }
            armed.left = armed.left.saturating_sub(1);
            if armed.left > 0 {
                return;
            }
            inner.armed = None;
            process
        };
        self.kill(process, name);
        *self.crashes.lock().unwrap().entry(name).or_default() += 1;
    }

    /// Kills a process at this very instant: nothing of it runs on, and its disks lose what a crash
    /// loses.
    ///
    /// Where the log is in files, everything that runs is of one process, on one machine.
    pub(crate) fn kill(&self, process: usize, at: &str) {
        if self.host().is_some() {
            return self.kill_all(at, None);
        }
        let Some(scope) = self.inner().scopes[process].take() else {
            return;
        };
        crash_point::stop(scope);
        let loses = self.draw.power_loss && self.draw_with(|rng| rng.random_bool(0.5));
        self.say(format!(
            "process {process} crashes at {at}{}",
            if loses { ", its disks lose power" } else { "" }
        ));
        self.crash_disks(Some(self.machine(process)), loses);
        self.killed[process].notify_one();
    }

    /// Kills the one machine at this very instant, and with it everything that runs: log and stores
    /// lose together what a crash loses.
    pub(crate) fn kill_all(&self, at: &str, loses_power: Option<bool>) {
        let Some(host) = self.host() else { return };
        let scopes: Vec<_> = self.inner().scopes.iter_mut().map(Option::take).collect();
        for scope in scopes.iter().flatten() {
            crash_point::stop(*scope);
        }
        let loses = loses_power
            .unwrap_or_else(|| self.draw.power_loss && self.draw_with(|rng| rng.random_bool(0.6)));
        self.say(format!(
            "the machine {} at {at}",
            if loses { "loses power" } else { "is killed" }
        ));
        self.crash_disks(None, loses);
        host.crash(self, loses, self.draw_with(|rng| rng.random()));
        for (process, _) in scopes
            .iter()
            .enumerate()
            .filter(|(_, scope)| scope.is_some())
        {
            self.killed[process].notify_one();
        }
    }

    /// Lets the stores of a machine, or of all, lose what a crash loses.
    fn crash_disks(&self, machine: Option<usize>, loses: bool) {
        let mut inner = self.inner();
        let Inner { rng, disks, .. } = &mut *inner;
        let of = |of: usize| machine.is_none_or(|machine| machine == of);
        for (_, disk) in disks.iter().filter(|((machine, _), _)| of(*machine)) {
            let survivors = match rng.random_range(0..3) {
                _ if !loses => Survivors::All,
                0 => Survivors::None,
                1 => Survivors::Prefix(Box::new(|count| rng.random_range(0..=count))),
                _ => Survivors::Subset(Box::new(|| rng.random_bool(0.5))),
            };
            disk.crash(survivors);
        }
    }

    /// The disk of the log is about to change.
    pub(crate) fn pass_change(&self) {
        if self.host().is_some_and(Host::about_to_change) {
            self.kill_all("a change of its disk", None);
        }
    }

    /// Keeps the consumer of a dead process in its group, as until its session ends.
    pub(crate) fn bury(&self, consumer: Box<dyn Consumer>) {
        let mut inner = self.inner();
        let session = inner.rng.random_range(0..20_000);
        let until = Instant::now() + Duration::from_millis(session);
        inner.graves.push(Grave {
            until,
            _consumer: consumer,
        });
    }

    /// Lets sessions of the dead end whose time has come; all of them if `all`.
    pub(crate) fn end_sessions(&self, all: bool) {
        let now = Instant::now();
        let ended: Vec<Grave> = self
            .inner()
            .graves
            .extract_if(.., |grave| all || grave.until <= now)
            .collect();
        if !ended.is_empty() {
            self.say(format!("the sessions of {} dead members end", ended.len()));
        }
    }

    /// Makes a later call of one of a process's stores fail, or of the log's disk.
    pub(crate) fn fail_disk(&self, process: usize) {
        if let Some(host) = self.host()
            && self.draw_with(|rng| rng.random())
        {
            self.say("the disk of the log will fail");
            return host.fail(self.draw_with(|rng| rng.random()));
        }
        let mut inner = self.inner();
        let machine = inner.machines[process];
        let Inner { rng, disks, .. } = &mut *inner;
        let disks: Vec<_> = disks.iter().filter(|((of, _), _)| *of == machine).collect();
        if disks.is_empty() {
            return;
        }
        let ((_, task), disk) = disks[rng.random_range(0..disks.len())];
        let call = [Call::Read, Call::Write, Call::Sync, Call::Note][rng.random_range(0..4)];
        let fault = [Fault::Medium, Fault::Full][rng.random_range(0..2)];
        disk.fail(call, rng.random_range(1..4), fault);
        let line =
            format!("process {process}: the disk of task {task} will fail ({call:?}, {fault:?})");
        drop(inner);
        self.say(line);
    }

    pub(crate) fn disk(&self, machine: usize, task: &str) -> MemoryDisk {
        let mut inner = self.inner();
        let latency = match inner.healed && self.draw.bounds != Bounds::default() {
            // One commit for each record takes an age on a slow disk.
            true => Duration::ZERO,
            false => self.draw.disk_latency,
        };
        let disk = inner
            .disks
            .entry((machine, task.to_owned()))
            .or_insert_with(|| {
                let disk = MemoryDisk::new();
                disk.set_latency(latency);
                disk
            });
        disk.clone()
    }

    /// Whether everything that was slow is fast again.
    pub(crate) fn is_healed(&self) -> bool {
        self.inner().healed
    }

    /// Ends what makes disks slow and fail.
    pub(crate) fn heal_disks(&self) {
        let mut inner = self.inner();
        inner.healed = true;
        for disk in inner.disks.values() {
            disk.heal();
        }
    }

    /// Takes all disks of a machine away.
    pub(crate) fn lose_disks(&self, machine: usize) {
        self.inner().disks.retain(|(of, _), _| *of != machine);
    }
}
