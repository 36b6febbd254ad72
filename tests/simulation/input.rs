//! The input of a run: its topics, and what comes in them.

use std::num::NonZeroU32;

use rand::Rng;
use tidemill_broker::{
    Broker, Cleanup, Headers, RecordSet, Timestamp, Topic, TopicPartition, TopicSpec, partition,
};
use tidemill_broker_memory::FaultPlan;

use crate::draw::Second;
use crate::event::Move;
use crate::world::{Log, World};

pub(crate) async fn create_topics(world: &World) {
    let draw = &world.draw;
    let create = async |name: &str, partitions: u32| {
        let broker = world.broker_of(name).await;
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
    world.broker().await.sync().await.unwrap();
}

pub(crate) async fn append(world: &World, plan: FaultPlan, sets: Vec<RecordSet>) {
    let broker = match &world.log {
        Log::Memory(broker) => match &world.second {
            Some(second) if world.draw.second == Some(Second::Sources) => second,
            _ => broker,
        },
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

pub(crate) async fn produce(world: &World, plan: FaultPlan, moves: &[(usize, Move)]) {
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
            &Headers::new(),
        );
    }
    append(world, plan, sets).await;
}

pub(crate) async fn poison(world: &World, plan: FaultPlan, chance: u32) {
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
    set.push(None, Some(b"a0"), Some(bytes), &Headers::new());
    append(world, plan, vec![set]).await;
}
