//! What is told of brokers and topics, and of the directories they lie in.

use super::Case;

pub(super) const CASES: &[Case] = &[
    Case {
        about: "a misspelt broker",
        changes: &[(
            r#"event = "Trade""#,
            r#"event = "Trade"
broker = "mian""#,
        )],
        told: &["14:10: E0120 topics.trades.broker: unknown broker `mian`"],
    },
    Case {
        about: "URLs of all kinds",
        changes: &[(
            "[brokers.main]",
            r#"[brokers.a]
url = "kafka://k:9092"
[brokers.b]
url = "file:data"
[brokers.c]
url = "flie://data"
[brokers.main]"#,
        )],
        told: &[
            "6:7: E0122 brokers.a.url: `kafka://` is not built in yet",
            "8:7: E0121 brokers.b.url: a file broker needs two slashes",
            "10:7: E0121 brokers.c.url: unknown scheme `flie`",
            "18:1: E0127 topics.trades.broker: the file declares several brokers: say which one",
            "22:1: E0127 topics.bars.broker: the file declares several brokers: say which one",
        ],
    },
    Case {
        about: "a misspelt topic",
        changes: &[(r#"topic = "bars""#, r#"topic = "bras""#)],
        told: &["26:9: E0123 sinks.out.topic: unknown topic `bras`"],
    },
    Case {
        about: "one topic in two sections",
        changes: &[(
            "[topics.bars]",
            r#"[topics.bars]
topic = "trades""#,
        )],
        told: &[
            "12:1: E0124 topics.trades: the topic `trades` is declared twice",
            "27:9: E0125 sinks.out.topic: the topic `trades` is both read and written",
        ],
    },
    Case {
        about: "two sinks to one topic",
        changes: &[(
            "[sinks.out]",
            r#"[sinks.again]
from = "bar"
topic = { topic = "bars" }
[sinks.out]"#,
        )],
        told: &["29:9: E0125 sinks.out.topic: the topic `bars` is written by two sinks"],
    },
    Case {
        about: "a sink to the topic that is read",
        changes: &[(r#"topic = "bars""#, r#"topic = "trades""#)],
        told: &["26:9: E0125 sinks.out.topic: the topic `trades` is both read and written"],
    },
    Case {
        about: "dead letters to the topic that is read",
        changes: &[(
            r#"name = "gate""#,
            r#"name = "gate"
dead_letter = "trades""#,
        )],
        told: &[
            "4:15: E0126 pipeline.dead_letter: dead letters need a topic of their own; `trades` is in use",
        ],
    },
    Case {
        about: "two brokers and none named",
        changes: &[(
            "[brokers.main]",
            r#"[brokers.other]
url = "mem://"
[brokers.main]"#,
        )],
        told: &[
            "14:1: E0127 topics.trades.broker: the file declares several brokers: say which one",
            "18:1: E0127 topics.bars.broker: the file declares several brokers: say which one",
        ],
    },
    Case {
        about: "standard input and output as anything else",
        changes: &[
            (r#""mem://""#, r#""stdio:""#),
            (
                r#"key = "pair""#,
                r#"key = "pair"
partitions = 2"#,
            ),
        ],
        told: &[
            "1:1: E0127 pipeline.dead_letter: dead letters need a broker that keeps topics",
            "12:1: E0128 topics.trades: standard input is the topic `stdin`",
            "15:14: E0128 topics.trades.partitions: standard input and output have one partition",
            "27:9: E0128 sinks.out.topic: standard output is the topic `stdout`",
        ],
    },
    Case {
        about: "nothing but broadcast",
        changes: &[(
            r#"key = "pair""#,
            r#"key = "pair"
broadcast = true"#,
        )],
        told: &[
            "15:13: E0129 topics.trades.broadcast: every topic is broadcast: there is nothing to share out",
        ],
    },
    Case {
        about: "a broadcast topic passed on",
        changes: &[(
            "[sinks.out]",
            r#"[topics.side]
event = "Trade"
broadcast = true
[topics.copy]
[sinks.copy]
from = "side"
topic = "copy"
[sinks.out]"#,
        )],
        told: &[
            "29:8: E0129 sinks.copy.from: comes of broadcast topics alone: no task has it for its own",
        ],
    },
    Case {
        about: "a broadcast topic passed on beside another",
        changes: &[(
            "[sinks.out]",
            r#"[topics.side]
event = "Trade"
broadcast = true
[topics.copy]
[sinks.copy]
from = ["trades", "side"]
topic = "copy"
[sinks.out]"#,
        )],
        told: &[
            "29:19: E0129 sinks.copy.from[1]: comes of broadcast topics alone: no task has it for its own",
        ],
    },
    Case {
        about: "two topics of one name on two brokers",
        changes: &[
            (
                "[brokers.main]",
                r#"[brokers.other]
url = "mem://"
[brokers.main]"#,
            ),
            (
                "[topics.trades]",
                r#"[topics.side]
broker = "other"
topic = "trades"
event = "Trade"
key = "pair"
broadcast = true
[topics.trades]
broker = "main""#,
            ),
            (
                "[topics.bars]",
                r#"[topics.bars]
broker = "main""#,
            ),
            (r#"from = "trades""#, r#"from = ["trades", "side"]"#),
        ],
        told: &["20:1: E0125 topics.trades: a topic `trades` is read from two brokers"],
    },
    Case {
        about: "a source and the dead letters on the pipeline's own topics",
        changes: &[
            (
                "[topics.trades]",
                "[topics.trades]\ntopic = \"gate.changelog\"",
            ),
            (
                r#"name = "gate""#,
                r#"name = "gate"
dead_letter = { topic = "gate.control" }"#,
            ),
        ],
        told: &[
            "4:15: E0125 pipeline.dead_letter: `gate.control` is the pipeline's own",
            "13:1: E0125 topics.trades: `gate.changelog` is the pipeline's own",
        ],
    },
    Case {
        about: "topics that are read together, and broadcast ones, on several brokers",
        changes: &[
            (
                "[brokers.main]",
                r#"[brokers.other]
url = "mem://"
[brokers.main]"#,
            ),
            (
                "[topics.trades]",
                r#"[topics.side]
broker = "main"
event = "Trade"
key = "pair"
[topics.rates]
broker = "main"
event = "Trade"
key = "pair"
broadcast = true
[topics.fees]
broker = "other"
event = "Trade"
key = "pair"
broadcast = true
[topics.trades]
broker = "other""#,
            ),
            (
                "[topics.bars]",
                r#"[topics.bars]
broker = "main""#,
            ),
            (
                r#"from = "trades""#,
                r#"from = ["trades", "side", "rates", "fees"]"#,
            ),
        ],
        told: &[
            "19:10: E0153 topics.rates.broker: the broadcast topics that are read lie on more than one broker",
            "29:10: E0153 topics.trades.broker: the topics that are read lie on more than one broker",
        ],
    },
    Case {
        about: "state in the directory of a log",
        changes: &[
            ("mem://", "file://data"),
            (
                r#"name = "gate""#,
                r#"name = "gate"
state_dir = "data/state""#,
            ),
        ],
        told: &[
            "4:13: E0154 pipeline.state_dir: the state's directory `data/state` lies in that of broker `main`",
        ],
    },
    Case {
        about: "a log where the state lies unless said, and another in it",
        changes: &[
            (
                "[brokers.main]",
                r#"[brokers.inner]
url = "file://.tidemill/gate/0/log"
[brokers.main]"#,
            ),
            ("mem://", "file://./.tidemill/gate"),
            ("[topics.trades]", "[topics.trades]\nbroker = \"main\""),
            ("[topics.bars]", "[topics.bars]\nbroker = \"inner\""),
        ],
        told: &[
            "6:7: E0154 brokers.inner.url: the state's directory `.tidemill/gate` holds that of broker `inner`",
            "8:7: E0154 brokers.main.url: the log's directory holds that of broker `inner`",
            "8:7: E0154 brokers.main.url: the state's directory `.tidemill/gate` is that of broker `main`",
        ],
    },
];
