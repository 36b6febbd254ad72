//! One run: everything from one seed.

use std::num::NonZeroU32;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use rand::Rng;
use rand::seq::IndexedRandom;
use tidemill::config::plan::Guarantee;
use tidemill::pipeline::{Bounds, Error, Kind, Pipeline, RunOptions};
use tidemill_broker::{
    Broker, Cleanup, RecordSet, Timestamp, Topic, TopicPartition, TopicSpec, partition,
};
use tidemill_broker_memory::FaultPlan;
use tidemill_state::crash_point;
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::client::{Client, Peer};
use crate::draw::Draw;
use crate::event::{EPOCH, Move};
use crate::load::Pressed;
use crate::store::Disks;
use crate::tables::Tables;
use crate::world::{Log, POINTS, World};
use crate::{check, reader};

/// How a run ended.
#[derive(Debug)]
pub(crate) struct Outcome {
    /// What was wrong first.
    pub(crate) wrong: Option<String>,
    /// Everything that happened, in order.
    pub(crate) lines: Vec<String>,
    /// Hash of all topics.
    pub(crate) hash: u64,
    pub(crate) crashes: Vec<(&'static str, u64)>,
    pub(crate) pressed: Pressed,
}

/// Progress after the last fault takes no longer than this.
const RECOVERY_MAX: Duration = Duration::from_secs(60);

/// When event time begins after the epoch, so that what is late is not before it.
const HOUR: i64 = 3_600_000_000;

/// Runs a seed on a runtime and a clock of its own.
pub(crate) fn run(draw: &Draw) -> Outcome {
    crash_point::reset();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    let world = {
        let _entered = runtime.enter();
        World::new(draw)
    };
    let tables = Tables::default();
    let hash = catch_unwind(AssertUnwindSafe(|| {
        metrics::with_local_recorder(&tables, || {
            runtime.block_on(async {
                let watched = world.clone();
                let _watch = crash_point::watch(move |name| watched.pass(name));
                simulate(&world).await
            })
        })
    }));
    let bytes = tables.bytes_max();
    if bytes > draw.memory as u64 {
        let memory = draw.memory;
        world.wrong(format!("tables of a task took {bytes} bytes of {memory}"));
    }
    drop(runtime);
    crash_point::reset();
    if let Err(panic) = &hash {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
        world.wrong(format!("panicked: {}", text.unwrap_or_default()));
    }
    let crashes = world.crashes.lock().unwrap().clone();
    Outcome {
        wrong: world.first_wrong(),
        lines: world.lines(),
        hash: hash.unwrap_or_default(),
        crashes: crashes.into_iter().collect(),
        pressed: world.load.pressed(),
    }
}

/// Returns a hash of all topics.
async fn simulate(world: &Arc<World>) -> u64 {
    let draw = &world.draw;
    create_topics(world).await;
    if let Some(faults) = world.faults() {
        faults.plan(draw.faults[0]);
    }
    let reader = reader::follow(world);
    // One for each: who of many hears first is not the seed's to say.
    let stops: Vec<watch::Sender<bool>> = (0..draw.processes)
        .map(|_| watch::channel(false).0)
        .collect();
    let restarts: Arc<Vec<Notify>> = Arc::new((0..draw.processes).map(|_| Notify::new()).collect());
    let twins: Arc<Vec<Notify>> = Arc::new((0..draw.processes).map(|_| Notify::new()).collect());
    let processes: Vec<JoinHandle<()>> = (0..draw.processes)
        .map(|process| {
            tokio::spawn(supervise(
                world.clone(),
                process,
                stops[process].subscribe(),
                restarts.clone(),
                twins.clone(),
            ))
        })
        .collect();

    busy(world, &restarts, &twins).await;
    quiet(world, &restarts).await;
    for stop in &stops {
        let _ = stop.send(true);
    }
    for (process, handle) in processes.into_iter().enumerate() {
        match tokio::time::timeout(RECOVERY_MAX, handle).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => world.wrong(format!("process {process} panicked: {error}")),
            Err(_) => world.wrong(format!("process {process} did not stop")),
        }
    }
    let seen = reader.stop().await;
    let mut hash = 0;
    if world.first_wrong().is_none() {
        drain(world).await;
    }
    if world.first_wrong().is_none() {
        if world.host().is_some() {
            // Whoever stopped in good order has made everything durable.
            world.kill_all("the end", Some(true));
        }
        hash = check::all(world, &seen).await;
    }
    if let Some(host) = world.host() {
        host.verify(world);
    }
    let counts = world.faults().map(|faults| faults.counts());
    world.say(format!("faults: {:?}", counts.unwrap_or_default()));
    hash
}

