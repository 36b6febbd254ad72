//! What machines are told: the keys of every document of `--json`, and the types of their values. Programs
//! rely on both, so whoever changes one here breaks them.

use std::fs;

use serde_json::{Value, json};

use crate::support::{Ended, Home};

/// A document with the type of each value in its place; of a list, one for each kind of element.
fn shape(value: &Value) -> Value {
    match value {
        Value::Null => json!("null"),
        Value::Bool(_) => json!("bool"),
        Value::Number(number) if number.is_u64() => json!("count"),
        Value::Number(_) => json!("number"),
        Value::String(_) => json!("text"),
        Value::Array(elements) => {
            let mut kinds: Vec<Value> = elements.iter().map(shape).collect();
            kinds.sort_by_key(Value::to_string);
            kinds.dedup();
            kinds.into()
        }
        Value::Object(fields) => {
            let shapes = fields
                .iter()
                .map(|(name, value)| (name.clone(), shape(value)));
            Value::Object(shapes.collect())
        }
    }
}

/// The shapes of documents, one a line.
fn shapes(lines: &str) -> Vec<Value> {
    let lines = lines.lines().map(serde_json::from_str);
    lines.map(|line| shape(&line.unwrap())).collect()
}

#[track_caller]
fn command(home: &Home, line: &str, code: i32) -> Ended {
    let words: Vec<&str> = line.split(' ').collect();
    home.tidemill(&words).expect(code, &[])
}

/// The command, given in words, prints documents of these shapes, one a line.
#[track_caller]
fn prints_lines(home: &Home, line: &str, code: i32, expected: &[Value]) {
    let ended = command(home, line, code);
    assert_eq!(shapes(&ended.out), expected, "{line}");
}

#[track_caller]
fn prints(home: &Home, line: &str, code: i32, expected: Value) {
    prints_lines(home, line, code, &[expected]);
}

fn with_state() -> Home {
    let home = Home::new();
    home.run_well();
    home
}

fn problem(help: &str, related: Value) -> Value {
    json!({
        "code": "text", "severity": "text", "message": "text", "path": "text", "help": help,
        "file": "text", "line": "count", "column": "count", "endLine": "count", "endColumn": "count",
        "related": related,
    })
}

#[test]
fn problems_and_failures() {
    let home = Home::empty();
    home.write("empty.toml", "");
    home.write("again.toml", "[topics.bars]\n");
    prints(
        &home,
        "check p.toml --json",
        0,
        json!({ "ok": "bool", "problems": [] }),
    );
    let first = json!({ "file": "text", "line": "count", "column": "count", "message": "text" });
    let twice = json!({ "ok": "bool", "problems": [problem("null", first)] });
    prints(&home, "check p.toml again.toml --json", 1, twice);
    let empty = problem("text", json!("null"));
    let checked = json!({ "ok": "bool", "problems": [empty] });
    prints(&home, "check empty.toml --json", 1, checked);
    let failures = |line: &str, code, help: &str, problems: Value| {
        let error =
            json!({ "exit": "count", "message": "text", "help": help, "problems": problems });
        let ended = command(&home, line, code);
        assert_eq!(ended.out, "", "{line}");
        assert_eq!(shapes(&ended.err), [json!({ "error": error })], "{line}");
    };
    failures("run empty.toml --json", 1, "null", json!([empty]));
    failures(
        "topics list --broker file://none --json",
        3,
        "text",
        json!([]),
    );
}

#[test]
fn explanations() {
    let home = Home::empty();
    let code =
        json!({ "code": "text", "severity": "text", "title": "text", "explanation": "text" });
    prints(&home, "explain E0104 --json", 0, code);
    let key = json!({ "name": "text", "takes": "text", "about": "text" });
    let section = json!({ "name": "text", "written": "text", "about": "text", "keys": [key] });
    prints(&home, "explain dedupe --json", 0, section.clone());
    let ended = command(&home, "explain sections --json", 0);
    let told = &shapes(&ended.out)[0]["sections"];
    assert!(told.as_array().unwrap().contains(&section), "{told}");
    let with_example = json!({
        "name": "text", "written": "text", "about": "text", "keys": [key], "example": "text",
    });
    prints(&home, "explain brokers --json", 0, with_example);
    let field = json!({ "name": "text", "type": "text", "required": "bool", "about": "text" });
    let event = json!({
        "event": "text", "about": "text", "key": ["text"], "time": "text", "fields": [field],
        "example": "text",
    });
    prints(&home, "explain MarketDataUpdate --json", 0, event);
    let topic = json!({ "broker": "text", "url": "text", "topic": "text" });
    let field = json!({ "name": "text", "type": "text", "required": "bool" });
    let event = json!({ "name": "text", "fields": [field] });
    let pipeline = json!({
        "name": "text", "version": "count", "configHash": "text", "guarantee": "text", "group": "text",
        "home": "text",
        "sources": [{ "name": "text", "topic": topic, "event": event, "key": ["text"] }],
        "stages": [{
            "name": "text", "from": ["text"], "does": "text",
            "ports": [{ "name": "text", "event": event }],
        }],
        "sinks": [{ "name": "text", "from": ["text"], "topic": topic }],
        "deadLetter": topic,
        "causes": [{ "element": "text", "allows": "text", "because": "text" }],
    });
    prints(&home, "explain p.toml --json", 0, pipeline);
}

