//! The pipelines that are simulated, as their users would write them.

use std::time::Duration;

use tidemill::config::Pipeline;
use tidemill::config::plan::{Guarantee, Plan};

use crate::draw::Draw;

/// A pipeline under simulation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shape {
    /// Two windows over one source.
    Bars,
    /// Repeats are dropped, then windows.
    Deduped,
    /// One way per side, a copy under another key, and both sides merged again.
    Routed,
    /// Double entry: what one account gains another loses.
    Ledger,
    /// Two co-partitioned sources merged, then windows.
    Joined,
    /// Two co-partitioned sources side by side: a copy of both under another key, and windows over each. None
    /// of it depends on when they meet.
    Apart,
}

pub(crate) const SMALL: Duration = Duration::from_secs(1);
pub(crate) const LARGE: Duration = Duration::from_secs(5);
pub(crate) const REMEMBERED: Duration = Duration::from_secs(4);
/// So long that a ledger's windows stay open to the end of the run.
pub(crate) const LEDGER: Duration = Duration::from_secs(3_600 * 24);

const AGGREGATES: &str = r#"aggregate = { count = "count()", first = "first(id)", high = "max(amount)", last = "last(id)", low = "min(amount)", sum = "sum(amount)" }"#;

impl Shape {
    /// What every seed draws from but in the setting that is wide.
    pub(crate) const ALL: [Self; 5] = [
        Self::Bars,
        Self::Deduped,
        Self::Routed,
        Self::Ledger,
        Self::Joined,
    ];

    /// Topics that are read.
    pub(crate) fn inputs(self) -> &'static [&'static str] {
        match self {
            Self::Joined | Self::Apart => &["moves", "others"],
            _ => &["moves"],
        }
    }

    /// Topics that are written.
    pub(crate) fn outputs(self) -> &'static [&'static str] {
        match self {
            Self::Bars => &["small", "large"],
            Self::Deduped => &["once", "small"],
            Self::Routed => &["buy", "sell", "both", "keyed"],
            Self::Ledger => &["debit", "credit"],
            Self::Joined => &["both", "small"],
            Self::Apart => &["small", "large", "met"],
        }
    }

    /// Whether events must not come later than the file allows: what is late where inputs meet
    /// depends on when they met.
    pub(crate) fn is_never_late(self) -> bool {
        matches!(self, Self::Routed | Self::Joined)
    }

    fn stages(self, draw: &Draw) -> String {
        let sink = |name: &str, from: &str| {
            let broker = draw.broker_of(name);
            format!(
                "[sinks.{name}]\nfrom = \"{from}\"\ntopic = {{ broker = \"{broker}\", topic = \"{name}\" }}\n"
            )
        };
        let window = |name: &str, from: &str, size: Duration| {
            format!(
                "[stages.{name}]\nfrom = \"{from}\"\nop = \"tumbling_window\"\nsize = \"{}ms\"\nlateness = \"{}ms\"\n{AGGREGATES}\n",
                size.as_millis(),
                draw.lateness.as_millis(),
            ) + &sink(name, name)
        };
        match self {
            Self::Bars => window("small", "moves", SMALL) + &window("large", "moves", LARGE),
            Self::Deduped => {
                format!(
                    "[stages.once]\nfrom = \"moves\"\nop = \"dedupe\"\nid = [\"id\"]\nwindow = \"{}ms\"\n",
                    REMEMBERED.as_millis()
                ) + &sink("once", "once")
                    + &window("small", "once", SMALL)
            }
            Self::Routed => {
                let stages = r#"
[stages.split]
from = "moves"
op = "route"
field = "side"
cases = { buy = "buy", sell = "sell" }
[stages.both]
from = ["split.buy", "split.sell"]
op = "merge"
[stages.keyed]
from = "moves"
op = "key_by"
key = ["other"]
"#;
                stages.to_owned()
                    + &sink("buy", "split.buy")
                    + &sink("sell", "split.sell")
                    + &sink("both", "both")
                    + &sink("keyed", "keyed")
            }
            Self::Ledger => {
                let side = |name: &str, field: &str| {
                    format!(
                        "[stages.{name}]\nfrom = \"moves\"\nop = \"tumbling_window\"\nsize = \"{}ms\"\naggregate = {{ sum = \"sum({field})\" }}\n",
                        LEDGER.as_millis()
                    ) + &sink(name, name)
                };
                side("debit", "amount") + &side("credit", "contra")
            }
            Self::Joined => {
                "[stages.both]\nfrom = [\"moves\", \"others\"]\nop = \"merge\"\n".to_owned()
                    + &sink("both", "both")
                    + &window("small", "both", SMALL)
            }
            Self::Apart => {
                window("small", "moves", SMALL)
                    + &window("large", "others", LARGE)
                    + "[stages.met]\nfrom = [\"moves\", \"others\"]\nop = \"key_by\"\nkey = [\"other\"]\n"
                    + &sink("met", "met")
            }
        }
    }

    /// The pipeline, read from its file.
    pub(crate) fn plan(self, draw: &Draw) -> Plan {
        read(&self.file(draw), draw)
    }

    fn file(self, draw: &Draw) -> String {
        let guarantee = match draw.guarantee {
            Guarantee::AtMostOnce => "at_most_once",
            Guarantee::AtLeastOnce => "at_least_once",
            Guarantee::ExactlyOnce => "exactly_once",
        };
        let mut file = format!(
            r#"
[pipeline]
format = 1
name = "sim"
guarantee = "{guarantee}"
commit = {{ interval = "{}ms", records = {} }}
[brokers.main]
url = "mem://"
[events.Move]
fields = {{ id = "int", account = "text", other = "text", side = "text", amount = "int", contra = "int", at = "time" }}
time = "at"
"#,
            draw.commit_interval.as_millis(),
            draw.commit_records,
        );
        if draw.second.is_some() {
            file += "[brokers.second]\nurl = \"mem://\"\n";
        }
        for input in self.inputs() {
            file += &format!(
                "[topics.{input}]\nbroker = \"{}\"\nevent = \"Move\"\nkey = \"account\"\nout_of_order = \"{}ms\"\n",
                draw.broker_of(input),
                draw.out_of_order.as_millis()
            );
            if let Some(idle) = draw.idle {
                file += &format!("idle = \"{}ms\"\n", idle.as_millis());
            }
        }
        file + &self.stages(draw)
    }
}

/// As [`Shape::Joined`], but every task reads the second source whole.
pub(crate) fn broadcast_plan(draw: &Draw) -> Plan {
    let others = "[topics.others]\n";
    let file = Shape::Joined.file(draw);
    read(
        &file.replace(others, &format!("{others}broadcast = true\n")),
        draw,
    )
}

fn read(file: &str, draw: &Draw) -> Plan {
    match Pipeline::parse("sim.toml", file, &|_| None) {
        Ok(pipeline) => {
            let mut plan = pipeline.plan;
            plan.memory = draw.memory;
            plan
        }
        Err(problems) => panic!("{problems}\n{file}"),
    }
}
