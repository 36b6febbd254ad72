//! Every stable code, with the paragraph that `tidemill explain CODE` prints.

use super::Severity;

macro_rules! codes {
    ($($name:ident = $code:literal, $title:literal, $text:literal;)*) => {
        /// A stable code: it keeps its meaning for ever, and is never given to another problem.
        ///
        /// `E` is an error, `W` a warning.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[non_exhaustive]
        pub enum Code {
            $(#[doc = $title] $name,)*
        }

        impl Code {
            /// All codes, in order.
            pub const ALL: &'static [Self] = &[$(Self::$name),*];

            /// The code as printed, such as `E0112`.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$name => $code,)* }
            }

            /// What it is about, in one line.
            pub fn title(self) -> &'static str {
                match self { $(Self::$name => $title,)* }
            }

            /// What it means and what to do.
            pub fn explanation(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }
        }
    };
}

impl Code {
    /// The code of this name, in any case.
    pub fn find(name: &str) -> Option<Self> {
        let same = |code: &&Self| code.as_str().eq_ignore_ascii_case(name);
        Self::ALL.iter().find(same).copied()
    }

    /// Whether it keeps a pipeline from running.
    pub fn severity(self) -> Severity {
        if self.as_str().starts_with('W') {
            Severity::Warning
        } else {
            Severity::Error
        }
    }
}

