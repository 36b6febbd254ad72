//! Values at the edge of what can be said: told or carried through, never a panic.

use crate::support::{Home, tick};

fn import(home: &Home, file: &str) -> crate::support::Ended {
    home.tidemill(&[
        "import",
        file,
        "--broker",
        "file://data",
        "--topic",
        "ticks",
    ])
}

#[test]
fn an_import_of_what_is_no_text_or_nested_without_end_is_refused_with_its_place() {
    let home = Home::empty();
    let mut bytes = tick(0).into_bytes();
    bytes.extend(b"\n{\"pair\":\"\xff\"}\n");
    home.write("bytes.jsonl", bytes);
    import(&home, "bytes.jsonl").expect(1, &["bytes.jsonl:2:10: expected UTF-8"]);
    let nested = "[".repeat(10_000) + &"]".repeat(10_000);
    home.write("nested.jsonl", &nested);
    import(&home, "nested.jsonl").expect(1, &["nested.jsonl:1:1: expected a JSON object"]);
    let inside = tick(0).replace('}', &format!(",\"x\":{nested}}}"));
    home.write("inside.jsonl", format!("{}\n{inside}", tick(1)));
    import(&home, "inside.jsonl")
        .expect(1, &["inside.jsonl:2:1: ", "nested deeper than 64 levels"]);
    assert!(!home.path("data").exists(), "nothing was made of it");
}

#[test]
fn the_first_and_the_last_instants_can_be_asked_for_and_those_beyond_are_refused() {
    let home = Home::empty();
    home.add_ticks(0..10);
    home.run_well();
    let (first, last) = ("0000-01-01T00:00:00Z", "9999-12-31T23:59:59.999999Z");
    for (time, count) in [(first, 10), (last, 0)] {
        let read = home.tidemill(&["read", "ticks", "--json", "--from", time]);
        assert_eq!(read.expect(0, &[]).out.lines().count(), count, "{time}");
        let reset = ["offsets", "reset", "p.toml", "--drop-state", "--to", time];
        home.tidemill(&reset).expect(2, &["not confirmed"]);
    }
    for beyond in [
        "10000-01-01T00:00:00Z",
        "9999-12-31T23:59:59-23:59",
        "2024-13-01T00:00:00Z",
    ] {
        let read = ["read", "ticks", "--from", beyond];
        home.tidemill(&read)
            .expect(2, &["'--from <WHERE>'", beyond]);
        let reset = ["offsets", "reset", "p.toml", "--drop-state", "--to", beyond];
        home.tidemill(&reset).expect(2, &["'--to <WHERE>'", beyond]);
    }
}

#[test]
fn an_event_whose_window_reaches_beyond_the_last_year_is_set_aside() {
    for (size, written, aside) in [("7d", 1, 1), ("106751991d", 0, 2)] {
        let home = Home::empty();
        let first = tick(0).replace("2024-03-11T00:00:00.0Z", "1970-01-01T00:00:01Z");
        let last = tick(2).replace("2024-03-11T00:00:00.2Z", "9999-12-31T23:59:59.999999Z");
        let lines = [first, last];
        home.write("ticks.jsonl", lines.join("\n"));
        import(&home, "ticks.jsonl").expect(0, &[]);
        let size = format!("size = \"{size}\"\nlateness = \"106751991d\"");
        home.change_pipeline(&[("size = \"1s\"", &size), ("\"1h\"", "\"106751991d\"")]);
        let told = format!("2 records read and committed, {written} written, {aside} set aside");
        home.run().expect(0, &[&told, "window.overflow"]);
        home.run().expect(0, &["0 records read and committed"]);
        assert_eq!(home.bars().len(), written);
        let read = home.tidemill(&["read", "ticks", "--json", "--from", "1"]);
        let said = "\"timestamp\":\"9999-12-31T23:59:59.999999Z\"";
        assert!(read.out.contains(said), "{read:?}");
    }
}
