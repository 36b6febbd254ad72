//! The processes of a run: each is started again after every crash.

use std::sync::Arc;
use std::time::Duration;

use rand::Rng;
use tidemill::pipeline::{Error, Kind, Pipeline, RunOptions};
use tidemill_broker::Broker;
use tidemill_state::crash_point;
use tokio::sync::{Notify, watch};

use crate::client::{Client, Peer};
use crate::run::RECOVERY_MAX;
use crate::store::Disks;
use crate::world::World;

/// Keeps a process running: starts it again after each crash.
pub(crate) async fn supervise(
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

pub(crate) fn start(
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
    let client = |broker: Arc<dyn Broker>| -> Arc<dyn Broker> {
        Arc::new(Client {
            broker,
            peer: Peer {
                world: world.clone(),
                process,
                machine,
                scope,
            },
        })
    };
    let mut brokers = vec![("main", client(broker))];
    if let Some(second) = &world.second {
        brokers.push(("second", client(Arc::new(second.clone()))));
    }
    let disks = Arc::new(Disks {
        world: world.clone(),
        machine,
    });
    let pipeline = Pipeline::new(world.plan.clone(), &brokers, disks);
    let pipeline = pipeline.expect("the plan's brokers");
    let mut options = RunOptions::new(format!("p{process}"), number);
    options.until_end = watch::channel(until_end).1;
    options.bounds = world.draw.bounds.clone();
    crash_point::in_scope(scope, async move { pipeline.run(options, stop).await })
}

pub(crate) fn note_error(world: &World, process: usize, error: &Error) {
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
