//! Everything that may stand in a pipeline file, for `tidemill explain`.
//!
//! A test asks the checker, section by section, which keys it knows, and holds this list to them.

/// A section, an operator or a table in place, and its keys.
#[derive(Debug)]
pub struct Section {
    /// What `tidemill explain` calls it.
    pub name: &'static str,
    /// How it is written.
    pub written: &'static str,
    /// What it is for.
    pub about: &'static str,
    /// Its keys.
    pub keys: &'static [Key],
}

/// A key.
#[derive(Debug)]
pub struct Key {
    /// As written.
    pub name: &'static str,
    /// What value it takes, and what holds without it.
    pub takes: &'static str,
    /// What it means.
    pub about: &'static str,
}

const fn key(name: &'static str, takes: &'static str, about: &'static str) -> Key {
    Key { name, takes, about }
}

impl Section {
    /// The section of this name.
    pub fn find(name: &str) -> Option<&'static Self> {
        SECTIONS.iter().find(|section| section.name == name)
    }

    /// The section whose name is nearest to one that is not there.
    pub fn nearest(name: &str) -> Option<&'static str> {
        super::suggest::nearest(name, SECTIONS.iter().map(|section| section.name))
    }
}

const FROM: Key = key(
    "from",
    "a name or a list of names; required",
    "What it reads: `[topics.NAME]`, `[stages.NAME]`, or a port of a stage as `STAGE.PORT`.",
);

const OP: Key = key(
    "op",
    "the name of an operator; required",
    "`key_by`, `dedupe`, `tumbling_window`, `route` or `merge`; each has a page of its own here.",
);

const STATE: Key = key(
    "state",
    "a name; default the stage's own",
    "The section `[state.NAME]` it keeps what it remembers in.",
);

const TOPIC_IN_PLACE: Key = key(
    "topic",
    "a name; required but on `stdio:`",
    "Its name on the broker.",
);

const BROKER: Key = key(
    "broker",
    "a name; may be left out if the file has one broker",
    "The section `[brokers.NAME]` the topic lies on.",
);

const PARTITIONS: Key = key(
    "partitions",
    "1 to 4096",
    "With it a missing topic is created with so many; an existing one must have as many. Without, \
     a topic that is read must exist.",
);

const CLEANUP: Key = key(
    "cleanup",
    "`delete` or `compact`; default `delete`",
    "Whether old records leave by age and size, or all but the newest of each key. Used when the \
     topic is created.",
);

const RETENTION: Key = key(
    "retention",
    "a table, see `retention`; default keeps everything",
    "With `cleanup = \"delete\"`: what is kept.",
);

const TOMBSTONES: Key = key(
    "tombstones",
    "a duration; default 1d",
    "With `cleanup = \"compact\"`: how long a deletion stays readable.",
);

const EVENT: Key = key(
    "event",
    "`MarketDataUpdate` or a section `[events.NAME]`; required if the topic is read",
    "What its records are.",
);

const KEY: Key = key(
    "key",
    "a field or a list of fields",
    "The fields by which records are partitioned: those of one key are in order and have their \
     state in one task. Several are joined by `|`, with a `\\` before each `|` and `\\` within one.",
);

