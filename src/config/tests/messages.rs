//! Wrong files and what is told of them: all of it, in one run.

mod brokers;
mod unknown;

use super::{Case, check};

#[test]
fn each_wrong_file_is_told_all_that_is_wrong_with_it() {
    cases().for_each(check);
}

pub(super) fn cases() -> impl Iterator<Item = &'static Case> {
    CASES.iter().chain(brokers::CASES).chain(unknown::CASES)
}

const CASES: &[Case] = &[
    Case {
        about: "several mistakes of syntax",
        changes: &[
            ("format = 1", "format = "),
            ("[brokers.main]", "[brokers.main"),
        ],
        told: &[
            "2:10: E0101: string values must be quoted, expected literal string",
            "5:14: E0101: unclosed table, expected `]`",
        ],
    },
    Case {
        about: "nesting beyond the limit",
        changes: &[(
            r#"key = "pair""#,
            "key = [[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]",
        )],
        told: &[
            "14:37: E0102 topics.trades.key[0][0][0][0][0][0][0][0][0][0][0][0][0][0][0][0][0][0][0][0][0][0][0][0][0][0][0][0][0][0]: is nested more than 32 levels deep",
        ],
    },
    Case {
        about: "a misspelt key and a misspelt section",
        changes: &[
            (r#"key = "pair""#, r#"kye = "pair""#),
            ("[sinks.out]", "[sink.out]"),
        ],
        told: &[
            "1:1: E0151 pipeline: the pipeline has no sink",
            "14:1: E0103 topics.trades.kye: unknown key",
            "18:1: E0146 stages.bar: needs events with a key, and its input has none",
            "24:2: E0103 sink: unknown section",
        ],
    },
    Case {
        about: "a key like no other",
        changes: &[(
            r#"size = "1m""#,
            r#"size = "1m"
hopping = true"#,
        )],
        told: &["22:1: E0103 stages.bar.hopping: unknown key"],
    },
    Case {
        about: "keys that are not there",
        changes: &[
            (
                r#"format = 1
"#,
                "",
            ),
            (r#"url = "mem://""#, ""),
            (
                r#"size = "1m"
"#,
                "",
            ),
        ],
        told: &[
            "1:1: E0104 pipeline.format: is required",
            "4:1: E0104 brokers.main.url: is required",
            "17:1: E0104 stages.bar.size: is required",
        ],
    },
    Case {
        about: "values of other kinds",
        changes: &[
            (r#"name = "gate""#, "name = 7"),
            (r#"from = "trades""#, "from = { a = 1 }"),
            (
                r#"aggregate = { close = "last(price)" }"#,
                "aggregate = { close = 1 }",
            ),
        ],
        told: &[
            "3:8: E0105 pipeline.name: must be a string, not a whole number",
            "19:8: E0105 stages.bar.from: must be a string or a list of strings, not a table",
            "22:23: E0105 stages.bar.aggregate.close: must be a string, not a whole number",
        ],
    },
    Case {
        about: "a topic and a stage of one name",
        changes: &[("[stages.bar]", "[stages.trades]")],
        told: &[
            "18:1: E0106 stages.trades: a stage and a topic are both called `trades`",
            "25:8: E0140 sinks.out.from: `bar` is neither a topic nor a stage",
        ],
    },
    Case {
        about: "an input listed twice",
        changes: &[(r#"from = "trades""#, r#"from = ["trades", "trades"]"#)],
        told: &["19:19: E0106 stages.bar.from[1]: `trades` is listed twice"],
    },
    Case {
        about: "variables that are not set",
        changes: &[
            (r#""mem://""#, r#""${URL}""#),
            (r#"name = "gate""#, r#"name = "gate-${WHERE:?say where}""#),
        ],
        told: &[
            "3:14: E0107 pipeline.name: the variable `WHERE` is not set: say where",
            "6:8: E0107 brokers.main.url: the variable `URL` is not set",
        ],
    },
    Case {
        about: "substitutions that cannot be read",
        changes: &[
            (r#""mem://""#, r#""mem:${secret:a/b}""#),
            (r#"name = "gate""#, r#"name = "${oops""#),
        ],
        told: &[
            "3:9: E0108 pipeline.name: `${` without `}`",
            "6:12: E0108 brokers.main.url: cannot read the substitution `${secret:a/b}`",
        ],
    },
    Case {
        about: "values without a unit",
        changes: &[
            (r#"size = "1m""#, "size = 60"),
            (
                r#"name = "gate""#,
                r#"name = "gate"
commit = "100"
memory = "64megs""#,
            ),
            (
                r#"key = "pair""#,
                r#"key = "pair"
record_max = 2097152"#,
            ),
        ],
        told: &[
            r#"4:10: E0109 pipeline.commit: `100` needs a unit, as in "100ms" or "100s""#,
            "5:10: E0109 pipeline.memory: unknown unit `megs`: use B, KiB, MiB, GiB, TiB, kB, MB, GB or TB",
            r#"17:14: E0109 topics.trades.record_max: `2097152` has no unit: write a size with its unit, such as "64MiB""#,
            r#"24:8: E0109 stages.bar.size: `60` has no unit: write a duration with its unit, such as "250ms""#,
        ],
    },
    Case {
        about: "values out of range",
        changes: &[
            (r#"size = "1m""#, r#"size = "0s""#),
            (
                r#"name = "gate""#,
                r#"name = "gate"
threads = 0
commit = { records = -1, bytes = "1GiB" }"#,
            ),
            (
                "[topics.bars]",
                r#"[topics.bars]
partitions = 20000"#,
            ),
            (
                r#"key = "pair""#,
                r#"key = "pair"
record_max = "17MiB""#,
            ),
        ],
        told: &[
            "4:11: E0110 pipeline.threads: must be a whole number from 1 to 1024",
            "5:22: E0110 pipeline.commit.records: must be a whole number of at least 1",
            "5:34: E0110 pipeline.commit.bytes: must be at most 512MiB",
            "17:14: E0110 topics.trades.record_max: must be at most 16MiB",
            "20:14: E0110 topics.bars.partitions: must be a whole number from 1 to 4096",
            "25:8: E0110 stages.bar.size: must be at least 1ms",
        ],
    },
    Case {
        about: "a bound on times that are the records' own",
        changes: &[
            (r#"time = "at""#, ""),
            (
                r#"key = "pair""#,
                r#"key = "pair"
ahead_max = "1h""#,
            ),
            (
                r#"op = "tumbling_window"
size = "1m"
aggregate = { close = "last(price)" }"#,
                r#"op = "key_by"
key = "side""#,
            ),
        ],
        told: &[
            "15:13: W0206 topics.trades.ahead_max: has no effect: the time of event `Trade` is that of its record",
        ],
    },
    Case {
        about: "times to live that mean nothing",
        changes: &[
            (
                r#"size = "1m""#,
                r#"size = "1m"
state = "kept""#,
            ),
            (
                "[sinks.out]",
                r#"[stages.once]
from = "trades"
op = "dedupe"
id = "pair"
window = "1h"
[state.kept]
ttl = "1d"
[state.once]
ttl = "2h"
[sinks.out]"#,
            ),
            (r#"from = "bar""#, r#"from = ["bar"]"#),
        ],
        told: &[
            "31:7: E0152 state.kept.ttl: a window ends by itself and takes no time to live",
            "33:7: W0206 state.once.ttl: has no effect: ids are forgotten after 1h anyway",
        ],
    },
    Case {
        about: "names with other characters",
        changes: &[
            (r#"name = "gate""#, r#"name = "the gate""#),
            ("[stages.bar]", r#"[stages."bar.1"]"#),
            (
                "[topics.bars]",
                r#"[topics.bars]
topic = "a/b""#,
            ),
        ],
        told: &[
            "3:8: E0111 pipeline.name: invalid name `the gate`: may hold only ASCII letters, digits, `.`, `_` and `-`",
            "17:9: E0111 topics.bars.topic: invalid name `a/b`: may hold only ASCII letters, digits, `.`, `_` and `-`",
            r#"19:9: E0111 stages."bar.1": a name has 1 to 64 ASCII letters, digits, `_` and `-`"#,
            "26:8: E0140 sinks.out.from: `bar` is neither a topic nor a stage",
        ],
    },
    Case {
        about: "empty values",
        changes: &[(
            r#"key = "pair""#,
            r#"key = []
topic = """#,
        )],
        told: &[
            "14:7: E0112 topics.trades.key: must not be empty",
            "15:9: E0112 topics.trades.topic: must not be empty",
        ],
    },
    Case {
        about: "words that are no choice",
        changes: &[
            (
                r#"name = "gate""#,
                r#"name = "gate"
guarantee = "exactly-once""#,
            ),
            (
                r#"key = "pair""#,
                r#"key = "pair"
start = "earlyest"
on_gap = "ignore""#,
            ),
        ],
        told: &[
            "4:13: E0113 pipeline.guarantee: must be `at_most_once`, `at_least_once` or `exactly_once`, not `exactly-once`",
            "16:9: E0113 topics.trades.start: must be `earliest`, `latest` or a time such as `2013-10-07T13:30:00Z`",
            "17:10: E0113 topics.trades.on_gap: must be `halt` or `skip`, not `ignore`",
        ],
    },
    Case {
        about: "a newer format",
        changes: &[("format = 1", "format = 2")],
        told: &["2:10: E0114 pipeline.format: format 2 is newer than this version reads"],
    },
    Case {
        about: "options that exclude each other",
        changes: &[
            (
                "[topics.bars]",
                r#"[topics.bars]
cleanup = "compact"
retention = { age = "7d" }"#,
            ),
            (
                "[events.Trade]",
                r#"[events.MarketDataUpdate]
fields = { a = "text" }
[events.Trade]"#,
            ),
        ],
        told: &[
            "9:10: E0115 events.MarketDataUpdate.fields: the fields of the built-in event are fixed",
            r#"20:1: E0115 topics.bars.retention: means nothing with `cleanup = "compact"`"#,
        ],
    },
    Case {
        about: "a misspelt event",
        changes: &[(r#"event = "Trade""#, r#"event = "Trades""#)],
        told: &["13:9: E0130 topics.trades.event: unknown event `Trades`"],
    },
    Case {
        about: "types that do not exist",
        changes: &[
            (r#""decimal(2)""#, r#""decimal(20)""#),
            (r#""int?""#, r#""integer""#),
        ],
        told: &[
            "9:35: E0131 events.Trade.fields.price: a decimal has 0 to 18 decimals, not `20`",
            "9:57: E0131 events.Trade.fields.size: unknown type `integer`: use text, int, decimal(N), bool or time",
        ],
    },
    Case {
        about: "misspelt fields",
        changes: &[
            ("last(price)", "last(prize)"),
            (r#"key = "pair""#, r#"key = ["pair", "venue"]"#),
        ],
        told: &["14:16: E0132 topics.trades.key[1]: `Trade` has no field `venue`"],
    },
    Case {
        about: "a window without event time",
        changes: &[(
            r#"time = "at"
"#,
            "",
        )],
        told: &["17:1: E0133 stages.bar: a window needs event time, and `Trade` declares none"],
    },
    Case {
        about: "event time of another type",
        changes: &[(
            r#"time = "at"
"#,
            r#"time = "price"
"#,
        )],
        told: &[
            "10:8: E0133 events.Trade.time: event time must be a required field of type time; `price` is of type decimal(2)",
        ],
    },
    Case {
        about: "an aggregate called as a field that is there",
        changes: &[(r#"close = "last(price)""#, r#"windowEnd = "last(price)""#)],
        told: &[
            "22:15: E0134 stages.bar.aggregate.windowEnd: the output already has a field `windowEnd`",
        ],
    },
    Case {
        about: "fields that do not fit",
        changes: &[
            ("last(price)", "sum(pair)"),
            (r#"key = "pair""#, r#"key = "price""#),
        ],
        told: &[
            "14:7: E0135 topics.trades.key: a key is made of required text fields; `price` is of type decimal(2)",
        ],
    },
    Case {
        about: "a misspelt input",
        changes: &[(r#"from = "bar""#, r#"from = "bra""#)],
        told: &["25:8: E0140 sinks.out.from: `bra` is neither a topic nor a stage"],
    },
    Case {
        about: "a port that is not there",
        changes: &[(r#"from = "bar""#, r#"from = "bar.late""#)],
        told: &["25:8: E0140 sinks.out.from: the stage `bar` has no port `late`"],
    },
    Case {
        about: "a route read as if it had a main output, and a value twice",
        changes: &[(
            r#"
op = "tumbling_window"
size = "1m"
aggregate = { close = "last(price)" }"#,
            r#"
op = "route"
field = "side"
cases = { buys = "buy", sells = ["sell", "buy"] }"#,
        )],
        told: &[
            "22:42: E0149 stages.bar.cases.sells[1]: this value already goes to a port",
            "25:8: E0140 sinks.out.from: the stage `bar` has no main output",
        ],
    },
    Case {
        about: "stages that read each other",
        changes: &[
            (r#"from = "trades""#, r#"from = "b""#),
            (
                "[sinks.out]",
                r#"[stages.b]
from = "c"
op = "merge"
[stages.c]
from = ["bar", "trades"]
op = "merge"
[sinks.out]"#,
            ),
        ],
        told: &["25:8: E0141 stages.b.from: stages read each other: b -> bar -> c -> b"],
    },
    Case {
        about: "a misspelt operator",
        changes: &[(r#""tumbling_window""#, r#""tumblin_window""#)],
        told: &["20:6: E0142 stages.bar.op: unknown operator `tumblin_window`"],
    },
    Case {
        about: "a state that is not declared",
        changes: &[(
            r#"size = "1m""#,
            r#"size = "1m"
state = "bars""#,
        )],
        told: &["22:9: E0143 stages.bar.state: unknown state `bars`"],
    },
    Case {
        about: "aggregates that cannot be read",
        changes: &[(
            r#""last(price)""#,
            r#""median(price)", a = "sum(price", b = "vwap(price)", c = "count(price)""#,
        )],
        told: &[
            "22:24: E0144 stages.bar.aggregate.close: unknown function `median`",
            "22:48: E0144 stages.bar.aggregate.a: `(` without `)`",
            "22:62: E0144 stages.bar.aggregate.b: `vwap` takes a price and a quantity",
            "22:81: E0144 stages.bar.aggregate.c: `count` takes no field",
        ],
    },
    Case {
        about: "a shorthand that is none",
        changes: &[(r#"{ close = "last(price)" }"#, r#""vwap(price, size)""#)],
        told: &["22:14: E0144 stages.bar.aggregate: `vwap` cannot stand alone"],
    },
    Case {
        about: "a merge of two types",
        changes: &[
            (
                r#"
op = "tumbling_window"
size = "1m"
aggregate = { close = "last(price)" }"#,
                r#"
op = "merge""#,
            ),
            (r#"from = "trades""#, r#"from = ["trades", "quotes"]"#),
            (
                "[topics.bars]",
                r#"[topics.quotes]
event = "MarketDataUpdate"
[topics.bars]"#,
            ),
        ],
        told: &[
            "21:19: E0145 stages.bar.from[1]: inputs differ: `MarketDataUpdate` has no field `price`",
        ],
    },
    Case {
        about: "a sink to a topic of another event",
        changes: &[(
            "[topics.bars]",
            r#"[topics.bars]
event = "Trade""#,
        )],
        told: &[
            "27:9: E0145 sinks.out.topic: `Trade` needs `at`, and `bar` has no such field",
            "27:9: E0145 sinks.out.topic: `Trade` needs `price`, and `bar` has no such field",
            "27:9: E0145 sinks.out.topic: `Trade` needs `side`, and `bar` has no such field",
        ],
    },
    Case {
        about: "keyed state without a key",
        changes: &[(
            r#"key = "pair"
"#,
            "",
        )],
        told: &["17:1: E0146 stages.bar: needs events with a key, and its input has none"],
    },
    Case {
        about: "keyed state by another key",
        changes: &[
            (
                r#"key = "pair""#,
                r#"key = "pair"
partitions = 4"#,
            ),
            (
                r#"size = "1m""#,
                r#"size = "1m"
key = "side""#,
            ),
        ],
        told: &[
            "19:1: E0147 stages.bar: keeps state by `side`, but the topic `trades` with 4 partitions is partitioned by `pair`",
        ],
    },
    Case {
        about: "topics that are not partitioned alike",
        changes: &[
            (
                r#"key = "pair""#,
                r#"key = "pair"
partitions = 4
[topics.more]
event = "Trade"
key = "pair"
partitions = 3"#,
            ),
            (r#"from = "trades""#, r#"from = ["trades", "more"]"#),
        ],
        told: &[
            "23:1: E0148 stages.bar: `more` has 3 partitions and `trades` has 4: a key would not meet itself",
        ],
    },
    Case {
        about: "values to route by that do not fit",
        changes: &[
            (
                r#"
op = "tumbling_window"
size = "1m"
aggregate = { close = "last(price)" }"#,
                r#"
op = "route"
field = "price"
cases = { a = "cheap", b = 1.125, c = 1.5, d = "1.50" }"#,
            ),
            (r#"from = "bar""#, r#"from = ["bar.a", "bar.c"]"#),
        ],
        told: &[
            "22:15: E0135 stages.bar.cases.a: `cheap` is not a plain decimal number",
            "22:28: E0135 stages.bar.cases.b: `1.125` has more than 2 decimals",
            "22:48: E0149 stages.bar.cases.d: this value already goes to a port",
        ],
    },
    Case {
        about: "one state for two stages",
        changes: &[
            (
                r#"size = "1m""#,
                r#"size = "1m"
state = "s""#,
            ),
            (
                "[sinks.out]",
                r#"[state.s]
[stages.two]
from = "trades"
op = "dedupe"
id = "at"
window = "1m"
state = "s"
[sinks.out]"#,
            ),
        ],
        told: &["31:9: E0150 stages.two.state: the state `s` already belongs to another stage"],
    },
    Case {
        about: "a pipeline that writes nothing",
        changes: &[(
            r#"[sinks.out]
from = "bar"
topic = "bars"
"#,
            "",
        )],
        told: &["1:1: E0151 pipeline: the pipeline has no sink"],
    },
    Case {
        about: "a guarantee that cannot be kept",
        changes: &[
            (
                r#"name = "gate""#,
                r#"name = "gate"
guarantee = "exactly_once""#,
            ),
            (r#"topic = "bars""#, r#"topic = { broker = "console" }"#),
            (
                "[brokers.main]",
                r#"[brokers.console]
url = "stdio:"
[brokers.main]"#,
            ),
            (
                r#"event = "Trade""#,
                r#"event = "Trade"
broker = "main""#,
            ),
            (
                r#"[topics.bars]
"#,
                "",
            ),
        ],
        told: &[
            "4:13: E0160 pipeline.guarantee: cannot be exactly_once, because sink out allows at_least_once: standard output takes no transactions: after a crash lines may come again",
        ],
    },
    Case {
        about: "a guarantee that cannot be kept, and a mistake elsewhere",
        changes: &[
            (
                r#"size = "1m""#,
                r#"size = "1m"
bogus = 1"#,
            ),
            (
                r#"name = "gate""#,
                r#"name = "gate"
guarantee = "exactly_once""#,
            ),
            (r#"topic = "bars""#, r#"topic = { broker = "console" }"#),
            (
                "[brokers.main]",
                r#"[brokers.console]
url = "stdio:"
[brokers.main]"#,
            ),
            (
                r#"event = "Trade""#,
                r#"event = "Trade"
broker = "main""#,
            ),
            (
                r#"[topics.bars]
"#,
                "",
            ),
        ],
        told: &[
            "4:13: E0160 pipeline.guarantee: cannot be exactly_once, because sink out allows at_least_once: standard output takes no transactions: after a crash lines may come again",
            "25:1: E0103 stages.bar.bogus: unknown key",
        ],
    },
    Case {
        about: "a home that the order of the sinks decides",
        changes: &[
            ("[topics.trades]", "[topics.trades]\nbroker = \"main\""),
            ("[topics.bars]", "[topics.bars]\nbroker = \"main\""),
            (
                "[sinks.out]",
                r#"[brokers.other]
url = "mem://"
[sinks.copy]
from = "bar"
topic = { broker = "other", topic = "copy" }
[sinks.out]"#,
            ),
        ],
        told: &[
            "1:1: W0207 pipeline: sinks lie on several brokers, and the home of the pipeline is `other`, as its first sink lies there",
        ],
    },
    Case {
        about: "a sink on the state of another pipeline",
        changes: &[(
            "topic = \"bars\"",
            "topic = { broker = \"main\", topic = \"other.changelog\" }",
        )],
        told: &[
            "26:9: E0125 sinks.out.topic: `other.changelog` is where a pipeline `other` keeps what it goes on from",
        ],
    },
    Case {
        about: "a file that runs, with much that is not meant",
        changes: &[
            (
                "[sinks.out]",
                r#"[brokers.idle]
url = "mem://"
[events.Never]
fields = { a = "text" }
[state.old]
[topics.unused]
broker = "main"
[stages.lost]
from = "trades"
op = "key_by"
key = "side"
[sinks.out]"#,
            ),
            (
                r#"key = "pair""#,
                r#"key = "pair"
broker = "main""#,
            ),
            (
                "[topics.bars]",
                r#"[topics.bars]
broker = "main"
start = "latest""#,
            ),
            (
                r#"size = "1m""#,
                r#"size = "1m"
late = { port = "late" }"#,
            ),
        ],
        told: &[
            "19:1: W0206 topics.bars.start: has no effect: nothing reads this topic",
            "21:1: W0202 stages.bar: nothing reads the port `late` of this stage",
            "28:1: W0205 brokers.idle: nothing uses this broker",
            "30:1: W0204 events.Never: no topic has this event",
            "32:1: W0203 state.old: no stage uses this state",
            "33:1: W0200 topics.unused: nothing reads or writes this topic",
            "35:1: W0201 stages.lost: no sink is reached from this stage",
        ],
    },
    Case {
        about: "dropping without a reason",
        changes: &[(
            r#"size = "1m""#,
            r#"size = "1m"
late = "drop""#,
        )],
        told: &["22:8: E0104 stages.bar.late: dropping needs a reason"],
    },
    Case {
        about: "a file without its first section",
        changes: &[(
            r#"[pipeline]
format = 1
name = "gate"

"#,
            "",
        )],
        told: &["1:1: E0104 pipeline: the section is required"],
    },
];
