//! What happens in a run, and when: records come, and faults.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use rand::Rng;
use rand::rngs::SmallRng;
use rand::seq::IndexedRandom;
use tidemill::pipeline::Bounds;
use tidemill_broker_memory::MemoryBroker;
use tidemill_state::crash_point;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::event::{EPOCH, Move};
use crate::input::{poison, produce};
use crate::world::{Log, POINTS, World};

/// When event time begins after the epoch, so that what is late is not before it.
const HOUR: i64 = 3_600_000_000;

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
        let when = |rng: &mut SmallRng| busy.mul_f64(rng.random_range(0.0..1.0));
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
                let account = |rng: &mut SmallRng| format!("a{}", rng.random_range(0..draw.keys));
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
        let process = |rng: &mut SmallRng| rng.random_range(0..draw.processes);
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
pub(crate) async fn busy(world: &Arc<World>, restarts: &[Notify], twins: &[Notify]) {
    let began = Instant::now();
    let group = &world.plan.group;
    let faults = world.faults();
    let mut plan = world.draw.faults[0];
    let mut waiting: VecDeque<_> = schedule(world).into();
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
                for faults in &faults {
                    faults.rebalance(group);
                }
            }
            Action::Expel => {
                world.say("all members are expelled");
                for faults in &faults {
                    faults.expel(group);
                }
            }
            Action::Restart(process) => {
                world.say(format!("process {process} is restarted"));
                restarts[process].notify_one();
            }
            Action::Clean => match &world.log {
                Log::Memory(broker) => {
                    broker.clean();
                    world.second.iter().for_each(MemoryBroker::clean);
                }
                Log::Files(host) => host.clean(world).await,
            },
            Action::Faults => {
                plan = world.draw.faults[1];
                for faults in &faults {
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