/// All sections, in the order in which a file is best written.
pub const SECTIONS: &[Section] = &[
    Section {
        name: "pipeline",
        written: "[pipeline]",
        about: "What the pipeline is called, what it guarantees, and how it runs.",
        keys: &[
            key(
                "format",
                "1; required",
                "The rules by which the file is read.",
            ),
            key(
                "name",
                "a name; required",
                "Also the consumer group, and the root of the pipeline's own topics.",
            ),
            key(
                "version",
                "a whole number from 1; default 1",
                "Yours to count; `explain` shows it.",
            ),
            key(
                "guarantee",
                "`at_most_once`, `at_least_once` or `exactly_once`; default the strongest possible",
                "The file is refused if any part of it could not keep it.",
            ),
            key(
                "commit",
                "a duration, or a table, see `commit`; default 100ms",
                "How often outputs, state and offsets become visible together.",
            ),
            key(
                "state_dir",
                "a directory; default `.tidemill/PIPELINE/INSTANCE`",
                "Where the cache of the state lies.",
            ),
            key(
                "threads",
                "1 to 1024; default 1",
                "How many threads tasks run on.",
            ),
            key(
                "memory",
                "a size; default 128MiB",
                "How much of its state each task keeps in memory: its windows and merges have even \
                 shares, and none takes what another leaves. Beside it: what an epoch changes, \
                 until it is written behind; the cache of the store, 32MiB; the ids of a `dedupe`; \
                 of a `tumbling_window` and a `merge` the keys and times of what is open.",
            ),
            key(
                "group",
                "a name; default the pipeline's",
                "The consumer group.",
            ),
            key(
                "dead_letter",
                "a name, or a table, see `dead_letter`; default the topic `NAME.dead-letter`",
                "The topic for records that are set aside: a section `[topics.NAME]`, not on `stdio:`.",
            ),
            key(
                "home",
                "a name; default the broker of the first sink in the order of the file that keeps \
                 topics, else that of the dead letters",
                "The section `[brokers.NAME]` of the pipeline's transactions: it keeps changelog, \
                 markers and control records, and only what is written there is in one transaction \
                 with them. Once a pipeline has run, its home stays where it is.",
            ),
        ],
    },
    Section {
        name: "commit",
        written: "commit = { ... }, in [pipeline]",
        about: "When an epoch closes: whatever comes first.",
        keys: &[
            key("interval", "a duration; default 100ms", "After so long."),
            key(
                "records",
                "a whole number; default 100000",
                "After so many records read.",
            ),
            key(
                "bytes",
                "a size up to 512MiB; default 16MiB",
                "After so much output, and state that was not there before.",
            ),
        ],
    },
    Section {
        name: "dead_letter",
        written: "dead_letter = { ... }, in [pipeline]",
        about: "The topic for records that are set aside, in place.",
        keys: &[
            TOPIC_IN_PLACE,
            BROKER,
            PARTITIONS,
            CLEANUP,
            RETENTION,
            TOMBSTONES,
        ],
    },
    Section {
        name: "brokers",
        written: "[brokers.NAME]",
        about: "Where topics lie.",
        keys: &[key(
            "url",
            "a URL; required",
            "`file://DIRECTORY` is an embedded log; `?fsync=100ms`, `?fsync=commit` or \
             `?fsync=never` says when it is made durable, `?split=64MiB` how large a log file may \
             become. `stdio:` is JSON lines on standard input and output: it has the topics `stdin`, \
             which is read, and `stdout`, which is written; dead letters need a second broker. `mem://` \
             lies in this process and begins empty: only a program that embeds it can fill it.",
        )],
    },
    Section {
        name: "topics",
        written: "[topics.NAME]",
        about: "A topic that is read or written.",
        keys: &[
            key(
                "topic",
                "a name; default the section's",
                "Its name on the broker; on `stdio:` it is `stdin` if it is read, else `stdout`.",
            ),
            BROKER,
            EVENT,
            KEY,
            PARTITIONS,
            CLEANUP,
            RETENTION,
            TOMBSTONES,
            key(
                "start",
                "`earliest`, `latest` or a time; default `earliest`",
                "Where reading begins when nothing is committed.",
            ),
            key(
                "on_gap",
                "`halt` or `skip`; default `halt`",
                "What to do when records to be read are no longer there: stop, or go on at the \
                 first that is and note the gap in a dead letter.",
            ),
            key(
                "out_of_order",
                "a duration; default 0s",
                "How far event time may run backwards before an event is late.",
            ),
            key(
                "ahead_max",
                "a duration; default any",
                "How far the time of an event may be ahead of its record's own timestamp. One further \
                 ahead goes to the dead letters as `decode.time.ahead` and moves event time nowhere; \
                 otherwise it alone would make all that follows it late. Means nothing where records \
                 carry the event's time themselves, as imported ones do.",
            ),
            key(
                "idle",
                "a duration; default never",
                "After so long without a record a partition no longer holds back event time. Once all are \
                 silent, event time is where the furthest of them has come: what is earlier is late.",
            ),
            key(
                "broadcast",
                "true or false; default false",
                "Whether every task reads the whole topic, beside the partitions of its own: so it need not be \
                 partitioned as they are. Each event moves event time in all and goes on in one: where its key \
                 would lie, by the hash of Tidemill and Kafka's producers. Beside it in state by key, records \
                 of other topics that lie elsewhere go to the dead letters as `decode.partition`.",
            ),
            key(
                "record_max",
                "a size; default 1MiB",
                "The largest payload that is decoded; larger records go to the dead letters.",
            ),
        ],
    },
    Section {
        name: "retention",
        written: "retention = { ... }, of a topic",
        about: "Which records may leave a topic: those beyond either bound.",
        keys: &[
            key("age", "a duration", "Older than this."),
            key("bytes", "a size", "While a partition is larger than this."),
        ],
    },
    Section {
        name: "events",
        written: "[events.NAME]",
        about: "A type of JSON events. `MarketDataUpdate` is built in: `tidemill explain \
                MarketDataUpdate` tells its fields, and `[events.MarketDataUpdate]` takes `scale` alone.",
        keys: &[
            key(
                "fields",
                "a table of field = \"TYPE\"; required",
                "Types are `text`, `int`, `decimal(N)` with N decimals, `bool` and `time`; a `?` \
                 behind it makes the field optional.",
            ),
            key(
                "time",
                "a field of type `time`",
                "The event time, which windows and merges need.",
            ),
            key(
                "scale",
                "0 to 18; default 8",
                "Decimals of the prices and quantities of `MarketDataUpdate`.",
            ),
        ],
    },
    Section {
        name: "state",
        written: "[state.NAME]",
        about: "What a stage remembers, by a name of its own. Not needed: a stage without one has \
                a state of its own name.",
        keys: &[key(
            "ttl",
            "a duration; default as long as it is needed",
            "Event time after which a `dedupe` forgets an id, if sooner than its `window`. Windows and \
             merges end what they keep by themselves and take none.",
        )],
    },
    Section {
        name: "stages",
        written: "[stages.NAME]",
        about: "A place where an operator runs. Beside these it takes the keys of its operator.",
        keys: &[FROM, OP],
    },
    Section {
        name: "key_by",
        written: "op = \"key_by\", in [stages.NAME]",
        about: "Gives events another key.",
        keys: &[
            FROM,
            OP,
            key(
                "key",
                "a text field or a list of them; required",
                "The new key. Several fields are joined by `|`, with a `\\` before each `|` and `\\` \
                 within one.",
            ),
        ],
    },
    Section {
        name: "dedupe",
        written: "op = \"dedupe\", in [stages.NAME]",
        about: "Lets the first event of each id through and drops the rest. An event too old to \
                tell, for its id would be forgotten by now, goes to the dead letters. All ids are in memory, outside what `memory` of \
                `[pipeline]` bounds: each takes the bytes of its key and its fields, and some 60 to \
                100 more. `count_max` and `window` are what bounds them.",
        keys: &[
            FROM,
            OP,
            key(
                "id",
                "a field or a list of fields; required",
                "What makes two events of one key the same.",
            ),
            key(
                "window",
                "a duration; required",
                "For how long, in event time, an id is remembered.",
            ),
            key(
                "count_max",
                "1 to 10000000; default 10000",
                "How many ids of one key are remembered; the oldest is forgotten first, and an event \
                 older than all that are left is too old to tell.",
            ),
            STATE,
        ],
    },
    Section {
        name: "tumbling_window",
        written: "op = \"tumbling_window\", in [stages.NAME]",
        about: "Turns the events of each key in each stretch of event time into one event, written \
                once the watermark has passed its end. It has the key's fields, `windowStart`, \
                `windowEnd` and the aggregates.",
        keys: &[
            FROM,
            OP,
            key("size", "a duration; required", "How long a window is."),
            key(
                "key",
                "a text field or a list of them; default the input's key",
                "What windows are kept by.",
            ),
            key(
                "aggregate",
                "a table of field = \"FUNCTION\", or `ohlcv(PRICE, QUANTITY)`; required",
                "Functions are `count()`, `sum(FIELD)`, `min(FIELD)`, `max(FIELD)`, \
                 `first(FIELD)`, `last(FIELD)` and `vwap(PRICE, QUANTITY)`.",
            ),
            key(
                "lateness",
                "a duration; default 0s",
                "For how long after its end a window still takes events.",
            ),
            key(
                "late",
                "see `leftover`; default `dead_letter`",
                "What becomes of events that come later still.",
            ),
            key(
                "event",
                "a name; default the stage's",
                "The type of what comes out.",
            ),
            STATE,
        ],
    },
    Section {
        name: "route",
        written: "op = \"route\", in [stages.NAME]",
        about: "Sends each event to the port that its value is named for. It has no main output: \
                `from = \"STAGE.PORT\"` reads a port.",
        keys: &[
            FROM,
            OP,
            key("field", "a field; required", "The value that decides."),
            key(
                "cases",
                "a table of PORT = VALUE or a list of values; required",
                "The values of each port.",
            ),
            key(
                "otherwise",
                "see `leftover`; default `dead_letter`",
                "What becomes of events with another value, or none.",
            ),
        ],
    },
    Section {
        name: "merge",
        written: "op = \"merge\", in [stages.NAME]",
        about: "Puts the events of several inputs into the order of their event time.",
        keys: &[FROM, OP],
    },
    Section {
        name: "leftover",
        written: "\"dead_letter\" or { ... }, for `late` and `otherwise`",
        about: "What becomes of events that an operator cannot place. One of the two keys.",
        keys: &[
            key(
                "port",
                "a name",
                "They leave through this port, as `STAGE.PORT`.",
            ),
            key(
                "drop",
                "a reason",
                "They are dropped; the reason is for who reads the file.",
            ),
        ],
    },
    Section {
        name: "sinks",
        written: "[sinks.NAME]",
        about: "Where results are written.",
        keys: &[
            FROM,
            key(
                "topic",
                "a section `[topics.NAME]`, or a table, see `sink_topic`; required",
                "What it writes to. A topic that is missing is created.",
            ),
            key(
                "key",
                "a field or a list of fields; default the topic's key, else that of what is written",
                "The key of the records. Several fields are joined as by `key_by`.",
            ),
        ],
    },
    Section {
        name: "sink_topic",
        written: "topic = { ... }, in [sinks.NAME]",
        about: "The topic of a sink, in place.",
        keys: &[
            TOPIC_IN_PLACE,
            BROKER,
            PARTITIONS,
            CLEANUP,
            RETENTION,
            TOMBSTONES,
            key(
                "event",
                "a section `[events.NAME]`",
                "What is written must be of this type.",
            ),
            KEY,
        ],
    },
];
