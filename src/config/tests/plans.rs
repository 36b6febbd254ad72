//! Right files and the plans they become.

use std::num::NonZeroU32;
use std::time::Duration;

use tidemill_broker::Cleanup;

use super::*;
use crate::config::parts::Parts;
use crate::config::plan::*;
use crate::events::Type;

#[test]
fn the_shipped_pipeline_becomes_a_plan_without_warnings() {
    let pipeline = Pipeline::parse("bars.toml", BARS, &no_env).unwrap();
    assert!(pipeline.warnings.is_empty(), "{}", pipeline.warnings);
    let plan = pipeline.plan;
    let sizes: Vec<u64> = plan
        .stages
        .iter()
        .filter_map(|stage| match &stage.op {
            OpPlan::TumblingWindow { size, .. } => Some(size.as_secs()),
            _ => None,
        })
        .collect();
    assert_eq!(sizes, [300, 60, 1]);
    assert_eq!(plan.guarantee, Guarantee::ExactlyOnce);
    assert_eq!(plan.dead_letter.topic.as_str(), "bars.dead-letter");
    // pair, currentPrice, timestamp and quantity; nothing else is decoded.
    assert_eq!(plan.sources[0].needed, 0b10111);
    assert_eq!(plan.states.len(), 3);
}

#[test]
fn a_variable_moves_the_shipped_pipeline_to_another_broker() {
    let env = |name: &str| (name == "TIDEMILL_BROKER").then(|| "mem://".to_owned());
    let plan = Pipeline::parse("bars.toml", BARS, &env).unwrap().plan;
    assert_eq!(plan.brokers[0].url, BrokerUrl::Memory);
}

#[test]
fn the_output_of_a_window_is_key_bounds_and_aggregates() {
    let plan = plan(&[(
        r#"{ close = "last(price)" }"#,
        r#"{ n = "count()", sizes = "sum(size)", vwap = "vwap(price, size)" }"#,
    )]);
    let (_, schema) = &plan.stages[0].ports[0];
    let fields: Vec<_> = schema
        .fields
        .iter()
        .map(|field| (&*field.name, field.ty, field.required))
        .collect();
    assert_eq!(
        fields,
        [
            ("pair", Type::Text, true),
            ("windowStart", Type::Time, true),
            ("windowEnd", Type::Time, true),
            ("n", Type::Int, true),
            // Absent where no event of the window had a size.
            ("sizes", Type::Int, false),
            ("vwap", Type::Decimal(8), false),
        ]
    );
    assert_eq!(schema.time, Some(2));
    assert_eq!(&*schema.name, "bar");
}