pub(crate) async fn create_topics(world: &World) {
    let draw = &world.draw;
    let broker = world.broker().await;
    let create = async |name: &str, partitions: u32| {
        let topic = Topic::new(name).unwrap();
        let spec = TopicSpec::new(topic, NonZeroU32::new(partitions).unwrap());
        broker
            .create_topic(&spec.cleanup(Cleanup::default()))
            .await
            .unwrap();
    };
    for input in draw.shape.inputs() {
        create(input, draw.partitions).await;
    }
    for output in draw.shape.outputs() {
        create(output, draw.output_partitions).await;
    }
    create("sim.dead-letter", draw.output_partitions).await;
    broker.sync().await.unwrap();
}

/// Keeps a process running: starts it again after each crash.
async fn supervise(
    world: Arc<World>,
    process: usize,
    mut stopped: watch::Receiver<bool>,
    restarts: Arc<Vec<Notify>>,
    twins: Arc<Vec<Notify>>,
) {
    'runs: while !*stopped.borrow() {
        let broker = world.broker().await;
        let (scope, number) = world.started(process);
        let (stop, stopping) = watch::channel(false);
        let mut running = start(&world, broker, process, scope, number, stopping, false);
        let mut told = false;
        let ended = loop {
            tokio::select! {
                biased;
                () = world.killed[process].notified() => break None,
                ended = &mut running => break Some(ended),
                () = twins[process].notified(), if !told => {
                    world.say(format!("process {process} is started a second time"));
                    tokio::spawn(outlive(world.clone(), process, running, stop));
                    world.move_to_another_machine(process);
                    continue 'runs;
                }
                () = restarts[process].notified(), if !told => {
                    told = true;
                    let _ = stop.send(true);
                }
                _ = stopped.changed(), if !told => {
                    told = true;
                    let _ = stop.send(true);
                }
            }
        };
        drop(running);
        match ended {
            None => {
                if world.draw_with(|rng| rng.random_bool(0.1)) {
                    world.say(format!("process {process} comes back without its disks"));
                    world.lose_disks(world.machine(process));
                }
            }
            Some(Ok(())) if told => world.say(format!("process {process} has stopped")),
            Some(Ok(())) => world.wrong(format!("process {process} ended by itself")),
            Some(Err(error)) => {
                note_error(&world, process, &error);
                world.ended(process);
                if let Some(host) = world.host() {
                    host.revive(&world).await;
                }
            }
        }
        world.ended(process);
        let pause = world.draw_with(|rng| rng.random_range(0..3_000));
        let pause = Duration::from_millis(pause);
        let _ = tokio::time::timeout(pause, stopped.wait_for(|stopped| *stopped)).await;
    }
}

/// The elder of two that run under one name is to notice that it was shut out, and to leave.
async fn outlive(
    world: Arc<World>,
    process: usize,
    running: crash_point::Scoped<tidemill::pipeline::Result<()>>,
    // Nobody tells it to stop.
    _stop: watch::Sender<bool>,
) {
    match tokio::time::timeout(RECOVERY_MAX, running).await {
        Ok(Err(Error::Fenced { .. })) => world.say(format!("the elder process {process} leaves")),
        Ok(Err(error)) if error.kind() == Kind::Fenced => {
            world.say(format!("the elder process {process} leaves"));
        }
        Ok(Err(error)) => note_error(&world, process, &error),
        Ok(Ok(())) => world.wrong(format!("the elder process {process} ended well")),
        // Frozen meanwhile.
        Err(_) => {}
    }
}