codes! {
    // Files and values.
    UnreadableFile = "E0100", "a pipeline file cannot be read",
        "The file is missing, or may not be read. The message holds what the system said. Check the \
         path and its permissions.";
    Syntax = "E0101", "the file is not valid TOML",
        "Pipeline files are TOML 1.1 (https://toml.io), in UTF-8. The place is where reading stopped making \
         sense; the mistake may stand just before it, such as a quote that was not closed. Nothing \
         else is checked until the syntax is right.";
    TooLarge = "E0102", "a limit on the size of files is exceeded",
        "A pipeline file may have 1 MiB, 10,000 values, 32 levels of nesting, and 64 KiB in one \
         value after substitution. Files that people write stay far below; the limits keep a \
         broken or hostile file from exhausting the machine. A pipeline may be spread over several \
         files, which are checked and run as one.";
    UnknownKey = "E0103", "a key or section that does not exist",
        "Unknown keys are refused rather than ignored, because a misspelt option would silently \
         have no effect. The message lists what may stand there; `tidemill explain stages` and the \
         like say what each key means.";
    MissingKey = "E0104", "a required key is missing",
        "The section named needs this key and there is no default that would be right for \
         everybody.";
    WrongType = "E0105", "a value of the wrong kind",
        "The key takes another kind of value: a string where a number stands, a list where a table \
         stands. Strings that hold a substitution such as \"${THREADS:-2}\" are read as the kind \
         that the key needs.";
    Duplicate = "E0106", "two things of one name",
        "Sections of several files are put together; no section may come twice, and no later file \
         overrides an earlier one. Topics and stages share their names, because `from` names \
         either. Both places are shown; rename or remove one.";
    UnsetVariable = "E0107", "an environment variable is not set",
        "`${NAME}` takes the value of an environment variable and fails without it. Set the \
         variable, or give a default: `${NAME:-default}`.";
    BadSubstitution = "E0108", "a substitution cannot be read",
        "Inside string values `${NAME}`, `${NAME:-default}` (also when empty) and \
         `${NAME:?message}` (fails with the message) are replaced by environment variables, once: \
         what is put in is not looked at again, and can never change the structure of the file. A \
         plain `${` is written `$${`.";
    BadUnit = "E0109", "a value without a unit, or with one that cannot be read",
        "Durations and sizes are strings with a unit: \"250ms\", \"1s\", \"5m\", \"1h\", \"1d\"; \
         \"64KiB\", \"64MiB\", \"2GiB\". Bare numbers are refused, because nobody can tell seconds \
         from milliseconds by looking at 250. Numbers are whole: write \"1500ms\", not \"1.5s\".";
    OutOfRange = "E0110", "a value outside its range",
        "The message names the range and the reason follows from the option's meaning: an interval \
         of zero would never commit, a window of zero length holds nothing.";
    BadName = "E0111", "a name with characters that are not allowed",
        "Sections are named with ASCII letters, digits, `_` and `-`, at most 64 of them: the names \
         appear in metrics, in state and, with a dot, in `from`. Topics, groups and pipelines \
         follow Kafka's rule: letters, digits, `.`, `_` and `-`, at most 249.";
    Empty = "E0112", "something is empty that must not be",
        "A name, a list of inputs, a key or a set of fields was given but holds nothing.";
    UnknownWord = "E0113", "a word that is not one of the choices",
        "The key takes one of a few words; the message lists them.";
    Format = "E0114", "a file format that this version does not know",
        "`[pipeline] format` says by which rules the file is to be read. This version knows format \
         1. A higher number means that the file was written for a newer Tidemill.";
    Exclusive = "E0115", "options that exclude each other",
        "Two options were given that contradict each other, or one that means nothing beside the \
         other. The message names both.";
    // Brokers and topics.
    UnknownBroker = "E0120", "a broker that is not declared",
        "The name does not appear as a section `[brokers.NAME]`. With exactly one broker in the \
         file, `broker` may be left out everywhere.";
    BadUrl = "E0121", "a broker's URL cannot be read",
        "URLs are `mem://` (in this process), `file://DIRECTORY` (an embedded log on disk, relative \
         to the working directory or absolute as in `file:///var/lib/tidemill`; `?fsync=100ms`, \
         `?fsync=commit` or `?fsync=never` says when it is made durable) and `stdio:` (JSON lines on standard input and \
         output).";
    NotBuiltIn = "E0122", "a kind of broker that this program was built without",
        "The scheme is known, but this program contains no client for it yet. Use `file://` or \
         `mem://`; the same pipeline file runs on another broker by changing its URL only.";
    UnknownTopic = "E0123", "a topic that is not declared",
        "The name does not appear as a section `[topics.NAME]`. A sink may also describe its topic \
         in place: `topic = { broker = \"main\", topic = \"bars\" }`.";
    TopicDeclaredTwice = "E0124", "one topic declared twice",
        "Two sections describe the same topic of the same broker; they could contradict each other \
         about its events and its key. Declare it once and name that section wherever it is used.";
    TopicConflict = "E0125", "a topic is written twice, read and written, or read from two brokers",
        "Each topic has one sink; let that sink read several stages (`from = [\"a\", \"b\"]`). A \
         pipeline that reads what it writes would feed itself without end. Topics that are read from \
         different brokers need different names: records are known by topic, partition and offset.";
    DeadLetterConflict = "E0126", "the dead-letter topic is in use",
        "Dead letters go to a topic of their own. If the pipeline read them, a record it cannot \
         process would come back to it for ever; mixed with outputs, readers could not tell them \
         apart.";
    WhichBroker = "E0127", "no broker is named, and there is not exactly one",
        "`broker` may be left out only where the file declares exactly one broker. Dead letters \
         and the pipeline's changelog need a broker that keeps topics, so `stdio:` alone is not \
         enough: add `[brokers.local] url = \"mem://\"` for a pipeline that needs no memory beyond \
         its own life.";
    Stdio = "E0128", "standard input and output used as what they are not",
        "A broker `stdio:` has two topics: `stdin`, which can only be read, and `stdout`, which can \
         only be written. It has one partition and keeps nothing.";
    Broadcast = "E0129", "broadcast topics where partitions must be shared out",
        "A broadcast topic is read whole by every task, beside the partitions that are the task's \
         own, and each takes of it the events whose key would lie in those. A pipeline of broadcast \
         topics alone has no such partitions, nor has what comes of broadcast topics alone.";
    // Events.
    UnknownEvent = "E0130", "an event type that is not declared",
        "The name is neither a section `[events.NAME]` nor the built-in `MarketDataUpdate`.";
    BadFieldType = "E0131", "a field type that cannot be read",
        "Types are `text`, `int` (64 bits), `decimal(N)` (exactly N decimals, 0 to 18, kept as a \
         whole number), `bool` and `time`. A trailing `?` makes the field optional; an event that \
         lacks any other field is poison and goes to the dead letters.";
    UnknownField = "E0132", "a field that the event does not have",
        "Options of stages name fields of the events that reach them. After a window these are the \
         key, `windowStart`, `windowEnd` and the aggregates.";
    EventTime = "E0133", "event time is missing or unusable",
        "Windows and merges go by event time, so their events need it: `[events.NAME] time = \
         \"at\"`, where `at` is a required field of type `time`.";
    Fields = "E0134", "too many fields, or two of one name",
        "An event has at most 64 fields, each with its own name. The output of a window has the \
         key's fields, `windowStart`, `windowEnd` and one field per aggregate.";
    FieldUse = "E0135", "a field whose type does not fit its use",
        "Keys are made of required text fields; sums and averages take numbers; the least and the \
         greatest need values that have an order; a value compared with a field must be of the \
         field's type.";
    // Stages and sinks.
    UnknownInput = "E0140", "an input that is neither a topic nor a stage",
        "`from` lists sections `[topics.NAME]` and `[stages.NAME]`. A further output of a stage is \
         named with a dot, as in `route.buys`; a route has no main output, only its ports.";
    Cycle = "E0141", "stages that read each other",
        "Data flows one way: following `from` from any stage must end at topics.";
    UnknownOp = "E0142", "an operator that does not exist",
        "Operators are `key_by`, `dedupe`, `tumbling_window`, `route` and `merge`.";
    UnknownState = "E0143", "a state that is not declared",
        "`state` names a section `[state.NAME]`. A stage that names none gets one of its own, under \
         the stage's name.";
    BadAggregate = "E0144", "an aggregate that cannot be read",
        "Aggregates are `count()`, `sum(FIELD)`, `min(FIELD)`, `max(FIELD)`, `first(FIELD)`, \
         `last(FIELD)` and `vwap(PRICE, QUANTITY)`, each under the name of the output field: \
         `aggregate = { high = \"max(price)\" }`. In place of the table, `aggregate = \
         \"ohlcv(PRICE, QUANTITY)\"` gives open, high, low, close and volume.";
    SchemaMismatch = "E0145", "events of different types where one is needed",
        "All inputs of a stage or sink must have the same fields and the same event time, and a \
         sink whose topic declares an event must be given that event's fields.";
    Unkeyed = "E0146", "a keyed operator on events without a key",
        "The operator keeps something per key, and its input has none: declare the topic's `key`, \
         put a `key_by` stage before it or, for a window, give `key`.";
    KeyChanged = "E0147", "keyed state on another key than the topic's",
        "Records of one key lie in one partition, and each partition has its own state. State kept \
         by another key than the one the topic is partitioned by would see only a part of that \
         key's events, unless it holds all fields of that one. With one partition this cannot \
         happen; with more, events have to go through \
         a repartition topic, which comes with key changes in a later version. If the records are \
         in fact keyed so, declare it: `[topics.NAME] key = \"...\"`.";
    NotCoPartitioned = "E0148", "topics with different partitions feed one keyed stage",
        "A task owns partition N of each of its topics. Only if all have as many partitions does a \
         key lie in the same one everywhere. Create them alike, or declare the smaller, slower one \
         `broadcast = true`.";
    RepeatedCase = "E0149", "a route that names a value twice",
        "Each value of the field goes to one port.";
    SharedState = "E0150", "one state for two stages",
        "Each stage that remembers something has its own state: two stages would overwrite each \
         other's entries.";
    NothingWritten = "E0151", "a pipeline without sinks",
        "A pipeline has at least one `[sinks.NAME]`: without, nothing it computes would be kept.";
    TimeToLive = "E0152", "a time to live where state ends by itself",
        "`[state.NAME] ttl` lets an entry go once the watermark has passed the event time of its \
         last write by that much. What a window holds is let go once the window has fired and takes \
         no more late events; let go before, its events would be lost without a word. Leave `ttl` \
         out; `lateness` says how long windows are kept.";
    // Where things lie.
    SeveralBrokers = "E0153", "topics that are read together lie on several brokers",
        "A task reads partition N of each of its topics with one consumer, which is of one broker; and \
         with another all topics that are broadcast. So the topics that are read lie on one broker, and \
         those that are broadcast on one, which may be another. Sinks may lie on any.";
    Directories = "E0154", "a log and the state, or two logs, in one directory",
        "Log and state each have a directory of their own: a log that finds in its own what it has not \
         written takes it for damaged or somebody else's, and state may be removed to be built anew, \
         with all that lies below it. So neither may be, or lie in, the other's, and no log another's. \
         Without `state_dir` the state lies in `.tidemill/PIPELINE`. Links are followed; nothing is made.";
    // Guarantees.
    Guarantee = "E0160", "a guarantee that cannot be kept",
        "The guarantee of a pipeline is the weakest of its sources, its state, its operators and \
         its sinks; `tidemill explain FILE` prints one line of cause for each. A file that asks for \
         more is refused rather than run with less. Ask for what is possible, or change the element \
         named.";
    // Warnings.
    UnusedTopic = "W0200", "a topic is neither read nor written",
        "No stage or sink names it. It is not created and not read.";
    Unreachable = "W0201", "a stage whose output goes nowhere",
        "No sink is reached from it, so what it computes is thrown away. It does not run.";
    UnreadPort = "W0202", "an output of a stage that nobody reads",
        "Events that leave through it are thrown away. To say that this is meant, drop them with a \
         reason: `late = { drop = \"REASON\" }`, `otherwise = { drop = \"REASON\" }`.";
    UnusedState = "W0203", "a state that no stage uses",
        "No stage names it and none has its name. It is not created.";
    UnusedEvent = "W0204", "an event type that no topic uses",
        "No topic of the file says `event = \"NAME\"` with it, so it has no effect.";
    UnusedBroker = "W0205", "a broker that nothing uses",
        "No topic that is read or written lies on it. It is not connected.";
    NoEffect = "W0206", "an option without effect",
        "Where to start, how late events may be and the like say how a topic is read, but nothing \
         in the file reads this one; or a time to live is not shorter than what the stage forgets \
         by itself.";
    HomeByOrder = "W0207", "the order of sinks decides about the pipeline's home",
        "One broker keeps the pipeline's changelog, markers and control records: its home. Only what is \
         written there is in one transaction with them. Without `[pipeline] home` it is that of the first \
         sink in the order of the file, so that a section put before it would move it. A pipeline whose \
         home has moved away from what it has done is refused when it is started; `home = \"NAME\"` keeps \
         it where it is.";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_rise_and_each_is_explained() {
        for pair in Code::ALL.windows(2) {
            assert!(pair[0].as_str() < pair[1].as_str(), "{:?}", pair[1]);
        }
        for code in Code::ALL {
            assert!(code.explanation().len() > 30, "{code:?}");
            assert!(!code.title().ends_with('.'), "{code:?}");
            assert_eq!(Code::find(&code.as_str().to_lowercase()), Some(*code));
        }
        assert_eq!(Code::find("E9999"), None);
    }
}