#[test]
fn imports_and_runs() {
    let home = Home::empty();
    let ticks: String = (0..30)
        .map(|number| crate::support::tick(number) + "\n")
        .collect();
    home.write("ticks.jsonl", ticks + "{}\n");
    let import = "import --pipeline p.toml --on-bad-line skip --format json ticks.jsonl --json";
    let imported = json!({
        "files": "count", "skippedFiles": "count", "lines": "count", "records": "count",
        "written": "count", "suspicious": "count", "rounded": "count", "badLines": "count",
        "backwards": "count", "goesBack": "bool", "exactlyOnce": "bool", "guessedBarMicros": [],
        "first": "text", "last": "text",
    });
    prints(&home, import, 0, imported);
    let ran = |by_class: Value, closed_at: &str| {
        json!({
            "taken": "count", "committed": "count", "written": "count", "setAside": "count",
            "deadLetters": "count", "deadLettersByClass": by_class, "transactions": "count",
            "reachedEnd": "bool", "windowsClosed": "count", "closedAt": closed_at,
            "seconds": "number",
        })
    };
    let run = "run p.toml --until-end --json";
    prints(&home, run, 0, ran(json!({}), "text"));
    // Earlier than all that has been closed.
    home.write(
        "late.jsonl",
        crate::support::tick(0).replace(":0}", ":77}") + "\n",
    );
    command(
        &home,
        "import --pipeline p.toml --format json late.jsonl",
        0,
    );
    prints(
        &home,
        run,
        0,
        ran(json!({ "window.late": "count" }), "null"),
    );
}

#[test]
fn records() {
    let home = Home::empty();
    let ticks = ["{\"a\": 1}", "no JSON"];
    home.add_ticks(0..0);
    crate::support::block_on(async {
        let log = home.log().await;
        let headers = tidemill_broker::Headers::new();
        for tick in ticks {
            crate::support::append(&log, b"k", tick.as_bytes(), &headers).await;
        }
        let mut headers = headers;
        headers.push("name", b"text");
        headers.push("bytes", b"\xff");
        crate::support::append(&log, b"\xff", b"\xff", &headers).await;
        log.close().await.unwrap();
    });
    let with = |more: Value| {
        let mut record = json!({
            "topic": "text", "partition": "count", "offset": "count", "timestamp": "text",
        });
        let all = record.as_object_mut().unwrap();
        all.extend(more.as_object().unwrap().clone());
        record
    };
    let headers = json!([{ "name": "text", "hex": "text" }, { "name": "text", "value": "text" }]);
    let expected = [
        with(json!({ "key": "text", "value": { "a": "count" } })),
        with(json!({ "key": "text", "valueText": "text" })),
        with(json!({ "keyHex": "text", "valueHex": "text", "headers": headers })),
    ];
    prints_lines(&home, "read ticks p.toml --json", 0, &expected);
}

