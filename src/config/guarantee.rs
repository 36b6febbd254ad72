//! What a pipeline can promise: the weakest of its sources, its state, its operators and its sinks,
//! known from the schemes of the brokers' URLs alone.

use super::plan::{BrokerUrl, FsyncPolicy, Guarantee, OpPlan, Plan};

/// What one element of a pipeline allows, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cause {
    /// The element, such as `sink bars`.
    pub element: String,
    /// The most that is possible with it.
    pub allows: Guarantee,
    /// The reason, in one line.
    pub because: String,
}

/// One cause per element.
pub fn causes(plan: &Plan) -> Vec<Cause> {
    let home = plan.home();
    let mut causes = Vec::new();
    for source in &plan.sources {
        let (allows, because) = self::source(plan, source.topic.broker, source.broadcast, home);
        causes.push(Cause {
            element: format!("source {}", source.name),
            allows,
            because,
        });
    }
    for stage in &plan.stages {
        causes.push(Cause {
            element: format!("stage {}", stage.name),
            allows: Guarantee::ExactlyOnce,
            because: operator(&stage.op).to_owned(),
        });
    }
    let (allows, because) = state(plan, home);
    causes.push(Cause {
        element: "state".to_owned(),
        allows,
        because,
    });
    for sink in &plan.sinks {
        let (allows, because) = output(plan, sink.topic.broker, home);
        causes.push(Cause {
            element: format!("sink {}", sink.name),
            allows,
            because,
        });
    }
    let (allows, because) = output(plan, plan.dead_letter.broker, home);
    causes.push(Cause {
        element: "dead letters".to_owned(),
        allows,
        because,
    });
    causes
}

/// The weakest of several causes.
pub fn weakest(causes: &[Cause]) -> Guarantee {
    let allowed = causes.iter().map(|cause| cause.allows);
    allowed.min().unwrap_or(Guarantee::ExactlyOnce)
}

fn source(plan: &Plan, broker: usize, broadcast: bool, home: usize) -> (Guarantee, String) {
    let name = &plan.brokers[broker].name;
    let foreign = broker != home;
    let (allows, mut because) = match &plan.brokers[broker].url {
        BrokerUrl::Stdio => {
            let kept = match plan.outlives_process(home) {
                true => "; each run goes on with the state of those before",
                false => "",
            };
            (
                Guarantee::AtMostOnce,
                format!(
                    "standard input cannot be read again: what a crash interrupts is lost{kept}"
                ),
            )
        }
        // What is in memory goes with the process, while outputs and offsets on disk stay.
        BrokerUrl::Memory if foreign && plan.outlives_process(home) => (
            Guarantee::AtMostOnce,
            format!(
                "`{name}` keeps its records in this process only: what a crash finds unread is \
                 lost, while outputs stay"
            ),
        ),
        BrokerUrl::Memory => (
            Guarantee::ExactlyOnce,
            "can be read again from any offset, for the life of this process".to_owned(),
        ),
        BrokerUrl::File { fsync, .. } if foreign => (
            Guarantee::ExactlyOnce,
            format!(
                "can be read again from any offset; its offsets are kept beside the outputs, in the \
                 marker of each epoch; {}",
                match fsync {
                    FsyncPolicy::Commit => "what is in it survives a loss of power",
                    FsyncPolicy::Every(_) | FsyncPolicy::Never =>
                        "a loss of power may take back what was not read of it yet, and nothing else",
                }
            ),
        ),
        BrokerUrl::File { .. } => (
            Guarantee::ExactlyOnce,
            "can be read again from any offset; its offsets are committed with the outputs"
                .to_owned(),
        ),
    };
    if broadcast {
        because.push_str("; broadcast: the order each task read it in is recorded");
    }
    (allows, because)
}

fn operator(op: &OpPlan) -> &'static str {
    match op {
        OpPlan::KeyBy { .. } | OpPlan::Route { .. } => {
            "keeps nothing, and the same input gives the same output"
        }
        OpPlan::Merge => "the order of its inputs is recorded where more than one was possible",
        OpPlan::Dedupe { .. } | OpPlan::TumblingWindow { .. } => {
            "its state, timers and watermarks are committed with its outputs"
        }
    }
}

fn state(plan: &Plan, home: usize) -> (Guarantee, String) {
    let name = &plan.brokers[home].name;
    match &plan.brokers[home].url {
        // Refused when dead letters are checked; nothing weaker can be said of it.
        BrokerUrl::Stdio => (
            Guarantee::AtMostOnce,
            "standard output keeps no changelog".to_owned(),
        ),
        BrokerUrl::Memory => (
            Guarantee::ExactlyOnce,
            format!(
                "changes are committed to the changelog on `{name}`, for the life of this process"
            ),
        ),
        BrokerUrl::File { fsync, .. } => (
            Guarantee::ExactlyOnce,
            format!(
                "changes are committed to the changelog on `{name}` with outputs and offsets; {}",
                durable(*fsync)
            ),
        ),
    }
}

fn durable(fsync: FsyncPolicy) -> String {
    match fsync {
        FsyncPolicy::Commit => "each commit survives a loss of power".to_owned(),
        FsyncPolicy::Every(every) => format!(
            "a loss of power takes back whole epochs of at most the last {}",
            super::value::show_duration(every)
        ),
        FsyncPolicy::Never => {
            "survives a crash of the program; a loss of power may take back whole epochs".to_owned()
        }
    }
}

/// Whether a task may take its inputs in another order after a crash: there are several, or the clock
/// decides when one is idle.
fn has_choice(plan: &Plan) -> bool {
    plan.sources.len() > 1 || plan.sources.iter().any(|source| source.idle.is_some())
}

fn output(plan: &Plan, broker: usize, home: usize) -> (Guarantee, String) {
    // What is not in one transaction with the control record of its epoch is sent before it.
    let otherwise = match has_choice(plan) {
        true => ", and not the same ones if the inputs come in another order then",
        false => "",
    };
    let name = &plan.brokers[broker].name;
    let home_name = &plan.brokers[home].name;
    match &plan.brokers[broker].url {
        BrokerUrl::Stdio => (
            Guarantee::AtLeastOnce,
            format!(
                "standard output takes no transactions: after a crash lines may come again{otherwise}"
            ),
        ),
        BrokerUrl::Memory | BrokerUrl::File { .. } if broker != home => (
            Guarantee::AtLeastOnce,
            format!(
                "`{name}` is not the broker of the transaction, which is `{home_name}`: after a \
                 crash records may come again{otherwise}"
            ),
        ),
        BrokerUrl::Memory => (
            Guarantee::ExactlyOnce,
            format!("written in the transaction on `{name}`, for the life of this process"),
        ),
        BrokerUrl::File { .. } => (
            Guarantee::ExactlyOnce,
            format!("written in the transaction on `{name}`"),
        ),
    }
}
