//! What a plan asks of its brokers, against what they say they can do.

use std::sync::Arc;

use tidemill_broker::{Broker, Capabilities};

use super::{Error, Result};
use crate::config::Plan;

/// Refuses a plan of which a broker cannot do what is asked of it: once records are read it is too late to
/// say so.
///
/// # Errors
///
/// If there is such a broker, naming all that it lacks.
pub(crate) fn check(plan: &Plan, brokers: &[Arc<dyn Broker>], in_group: bool) -> Result<()> {
    for (index, broker) in brokers.iter().enumerate() {
        let has = broker.capabilities();
        let mut lacks = Vec::new();
        let mut needs = |is_needed: bool, has: bool, what| {
            if is_needed && !has {
                lacks.push(what);
            }
        };
        let Capabilities {
            transactions,
            offsets_in_transaction,
            fencing,
            headers,
            compaction,
            ..
        } = has;
        let is_home = index == plan.home();
        needs(is_home, transactions, "transactions");
        needs(is_home, fencing, "fencing of a former owner");
        needs(is_home, compaction, "compacted topics");
        needs(
            is_home && in_group,
            offsets_in_transaction,
            "offsets in transactions",
        );
        needs(plan.writes_to(index), headers, "headers");
        if !lacks.is_empty() {
            return Err(Error::Plan {
                what: format!(
                    "broker `{}` lacks what this pipeline needs of it: {}",
                    plan.brokers[index].name,
                    lacks.join(", ")
                ),
            });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use tidemill_broker::SystemClock;
    use tidemill_broker_memory::{MemoryBroker, MemoryOptions, Persona};

    use super::*;
    use crate::pipeline::tests::bars_plan;
    use crate::pipeline::{MemoryStores, Pipeline, RunOptions};

    #[tokio::test]
    async fn a_broker_that_cannot_do_what_is_asked_of_it_is_refused_before_anything_is_made() {
        let options = MemoryOptions::new(Persona::Fluvio, Arc::new(SystemClock), 0);
        let broker = MemoryBroker::new(options);
        let stores = Arc::new(MemoryStores::default());
        let pipeline = Pipeline::in_order(bars_plan(), vec![Arc::new(broker.clone())], stores);
        let ended = pipeline.run_to_end(RunOptions::new("0", 1)).await;
        assert_eq!(
            ended.unwrap_err().to_string(),
            "broker `main` lacks what this pipeline needs of it: transactions, fencing of a former \
             owner, compacted topics, headers"
        );
        assert_eq!(broker.list_topics().await.unwrap(), []);
        let able = MemoryOptions::new(Persona::Kafka, Arc::new(SystemClock), 0);
        let able: Arc<dyn Broker> = Arc::new(MemoryBroker::new(able));
        check(&bars_plan(), &[able], true).unwrap();
    }

    fn two_brokers(sink: &str) -> Plan {
        let file = format!(
            r#"
            [pipeline]
            format = 1
            name = "copy"
            home = "main"
            guarantee = "at_least_once"
            [brokers.main]
            url = "mem://"
            [brokers.feed]
            url = "mem://"
            [topics.market-data-updates]
            broker = "feed"
            event = "MarketDataUpdate"
            start = "earliest"
            [sinks.out]
            from = "market-data-updates"
            topic = {{ broker = "{sink}", topic = "out" }}
            "#
        );
        let parsed = crate::config::Pipeline::parse("copy.toml", &file, &|_| None);
        parsed.unwrap_or_else(|problems| panic!("{problems}")).plan
    }

    #[test]
    fn a_broker_must_be_able_to_do_no_more_than_is_asked_of_it() {
        let of = |persona| MemoryOptions::new(persona, Arc::new(SystemClock), 0);
        let with = |options| -> Arc<dyn Broker> { Arc::new(MemoryBroker::new(options)) };
        let told = |sink: &str, main: MemoryOptions, in_group| {
            let plan = two_brokers(sink);
            let brokers = plan.brokers.iter().map(|broker| match &*broker.name {
                "main" => with(main.clone()),
                _ => with(of(Persona::Fluvio)),
            });
            let brokers: Vec<_> = brokers.collect();
            check(&plan, &brokers, in_group).map_err(|error| error.to_string())
        };
        assert_eq!(told("main", of(Persona::Kafka), false), Ok(()), "read only");
        assert_eq!(
            told("feed", of(Persona::Kafka), false),
            Err("broker `feed` lacks what this pipeline needs of it: headers".into())
        );
        let mut without = of(Persona::Kafka);
        without.capabilities.offsets_in_transaction = false;
        assert_eq!(told("main", without.clone(), false), Ok(()), "no group");
        assert_eq!(
            told("main", without, true),
            Err(
                "broker `main` lacks what this pipeline needs of it: offsets in transactions"
                    .into()
            )
        );
    }
}