#[test]
fn the_shorthand_for_bars_is_five_aggregates() {
    let plan = plan(&[(r#"{ close = "last(price)" }"#, r#""ohlcv(price, size)""#)]);
    let OpPlan::TumblingWindow { aggregates, .. } = &plan.stages[0].op else {
        panic!("a window");
    };
    use AggregateFunction::*;
    let functions: Vec<_> = aggregates.iter().map(|a| (a.output, a.function)).collect();
    assert_eq!(
        functions,
        [
            (3, First(1)),
            (4, Max(1)),
            (5, Min(1)),
            (6, Last(1)),
            (7, Sum(2))
        ]
    );
}

#[test]
fn stages_come_after_what_they_read_and_fields_are_needed_through_them() {
    let plan = plan(&[
        (
            "[sinks.out]",
            r#"[stages.a-last]
               from = ["unique", "bar.late"]
               op = "merge"
               [stages.unique]
               from = "by-side.sells"
               op = "dedupe"
               id = ["at", "size"]
               window = "1m"
               [stages.by-side]
               from = "trades"
               op = "route"
               field = "side"
               cases = { sells = "SELL" }
               otherwise = { drop = "only sales are looked at" }
               [topics.sales]
               [sinks.sales]
               from = "a-last"
               topic = "sales"
               [sinks.out]"#,
        ),
        ("size = \"1m\"", "size = \"1m\"\nlate = { port = \"late\" }"),
    ]);
    let names: Vec<_> = plan.stages.iter().map(|stage| &*stage.name).collect();
    assert_eq!(names, ["bar", "by-side", "unique", "a-last"]);
    assert_eq!(
        plan.stages[3].inputs,
        [
            Input::Stage { stage: 2, port: 0 },
            Input::Stage { stage: 0, port: 1 }
        ]
    );
    assert_eq!(plan.sources[0].needed, 0b11111);
    let states: Vec<_> = plan.states.iter().map(|state| &*state.name).collect();
    assert_eq!(states, ["bar", "unique"]);
}

#[test]
fn fields_that_no_window_reads_are_not_needed() {
    assert_eq!(plan(&[]).sources[0].needed, 0b10011);
}

#[test]
fn the_hash_follows_results_and_nothing_else() {
    // What is noted down of a plan tells each difference that the hash does.
    let hash = |changes: &[(&str, &str)]| {
        let plan = plan(changes);
        (plan.config_hash, Parts::of(&plan))
    };
    let same = hash(&[]);
    for change in [
        (
            "name = \"gate\"",
            "name = \"gate\"\nthreads = 4\ncommit = \"1s\"\nmemory = \"1GiB\"",
        ),
        (
            "[topics.bars]",
            "# a comment\n[topics.bars]\nretention = { age = \"7d\" }",
        ),
        ("mem://", "file://elsewhere"),
    ] {
        assert_eq!(hash(&[change]), same, "{change:?}");
    }
    for change in [
        ("name = \"gate\"", "name = \"gate\"\nversion = 2"),
        ("size = \"1m\"", "size = \"2m\""),
        ("last(price)", "max(price)"),
        ("close =", "last ="),
        ("decimal(2)", "decimal(3)"),
        ("key = \"pair\"", "key = \"pair\"\nout_of_order = \"1s\""),
        ("key = \"pair\"", "key = \"pair\"\ntopic = \"other\""),
    ] {
        let other = hash(&[change]);
        assert_ne!(other.0, same.0, "{change:?}");
        assert_ne!(other.1, same.1, "{change:?}");
    }
    let (head, tail) = RIGHT.split_once("[stages.bar]").unwrap();
    let (stage, sink) = tail.split_once("[sinks.out]").unwrap();
    let turned = format!("[sinks.out]{sink}\n[stages.bar]{stage}\n{head}");
    assert_eq!(parse(&turned).unwrap().plan.config_hash, same.0);
}

#[test]
fn the_scale_of_the_built_in_event_can_be_set() {
    let plan = plan(&[
        ("[events.Trade]\n", "[events.MarketDataUpdate]\nscale = 4\n"),
        (
            r#"fields = { pair = "text", price = "decimal(2)", size = "int?", side = "text", at = "time" }"#,
            "",
        ),
        ("time = \"at\"\n", ""),
        ("event = \"Trade\"", "event = \"MarketDataUpdate\""),
        ("last(price)", "last(currentPrice)"),
    ]);
    let schema = &plan.sources[0].schema;
    assert_eq!(schema.fields[1].ty, Type::Decimal(4));
    assert_eq!(schema.time, Some(2));
}

#[test]
fn all_options_reach_the_plan() {
    let plan = plan(&[
        (
            "name = \"gate\"",
            "name = \"gate\"\ngroup = \"g\"\nstate_dir = \"s\"\nthreads = \"${N:-3}\"\n\
             guarantee = \"at_least_once\"\n\
             commit = { interval = \"1s\", records = 5, bytes = \"2KiB\" }\n\
             dead_letter = { topic = \"dead\", partitions = 1 }",
        ),
        (
            "key = \"pair\"",
            "key = \"pair\"\nstart = \"2013-10-07T13:30:00Z\"\non_gap = \"skip\"\n\
             out_of_order = \"5s\"\nahead_max = \"1h\"\nidle = \"1m\"\npartitions = 2\n\
             record_max = \"4MiB\"",
        ),
        (
            "[topics.bars]",
            "[topics.bars]\ncleanup = \"compact\"\ntombstones = \"1h\"",
        ),
        (
            "size = \"1m\"",
            "size = \"1m\"\nlateness = \"2s\"\nstate = \"kept\"\nlate = { drop = \"too old\" }",
        ),
        ("[sinks.out]", "[state.kept]\n[sinks.out]\nkey = \"pair\""),
    ]);
    assert_eq!(plan.group.as_str(), "g");
    assert_eq!(plan.state_dir, Some("s".into()));
    assert_eq!(plan.threads.get(), 3);
    assert_eq!(plan.guarantee, Guarantee::AtLeastOnce);
    let commit = CommitPolicy {
        interval: Duration::from_secs(1),
        records: 5,
        bytes: 2048,
    };
    assert_eq!(plan.commit, commit);
    assert_eq!(plan.dead_letter.topic.as_str(), "dead");
    assert_eq!(plan.dead_letter.partitions, NonZeroU32::new(1));
    let source = &plan.sources[0];
    assert_eq!(source.start, StartAt::Time(1_381_152_600_000_000));
    assert_eq!(source.on_gap, OnGap::Skip);
    let disorder = Disorder {
        behind: Duration::from_secs(5),
        ahead_max: Some(Duration::from_secs(3_600)),
    };
    assert_eq!(source.out_of_order, disorder);
    assert_eq!(source.idle, Some(Duration::from_secs(60)));
    assert_eq!(source.record_max, 4 << 20);
    assert_eq!(source.topic.partitions, NonZeroU32::new(2));
    let tombstones = Duration::from_secs(3600);
    assert_eq!(plan.sinks[0].topic.cleanup, Cleanup::Compact { tombstones });
    assert_eq!(plan.sinks[0].key, [0]);
    assert_eq!(plan.states[0].ttl, None);
    let OpPlan::TumblingWindow { lateness, late, .. } = &plan.stages[0].op else {
        panic!("a window");
    };
    assert_eq!(*lateness, Duration::from_secs(2));
    let reason = "too old".into();
    assert_eq!(*late, Unplaced::Drop { reason });
}

#[test]
fn a_time_to_live_shortens_how_long_ids_are_kept_and_makes_another_version() {
    let dedupe = |ttl: &str| {
        let state = format!("[state.seen]\n{ttl}[sinks.out]");
        plan(&[
            (
                "op = \"tumbling_window\"\nsize = \"1m\"\naggregate = { close = \"last(price)\" }",
                "op = \"dedupe\"\nid = \"pair\"\nwindow = \"1h\"\nstate = \"seen\"",
            ),
            ("[sinks.out]", &state),
        ])
    };
    let hour = Duration::from_secs(3_600);
    let (without, with) = (dedupe(""), dedupe("ttl = \"5m\"\n"));
    assert_eq!(without.states[0].keeps(hour), hour);
    assert_eq!(with.states[0].keeps(hour), Duration::from_secs(300));
    assert_ne!(without.config_hash, with.config_hash);
    let changes = Parts::of(&without).changes(&Parts::of(&with));
    assert_eq!(changes.parts, ["stage `bar`: ttl 5m is new"]);
}

#[test]
fn what_changed_between_two_files_is_told_as_they_write_it() {
    let told = |change: (&str, &str)| {
        let was = Parts::decode(&Parts::of(&plan(&[])).encode()).unwrap();
        was.changes(&Parts::of(&plan(&[change]))).parts.join("; ")
    };
    for (change, expected) in [
        (
            ("name = \"gate\"", "name = \"gate\"\nversion = 2"),
            "the pipeline: version 1 -> 2",
        ),
        (
            ("size = \"1m\"", "size = \"2m\""),
            "stage `bar`: size 1m -> 2m",
        ),
        (
            ("last(price)", "max(price)"),
            "stage `bar`: aggregate.close last(price) -> max(price)",
        ),
        (
            ("close =", "last ="),
            "stage `bar`: aggregate.last last(price) is new, aggregate.close last(price) is gone",
        ),
        (
            ("decimal(2)", "decimal(3)"),
            "source `trades`: field price decimal(2) -> decimal(3)",
        ),
        (
            ("key = \"pair\"", "key = \"pair\"\nout_of_order = \"1s\""),
            "source `trades`: out_of_order 0s -> 1s",
        ),
        (
            ("key = \"pair\"", "key = \"pair\"\nahead_max = \"1h\""),
            "source `trades`: ahead_max 1h is new",
        ),
    ] {
        assert_eq!(told(change), expected, "{change:?}");
    }
}

#[test]
fn a_bound_on_how_far_events_are_ahead_makes_another_version() {
    let ahead = |to: &str| plan(&[("key = \"pair\"", to)]);
    let without = ahead("key = \"pair\"");
    assert_eq!(without.sources[0].out_of_order, Duration::ZERO.into());
    let hour = ahead("key = \"pair\"\nahead_max = \"1h\"");
    let none = ahead("key = \"pair\"\nahead_max = \"0s\"");
    let hashes = [&without, &hour, &none].map(|plan| plan.config_hash);
    assert_eq!(BTreeSet::from(hashes).len(), 3);
}

#[test]
fn route_values_are_in_the_fields_scale() {
    let plan = plan(&[
        (
            "op = \"tumbling_window\"\nsize = \"1m\"\naggregate = { close = \"last(price)\" }",
            "op = \"route\"\nfield = \"price\"\ncases = { cheap = [0.5, \"-1\"], dear = 1000 }\n\
             otherwise = { port = \"cheap\" }",
        ),
        ("from = \"bar\"", "from = [\"bar.cheap\", \"bar.dear\"]"),
    ]);
    let OpPlan::Route {
        cases, otherwise, ..
    } = &plan.stages[0].op
    else {
        panic!("a route");
    };
    let number = RouteValue::Number;
    assert_eq!(
        *cases,
        [(number(50), 0), (number(-100), 0), (number(100_000), 1)]
    );
    assert_eq!(*otherwise, Unplaced::Port(0));
}

#[test]
fn the_guarantee_is_the_weakest_of_its_parts() {
    let console = (
        "[brokers.main]",
        "[brokers.console]\nurl = \"stdio:\"\n[brokers.main]",
    );
    let out = (
        "[topics.bars]",
        "[topics.bars]\nbroker = \"console\"\ntopic = \"stdout\"",
    );
    let input = (
        "key = \"pair\"",
        "key = \"pair\"\nbroker = \"console\"\ntopic = \"stdin\"",
    );
    let trades = ("key = \"pair\"", "key = \"pair\"\nbroker = \"main\"");
    let bars = ("[topics.bars]", "[topics.bars]\nbroker = \"main\"");
    let disk = (
        "[brokers.main]",
        "[brokers.console]\nurl = \"file://d\"\n[brokers.main]",
    );
    let on_disk = ("[topics.bars]", "[topics.bars]\nbroker = \"console\"");
    let also = (
        "[brokers.main]",
        "[brokers.console]\nurl = \"mem://\"\n[brokers.main]",
    );
    let dead_elsewhere = (
        "name = \"gate\"",
        "name = \"gate\"\ndead_letter = { broker = \"console\", topic = \"dead\" }",
    );
    let more_bars = (
        "[topics.bars]",
        "[sinks.more]\nfrom = \"bar\"\ntopic = \"more\"\n[topics.more]\nbroker = \"console\"\n[topics.bars]\nbroker = \"main\"",
    );
    let from_disk = ("key = \"pair\"", "key = \"pair\"\nbroker = \"console\"");
    for (changes, expected) in [
        (&[][..], Guarantee::ExactlyOnce),
        (&[console, trades, out], Guarantee::AtLeastOnce),
        (&[console, input, bars], Guarantee::AtMostOnce),
        // Memory in, disk out: a crash loses what was not read yet.
        (&[disk, trades, on_disk], Guarantee::AtMostOnce),
        (&[disk, from_disk, bars], Guarantee::ExactlyOnce),
        // What lies on another broker than that of the transaction is no part of it.
        (
            &[also, trades, bars, dead_elsewhere],
            Guarantee::AtLeastOnce,
        ),
        (&[also, trades, more_bars], Guarantee::AtLeastOnce),
    ] {
        assert_eq!(plan(changes).guarantee, expected, "{changes:?}");
    }
}

#[test]
fn home_is_what_the_file_names_or_the_broker_of_its_first_sink_whatever_the_names() {
    // By name, `bars` of the sinks and `disk` of the brokers come first.
    let with = |head: &str, sinks: &str| {
        let file = format!(
            r#"
            [pipeline]
            format = 1
            name = "copy"
            {head}
            [brokers.disk]
            url = "file://d"
            [brokers.console]
            url = "stdio:"
            [brokers.main]
            url = "file://m"
            [topics.updates]
            broker = "disk"
            event = "MarketDataUpdate"
            {sinks}
            "#
        );
        let parsed = Pipeline::parse("copy.toml", &file, &|_| None);
        let parsed = parsed.unwrap_or_else(|problems| panic!("{problems}"));
        let plan = parsed.plan;
        let name = |broker: usize| plan.brokers[broker].name.to_string();
        let warned = parsed.warnings.to_string().contains("W0207");
        (name(plan.home()), name(plan.dead_letter.broker), warned)
    };
    let sink = |name: &str, broker: &str| {
        let topic = match broker {
            "console" => r#"{ broker = "console" }"#.to_owned(),
            _ => format!(r#"{{ broker = "{broker}", topic = "{name}" }}"#),
        };
        format!("[sinks.{name}]\nfrom = \"updates\"\ntopic = {topic}\n")
    };
    let told = |home: &str, warned| (home.to_owned(), home.to_owned(), warned);
    let (print, ticks, bars) = (
        sink("a-print", "console"),
        sink("ticks", "main"),
        sink("bars", "disk"),
    );
    let both = format!("{print}{ticks}{bars}");
    assert_eq!(with("", &both), told("main", true));
    assert_eq!(with("home = \"disk\"", &both), told("disk", false));
    assert_eq!(with("", &format!("{print}{ticks}")), told("main", false));
    assert_eq!(with("", &print), told("disk", false));
}
