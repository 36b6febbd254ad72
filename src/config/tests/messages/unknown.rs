//! What is told of the rest where something is unknown: all that does not depend on it.

use super::Case;

const AGGREGATES: (&str, &str) = (
    r#"{ close = "last(price)" }"#,
    r#"{ a = "frist(price)", b = "vwap(price)", c = "count(price)", d = "sum(none)" }"#,
);

pub(super) const CASES: &[Case] = &[
    Case {
        about: "aggregates of an unknown event",
        changes: &[(r#"event = "Trade""#, r#"event = "Tread""#), AGGREGATES],
        told: &[
            "13:9: E0130 topics.trades.event: unknown event `Tread`",
            "22:20: E0144 stages.bar.aggregate.a: unknown function `frist`",
            "22:40: E0144 stages.bar.aggregate.b: `vwap` takes a price and a quantity",
            "22:59: E0144 stages.bar.aggregate.c: `count` takes no field",
        ],
    },
    Case {
        about: "aggregates of an unknown input",
        changes: &[(r#"from = "trades""#, r#"from = "tardes""#), AGGREGATES],
        told: &[
            "19:8: E0140 stages.bar.from: `tardes` is neither a topic nor a stage",
            "22:20: E0144 stages.bar.aggregate.a: unknown function `frist`",
            "22:40: E0144 stages.bar.aggregate.b: `vwap` takes a price and a quantity",
            "22:59: E0144 stages.bar.aggregate.c: `count` takes no field",
        ],
    },
    Case {
        about: "aggregates of an unknown operator",
        changes: &[("tumbling_window", "tumbling_windwo"), AGGREGATES],
        told: &[
            "20:6: E0142 stages.bar.op: unknown operator `tumbling_windwo`",
            "22:20: E0144 stages.bar.aggregate.a: unknown function `frist`",
            "22:40: E0144 stages.bar.aggregate.b: `vwap` takes a price and a quantity",
            "22:59: E0144 stages.bar.aggregate.c: `count` takes no field",
        ],
    },
    Case {
        about: "a guarantee beside an unknown event and an unknown field",
        changes: &[
            (
                r#"name = "gate""#,
                "name = \"gate\"\nguarantee = \"exactly_once\"",
            ),
            (
                "[brokers.main]",
                "[brokers.lines]\nurl = \"stdio:\"\n[brokers.main]",
            ),
            (r#"event = "Trade""#, "event = \"Tread\"\nbroker = \"main\""),
            (
                "[topics.bars]",
                "[topics.bars]\nbroker = \"lines\"\ntopic = \"stdout\"",
            ),
        ],
        told: &[
            "4:13: E0160 pipeline.guarantee: cannot be exactly_once, because sink out allows at_least_once: standard output takes no transactions: after a crash lines may come again",
            "16:9: E0130 topics.trades.event: unknown event `Tread`",
        ],
    },
    Case {
        about: "no guarantee of brokers that are not known",
        changes: &[
            (
                r#"name = "gate""#,
                "name = \"gate\"\nguarantee = \"exactly_once\"",
            ),
            (
                "[brokers.main]",
                "[brokers.lines]\nurl = \"stdoi:\"\n[brokers.main]",
            ),
            (
                r#"event = "Trade""#,
                "event = \"Trade\"\nbroker = \"lines\"",
            ),
            ("[topics.bars]", "[topics.bars]\nbroker = \"main\""),
        ],
        told: &["7:7: E0121 brokers.lines.url: unknown scheme `stdoi`"],
    },
];
