//! The contract, kept as memory, as Kafka and as Fluvio.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use tidemill_broker::conformance::{CLAUSES, Subject};
use tidemill_broker::{Broker, Timestamp, TokioClock};
use tidemill_broker_memory::{MemoryBroker, MemoryOptions, Persona};

struct Memory {
    persona: Persona,
    latest: Mutex<Option<MemoryBroker>>,
}

impl Memory {
    fn new(persona: Persona) -> Self {
        Self {
            persona,
            latest: Mutex::new(None),
        }
    }
}

#[async_trait]
impl Subject for Memory {
    async fn broker(&self) -> Arc<dyn Broker> {
        let clock = TokioClock::starting_at(Timestamp::from_millis(1_381_152_600_000));
        let broker = MemoryBroker::new(MemoryOptions::new(self.persona, Arc::new(clock), 1));
        *self.latest.lock().unwrap() = Some(broker.clone());
        Arc::new(broker)
    }

    async fn pass(&self, time: Duration) {
        tokio::time::advance(time).await;
    }

    async fn clean(&self, _broker: &dyn Broker) {
        if let Some(broker) = &*self.latest.lock().unwrap() {
            broker.clean();
        }
    }

    // Enough for what waits in one process.
    fn quiet(&self) -> Duration {
        Duration::from_millis(5)
    }
}

mod memory {
    use super::*;
    tidemill_broker::conformance_tests! {
        #[tokio::test(start_paused = true)]
        Memory::new(Persona::Memory)
    }
}

mod memory_as_kafka {
    use super::*;
    tidemill_broker::conformance_tests! {
        #[tokio::test(start_paused = true)]
        Memory::new(Persona::Kafka)
    }
}

mod memory_as_fluvio {
    use super::*;
    tidemill_broker::conformance_tests! {
        #[tokio::test(start_paused = true)]
        Memory::new(Persona::Fluvio)
    }
}

// Threads that really run at once, and time that really passes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_happens_at_once_may_happen_on_many_threads() {
    let at_once = |name: &str| name.contains("many_") || name.contains("waiting");
    for clause in CLAUSES.iter().filter(|clause| at_once(clause.name)) {
        for _ in 0..5 {
            (clause.check)(&Memory::new(Persona::Memory)).await;
        }
    }
}
