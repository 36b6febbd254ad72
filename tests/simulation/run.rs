//! One run: everything from one seed.

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tidemill_state::crash_point;
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;

use crate::checker::Checker;
use crate::draw::Draw;
use crate::ending::{drain, quiet};
use crate::input::create_topics;
use crate::load::Pressed;
use crate::processes::supervise;
use crate::schedule::busy;
use crate::tables::Tables;
use crate::world::World;
use crate::{check, reader};

/// How a run ended.
#[derive(Debug)]
pub(crate) struct Outcome {
    /// What was wrong first.
    pub(crate) wrong: Option<String>,
    /// Who found something wrong.
    pub(crate) caught: BTreeSet<Checker>,
    /// Everything that happened, in order.
    pub(crate) lines: Vec<String>,
    /// Hash of all topics.
    pub(crate) hash: u64,
    pub(crate) crashes: Vec<(&'static str, u64)>,
    pub(crate) pressed: Pressed,
    /// Epochs at which the sum of a ledger was looked at.
    pub(crate) ledgers: u64,
}

/// Progress after the last fault takes no longer than this.
pub(crate) const RECOVERY_MAX: Duration = Duration::from_secs(60);

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
        let what = format!("tables of a task took {bytes} bytes of {memory}");
        world.caught(Checker::Bounds, what);
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
        caught: world.caught_by(),
        lines: world.lines(),
        hash: hash.unwrap_or_default(),
        crashes: crashes.into_iter().collect(),
        pressed: world.load.pressed(),
        ledgers: world.ledgers.load(Ordering::Relaxed),
    }
}

/// Returns a hash of all topics.
async fn simulate(world: &Arc<World>) -> u64 {
    let draw = &world.draw;
    create_topics(world).await;
    for faults in world.faults() {
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
            Err(_) => {
                let what = format!("process {process} did not stop");
                world.caught(Checker::Progress, what);
            }
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
    for faults in world.faults() {
        world.say(format!("faults: {:?}", faults.counts()));
    }
    hash
}