#[test]
fn topics_and_offsets() {
    let home = with_state();
    let marks = json!({
        "partition": "count", "low": "count", "lastStable": "count", "high": "count",
    });
    let topic = |cleanup: &Value| json!({ "topic": "text", "identity": "text", "cleanup": cleanup, "partitions": [marks] });
    let compact = topic(&json!({ "policy": "text", "tombstonesMs": "count" }));
    let delete = topic(&json!({ "policy": "text", "ageMs": "null", "bytes": "null" }));
    prints(
        &home,
        "topics describe p.changelog --json",
        0,
        compact.clone(),
    );
    prints(&home, "topics describe bars --json", 0, delete.clone());
    let of_both = "topics create t --retention-age 1d --retention-bytes 1GiB --json";
    let limits = topic(&json!({ "policy": "text", "ageMs": "count", "bytes": "count" }));
    prints(&home, of_both, 0, limits.clone());
    prints(&home, "topics delete t --yes --json", 0, limits);
    let all = json!({ "topics": [delete, compact] });
    prints(&home, "topics list --json", 0, all);

    let offset = |committed: &str, lag: &str| {
        json!({
            "topic": "text", "partition": "count", "committed": committed, "keptBy": "text",
            "ofFormerTopic": "bool", "low": "count", "end": "count", "lag": lag,
        })
    };
    let kept = json!({ "group": "text", "partitions": [offset("count", "count")] });
    prints(&home, "offsets show p.toml --json", 0, kept);
    let none = json!({ "group": "text", "partitions": [offset("null", "null")] });
    prints(&home, "offsets show --group g --topic bars --json", 0, none);
    let reset = "offsets reset p.toml --to earliest --drop-state --json";
    let input = json!({
        "source": "text", "topic": "text", "partition": "count", "was": "count", "next": "count",
        "low": "count", "end": "count", "recreated": "bool",
    });
    let task = json!({
        "task": "text", "epoch": "count", "elements": "count", "bytes": "count", "digest": "text",
        "inputs": [input],
    });
    let done = |lost: Value| {
        json!({
            "pipeline": "text", "done": "bool", "state": "text", "tasks": [task], "beginAnew": [],
            "lostOutputs": lost, "changelogPartitions": "null", "setAside": [],
        })
    };
    prints(&home, reset, 2, done(json!([])));
    command(&home, "topics delete bars --yes", 0);
    let lost = json!([{ "sink": "text", "topic": "text" }]);
    prints(&home, &format!("{reset} --yes"), 0, done(lost));
}

#[test]
fn state() {
    let home = with_state();
    let table = json!({
        "name": "text", "id": "count", "kind": "text", "codec": "count", "elements": "count",
        "bytes": "count",
    });
    let content = json!({
        "pipeline": "text", "task": "text", "directory": "text", "epoch": "count",
        "elements": "count", "bytes": "count", "digest": "text", "compared": "bool",
        "clean": "bool", "behind": "bool", "findings": [], "tables": [table],
    });
    prints(
        &home,
        "state ls p.toml --json",
        0,
        json!({ "tasks": [content] }),
    );
    let checked = |content: &Value, findings: Value, aside: &str| {
        let task = json!({
            "task": "text", "directory": "text", "findings": findings, "setAside": aside,
            "content": content,
        });
        json!({ "ok": "bool", "tasks": [task] })
    };
    let sound = checked(&content, json!([]), "null");
    prints(&home, "state fsck p.toml --json", 0, sound);

    let element = |value: Value| {
        let mut element = json!({
            "task": "text", "directory": "text", "behind": "bool", "key": "text", "keyHex": "text",
        });
        let all = element.as_object_mut().unwrap();
        all.extend(value.as_object().unwrap().clone());
        [element]
    };
    let id = element(json!({ "value": { "id": { "sequence": "count" }, "time": "text" } }));
    prints_lines(&home, "state get p.toml once --limit 1 --json", 0, &id);
    let bytes = element(json!({ "valueHex": "text" }));
    prints_lines(
        &home,
        "state get .tidemill/p/0 once --limit 1 --json",
        0,
        &bytes,
    );

    let input = json!({ "source": "text", "topic": "text", "partition": "count", "next": "count" });
    let savepoint = json!({
        "task": "text", "epoch": "count", "digest": "text", "inputs": [input], "path": "text",
    });
    let saved = json!({ "savepoints": [savepoint] });
    let none = json!({ "savepoints": [] });
    prints(&home, "state savepoint p.toml --list --json", 0, none);
    prints(&home, "state savepoint p.toml --json", 0, saved.clone());
    prints(&home, "state savepoint p.toml --list --json", 0, saved);
    let restored = |aside: &str| {
        let task = json!({
            "task": "text", "savepointEpoch": "count", "elements": "count", "logEpoch": "count",
            "setAside": aside,
        });
        json!({ "done": "bool", "tasks": [task] })
    };
    let saved = home.store().join("savepoints");
    let path = fs::read_dir(saved).unwrap().next().unwrap().unwrap().path();
    let restore = format!("state restore p.toml --from {} --json", path.display());
    prints(&home, &restore, 2, restored("null"));
    prints(&home, &format!("{restore} --yes"), 0, restored("text"));

    fs::remove_file(home.store().join("identity.json")).unwrap();
    let finding = json!([{ "what": "text", "help": "text" }]);
    let damaged = checked(&json!("null"), finding, "text");
    prints(&home, "state fsck p.toml --set-aside --json", 6, damaged);
}
