//! The contract, kept as memory, as Kafka and as Fluvio.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use tidemill_broker::conformance::Subject;
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

#[tokio::test(start_paused = true)]
async fn all_clauses_hold_on_one_subject() {
    tidemill_broker::conformance::all(&Memory::new(Persona::Memory)).await;
}