fn start(
    world: &Arc<World>,
    broker: Arc<dyn Broker>,
    process: usize,
    scope: u64,
    number: u64,
    stop: watch::Receiver<bool>,
    until_end: bool,
) -> crash_point::Scoped<tidemill::pipeline::Result<()>> {
    world.say(format!("process {process} starts, run {number}"));
    let machine = world.machine(process);
    let client: Arc<dyn Broker> = Arc::new(Client {
        broker,
        peer: Peer {
            world: world.clone(),
            process,
            machine,
            scope,
        },
    });
    let disks = Arc::new(Disks {
        world: world.clone(),
        machine,
    });
    let pipeline = Pipeline::new(world.plan.clone(), &[("main", client)], disks);
    let pipeline = pipeline.expect("the plan's one broker");
    let mut options = RunOptions::new(format!("p{process}"), number);
    options.until_end = watch::channel(until_end).1;
    options.bounds = world.draw.bounds.clone();
    crash_point::in_scope(scope, async move { pipeline.run(options, stop).await })
}

fn note_error(world: &World, process: usize, error: &Error) {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        text += &format!(": {error}");
        cause = error.source();
    }
    if world.draw.twins > 0 && error.kind() == Kind::Fenced {
        // Of two under one name the last to join shuts the other out.
        world.say(format!("process {process} was shut out: {text}"));
    } else if (world.draw.halts() && error.kind() == Kind::Io)
        || (world.draw.rejects && error.kind() == Kind::Usage)
    {
        world.say(format!("process {process} halted: {text}"));
    } else {
        world.wrong(format!("process {process} failed: {text}"));
    }
}

