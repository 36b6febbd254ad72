//! The contract, kept as memory, as Kafka and as Fluvio.

use std::time::Duration;

use tidemill_broker::Capabilities;
use tidemill_broker::conformance::{CLAUSES, Given, Need, Subject};
use tidemill_broker_memory::{FaultPlan, MemoryBroker, MemoryOptions, Persona};

tidemill_broker::conformance! { memory: of(Persona::Memory) }
tidemill_broker::conformance! { memory_as_kafka: of(Persona::Kafka) }
tidemill_broker::conformance! {
    memory_as_fluvio: of(Persona::Fluvio).without([
        Need::Groups,
        Need::Transactions,
        Need::OffsetsInTransaction,
        Need::Fencing,
        Need::Headers,
        Need::Compaction,
        Need::Identity,
    ])
}

fn of(persona: Persona) -> Subject {
    with(persona, |_| {})
}

/// Takes away what a broker can do.
type Switch = fn(&mut Capabilities);

/// A broker of a persona that can do less.
fn with(persona: Persona, switch: Switch) -> Subject {
    let open = move |given: Given| async move {
        let mut options = MemoryOptions::new(persona, given.clock, 1);
        switch(&mut options.capabilities);
        MemoryBroker::new(options)
    };
    Subject::cleaned(open, |broker| async move { broker.clean() })
        .without([Need::Durability])
        // Enough for what waits in one process.
        .quiet(Duration::from_millis(5))
}

#[tokio::test(start_paused = true)]
async fn each_flag_may_be_switched_off_by_itself() {
    let flags: [(Need, Switch); 7] = [
        (Need::Groups, |can| can.groups = false),
        (Need::Transactions, |can| can.transactions = false),
        (Need::OffsetsInTransaction, |can| {
            can.offsets_in_transaction = false
        }),
        (Need::Fencing, |can| can.fencing = false),
        (Need::Headers, |can| can.headers = false),
        (Need::Compaction, |can| can.compaction = false),
        (Need::Identity, |can| can.identity = false),
    ];
    for (lacking, switch) in flags {
        let subject = with(Persona::Memory, switch).without([lacking]);
        subject.lacks_what_it_says().await;
        for clause in CLAUSES {
            clause.check(&subject).await;
        }
    }
}

// Threads that really run at once, and time that really passes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_happens_at_once_may_happen_on_many_threads() {
    let at_once = |name: &str| {
        ["many_", "waiting", "at_once"]
            .iter()
            .any(|word| name.contains(word))
    };
    for clause in CLAUSES.iter().filter(|clause| at_once(clause.name)) {
        for _ in 0..5 {
            clause.check(&of(Persona::Memory)).await;
        }
    }
}

// Otherwise every call is done at its first poll, and nothing is ever dropped half-way.
#[tokio::test(start_paused = true)]
async fn a_call_that_takes_long_may_be_dropped_at_any_point_of_it() {
    let slow = |persona, seed| {
        let open = move |given: Given| async move {
            let broker = MemoryBroker::new(MemoryOptions::new(persona, given.clock, seed));
            broker.faults().plan(FaultPlan {
                delay: 0.9,
                delay_max: Duration::from_millis(4),
                ..FaultPlan::default()
            });
            broker
        };
        Subject::cleaned(open, |broker| async move { broker.clean() })
            .without([Need::Durability])
            .slow()
            .seed(seed)
    };
    let cancel = |name: &str| name.starts_with("cancel::");
    for clause in CLAUSES.iter().filter(|clause| cancel(clause.name)) {
        for persona in [Persona::Memory, Persona::Kafka] {
            for seed in 0..5 {
                clause.check(&slow(persona, seed)).await;
            }
        }
    }
}
