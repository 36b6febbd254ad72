//! How a run ends: everything heals, the lag goes, and what is open fires.

use std::sync::Arc;
use std::time::Duration;

use tidemill::config::plan::Guarantee;
use tidemill::pipeline::Kind;
use tidemill_broker::{RecordSet, Topic, TopicPartition};
use tidemill_broker_memory::FaultPlan;
use tidemill_state::crash_point;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use crate::check;
use crate::checker::Checker;
use crate::draw::Draw;
use crate::input::{append, create_topics};
use crate::processes::{note_error, start};
use crate::run::RECOVERY_MAX;
use crate::world::World;

/// Everything heals; then the lag must go.
pub(crate) async fn quiet(world: &Arc<World>, restarts: &[Notify]) {
    world.say("everything heals");
    world.disarm();
    for faults in world.faults() {
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
            let what =
                format!("{lag} records are not committed {RECOVERY_MAX:?} after the last fault");
            world.caught(Checker::Progress, what);
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
        world.end_sessions(false);
    }
}

/// Input records that are not committed.
async fn lag(world: &World) -> u64 {
    let mut lag = 0;
    let markers = match world.draw.groups {
        true => Vec::new(),
        false => check::markers(world).await,
    };
    for input in world.draw.shape.inputs() {
        let broker = world.broker_of(input).await;
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
                let mut here = inputs.filter(|input| input.is_of(&at));
                here.next().map_or(0, |input| input.next)
            };
            lag += high.saturating_sub(committed);
        }
    }
    lag
}

/// One last run to the end of the input, which fires what is open. An elder that was still opening its
/// transactional id may shut it out before it leaves: then another goes on, as after any crash.
pub(crate) async fn drain(world: &Arc<World>) {
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
                world.caught(Checker::Progress, "the last run does not come to its end");
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
        second: None,
        ..world.draw.clone()
    };
    let reference = World::new(&draw);
    create_topics(&reference).await;
    for input in draw.shape.inputs() {
        for partition in 0..draw.partitions {
            let at = TopicPartition::new(Topic::new(input).unwrap(), partition);
            let mut set = RecordSet::new(at.clone());
            for batch in check::read(world, &at).await {
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