/// Something that happens at its time.
#[derive(Debug, Clone)]
enum Action {
    Produce(Vec<(usize, Move)>),
    Poison(u32),
    ArmAny(u32),
    ArmAt(&'static str, u32),
    ArmChange(u32),
    Kill(usize),
    Freeze(usize, Duration),
    Thaw(u64),
    Rebalance,
    Expel,
    Restart(usize),
    Clean,
    Faults,
    FailDisk(usize),
    EndSessions,
    Twin(usize),
}

fn schedule(world: &World) -> Vec<(Duration, Action)> {
    let draw = &world.draw;
    let mut actions = Vec::new();
    world.draw_with(|rng| {
        let busy = draw.busy;
        let when = |rng: &mut rand::rngs::SmallRng| busy.mul_f64(rng.random_range(0.0..1.0));
        let span = rng.random_range(5_000_000..60_000_000);
        let disorder = draw.out_of_order.as_micros() as i64;
        let never_late = draw.shape.is_never_late();
        let mut past: Vec<Move> = Vec::new();
        let mut left = draw.records;
        while left > 0 {
            let burst = left.min(rng.random_range(1..30));
            let progress = 1.0 - left as f64 / draw.records as f64;
            let time = busy.mul_f64(progress);
            let mut moves = Vec::new();
            for index in 0..burst {
                let now = EPOCH + HOUR + (span as f64 * progress) as i64 + index as i64 * 7;
                let mut back = rng.random_range(0..=disorder);
                if !never_late && rng.random_bool(0.1) {
                    back = rng.random_range(0..=disorder * 5 + 3_000_000);
                }
                let account =
                    |rng: &mut rand::rngs::SmallRng| format!("a{}", rng.random_range(0..draw.keys));
                let sides = if rng.random_bool(0.1) { 5 } else { 4 };
                let amount = rng.random_range(-1_000..1_000);
                let mut one = Move {
                    id: (draw.records - left + index) as i64,
                    account: account(rng),
                    other: account(rng),
                    side: ["buy", "sell", "buy", "sell", "none"][rng.random_range(0..sides)]
                        .to_owned(),
                    amount,
                    contra: -amount,
                    at: now - back,
                };
                if !past.is_empty() && rng.random_bool(draw.repeats) {
                    let from = past.len().saturating_sub(50);
                    let again = past[from..].choose(rng).unwrap().clone();
                    let at = if never_late || rng.random_bool(0.3) {
                        one.at
                    } else {
                        again.at
                    };
                    one = Move { at, ..again };
                }
                past.push(one.clone());
                moves.push((rng.random_range(0..draw.shape.inputs().len()), one));
                if rng.random_bool(draw.poison) {
                    actions.push((time, Action::Poison(rng.random())));
                }
            }
            actions.push((time, Action::Produce(moves)));
            left -= burst;
        }
        let points = match draw.bounds == Bounds::default() {
            true => &POINTS[..POINTS.len() - 1],
            false => &POINTS[..],
        };
        for _ in 0..draw.crashes_at_points {
            let action = if rng.random_bool(0.4) {
                Action::ArmAny(rng.random_range(1..60))
            } else {
                let name = *points.choose(rng).unwrap();
                Action::ArmAt(name, rng.random_range(1..4))
            };
            actions.push((when(rng), action));
        }
        let process = |rng: &mut rand::rngs::SmallRng| rng.random_range(0..draw.processes);
        for _ in 0..draw.crashes_at_times {
            actions.push((when(rng), Action::Kill(process(rng))));
        }
        for _ in 0..draw.freezes {
            let long = Duration::from_millis(rng.random_range(10..20_000));
            actions.push((when(rng), Action::Freeze(process(rng), long)));
        }
        for _ in 0..draw.restarts {
            actions.push((when(rng), Action::Restart(process(rng))));
        }
        for _ in 0..draw.rebalances {
            actions.push((when(rng), Action::Rebalance));
        }
        for _ in 0..draw.expulsions {
            actions.push((when(rng), Action::Expel));
        }
        for _ in 0..draw.cleans {
            actions.push((when(rng), Action::Clean));
        }
        for _ in 0..draw.disk_faults {
            actions.push((when(rng), Action::FailDisk(process(rng))));
        }
        actions.push((when(rng), Action::Faults));
        for _ in 0..draw
            .files
            .as_ref()
            .map_or(0, |files| files.crashes_at_changes)
        {
            let most = [5, 50, 400][rng.random_range(0..3)];
            actions.push((when(rng), Action::ArmChange(rng.random_range(0..most))));
        }
        for _ in 0..draw.twins {
            actions.push((when(rng), Action::Twin(process(rng))));
        }
        for second in 0..busy.as_secs() {
            actions.push((Duration::from_secs(second), Action::EndSessions));
        }
    });
    actions.sort_by_key(|(at, _)| *at);
    actions
}

/// Records come, and faults.
async fn busy(world: &Arc<World>, restarts: &[Notify], twins: &[Notify]) {
    let began = Instant::now();
    let group = &world.plan.group;
    let faults = world.faults();
    let mut plan = world.draw.faults[0];
    let mut waiting: std::collections::VecDeque<_> = schedule(world).into();
    while let Some((at, action)) = waiting.pop_front() {
        tokio::time::sleep_until(began + at).await;
        match action {
            Action::Produce(moves) => produce(world, plan, &moves).await,
            Action::Poison(chance) => poison(world, plan, chance).await,
            Action::ArmAny(left) => world.arm(None, left),
            Action::ArmAt(name, left) => world.arm(Some(name), left),
            Action::ArmChange(left) => {
                if let Some(host) = world.host() {
                    host.arm(left);
                }
            }
            Action::Kill(process) => world.kill(process, "a random time"),
            Action::Freeze(process, long) => {
                if let Some(scope) = world.scope_of(process) {
                    world.say(format!("process {process} freezes for {long:?}"));
                    crash_point::freeze(scope);
                    let until = at + long;
                    let place = waiting.partition_point(|(at, _)| *at <= until);
                    waiting.insert(place, (until, Action::Thaw(scope)));
                }
            }
            Action::Thaw(scope) => {
                world.say(format!("run {scope} goes on"));
                crash_point::thaw(scope);
            }
            Action::Rebalance => {
                world.say("the group is rebalanced");
                if let Some(faults) = &faults {
                    faults.rebalance(group);
                }
            }
            Action::Expel => {
                world.say("all members are expelled");
                if let Some(faults) = &faults {
                    faults.expel(group);
                }
            }
            Action::Restart(process) => {
                world.say(format!("process {process} is restarted"));
                restarts[process].notify_one();
            }
            Action::Clean => match &world.log {
                Log::Memory(broker) => broker.clean(),
                Log::Files(host) => host.clean(world).await,
            },
            Action::Faults => {
                plan = world.draw.faults[1];
                if let Some(faults) = &faults {
                    faults.plan(plan);
                }
            }
            Action::FailDisk(process) => world.fail_disk(process),
            Action::Twin(process) => twins[process].notify_one(),
            Action::EndSessions => {
                world.end_sessions(false);
                if let Some(host) = world.host() {
                    host.is_within_bounds(world);
                }
            }
        }
    }
}

async fn append(world: &World, plan: FaultPlan, sets: Vec<RecordSet>) {
    let broker = match &world.log {
        Log::Memory(broker) => broker,
        Log::Files(host) => {
            let syncs = world.draw_with(|rng| rng.random_bool(0.3));
            return host.append(world, sets, syncs).await;
        }
    };
    // What the input holds is the world's word: faults are for the processes.
    let faults = broker.faults();
    faults.plan(FaultPlan::default());
    for acks in broker.produce(sets).await.unwrap() {
        acks.into_result().unwrap();
    }
    faults.plan(plan);
}

async fn produce(world: &World, plan: FaultPlan, moves: &[(usize, Move)]) {
    let mut sets: Vec<RecordSet> = Vec::new();
    for (input, one) in moves {
        let topic = Topic::new(world.draw.shape.inputs()[*input]).unwrap();
        let partition = partition::for_key(one.account.as_bytes(), world.draw.partitions);
        let at = TopicPartition::new(topic, partition);
        let set = match sets.iter_mut().find(|set| set.at == at) {
            Some(set) => set,
            None => {
                sets.push(RecordSet::new(at));
                sets.last_mut().unwrap()
            }
        };
        let value = one.json("Move");
        set.push(
            Some(Timestamp(one.at)),
            Some(one.account.as_bytes()),
            Some(value.as_bytes()),
            &tidemill_broker::Headers::new(),
        );
    }
    append(world, plan, sets).await;
}

async fn poison(world: &World, plan: FaultPlan, chance: u32) {
    let inputs = world.draw.shape.inputs();
    let topic = Topic::new(inputs[chance as usize % inputs.len()]).unwrap();
    let mut set = RecordSet::new(TopicPartition::new(topic, chance % world.draw.partitions));
    let bytes: &[u8] = match chance % 5 {
        0 => b"{\"id\":",
        1 => b"\xff\xfe",
        2 => b"{\"id\":NaN}",
        3 => b"",
        _ => b"{\"id\":1,\"account\":\"a\",\"other\":\"b\",\"side\":\"buy\",\"amount\":1e400,\"contra\":0,\"at\":\"2020-01-01T00:00:00Z\"}",
    };
    set.push(
        None,
        Some(b"a0"),
        Some(bytes),
        &tidemill_broker::Headers::new(),
    );
    append(world, plan, vec![set]).await;
}

/// Everything heals; then the lag must go.
async fn quiet(world: &Arc<World>, restarts: &[Notify]) {
    world.say("everything heals");
    world.disarm();
    if let Some(faults) = world.faults() {
        faults.heal();
    }
    if let Some(host) = world.host() {
        host.heal();
        host.revive(world).await;
    }
    world.heal_disks();
    world.end_sessions(true);
    for (process, restart) in restarts.iter().enumerate() {
        if let Some(scope) = world.scope_of(process) {
            crash_point::thaw(scope);
        }
        if world.draw.halts() {
            // A halted task waits for a person.
            restart.notify_one();
        }
    }
    let began = Instant::now();
    loop {
        let lag = lag(world).await;
        if lag == 0 || world.first_wrong().is_some() {
            world.say("the lag is gone");
            return;
        }
        if began.elapsed() > RECOVERY_MAX {
            world.wrong(format!(
                "{lag} records are not committed {RECOVERY_MAX:?} after the last fault"
            ));
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
        world.end_sessions(false);
    }
}

/// Input records that are not committed.
async fn lag(world: &World) -> u64 {
    let mut lag = 0;
    let broker = world.broker().await;
    let markers = match world.draw.groups {
        true => Vec::new(),
        false => check::markers(world).await,
    };
    for input in world.draw.shape.inputs() {
        for partition in 0..world.draw.partitions {
            let at = TopicPartition::new(Topic::new(input).unwrap(), partition);
            let high = broker.watermarks(&at).await.unwrap().high.0;
            let committed = if world.draw.groups {
                let found = broker.committed(&world.plan.group, &[at]).await;
                found
                    .ok()
                    .and_then(|found| found[0])
                    .map_or(0, |offset| offset.0)
            } else {
                let inputs = markers.iter().flat_map(|marker| &marker.inputs);
                let mut here = inputs.filter(|input| input.is(&input.source, &at));
                here.next().map_or(0, |input| input.next)
            };
            lag += high.saturating_sub(committed);
        }
    }
    lag
}

/// One last run to the end of the input, which fires what is open. An elder that was still opening its
/// transactional id may shut it out before it leaves: then another goes on, as after any crash.
async fn drain(world: &Arc<World>) {
    world.end_sessions(true);
    for _ in 0..=world.draw.twins {
        let broker = world.broker().await;
        let (scope, number) = world.started(0);
        let (_stop, stopped) = watch::channel(false);
        let running = start(world, broker, 0, scope, number, stopped, true);
        let ended = tokio::time::timeout(RECOVERY_MAX, running).await;
        world.ended(0);
        match ended {
            Ok(Ok(())) => return,
            Ok(Err(error)) => {
                note_error(world, 0, &error);
                if error.kind() != Kind::Fenced {
                    return;
                }
            }
            Err(_) => {
                world.wrong("the last run does not come to its end");
                return;
            }
        }
    }
}

/// Runs the same input once more, on one process and without any fault, and returns its world.
pub(crate) async fn undisturbed(world: &World) -> Arc<World> {
    let draw = Draw {
        processes: 1,
        faults: [FaultPlan::default(); 2],
        disk_latency: Duration::ZERO,
        guarantee: Guarantee::ExactlyOnce,
        files: None,
        ..world.draw.clone()
    };
    let reference = World::new(&draw);
    create_topics(&reference).await;
    for input in draw.shape.inputs() {
        for partition in 0..draw.partitions {
            let at = TopicPartition::new(Topic::new(input).unwrap(), partition);
            let mut set = RecordSet::new(at.clone());
            for batch in check::read(&*world.broker().await, &at).await {
                batch.iter().for_each(|record| set.push_ref(record));
            }
            append(&reference, FaultPlan::default(), vec![set]).await;
        }
    }
    // Its processes are others, though their numbers are the same.
    crash_point::reset();
    drain(&reference).await;
    reference
}
