//! What a command says to do next: it works as it is typed, or is not said.

use crate::support::{Ended, Home, TICKS, tick};

/// Types a command that was told, word for word, and what stands for a name of the reader's own.
fn as_typed(home: &Home, said: &str, command: &str, own: &[(&str, &str)]) -> Ended {
    let (_, from) = said.split_once(&format!("`tidemill {command}")).unwrap();
    let (rest, _) = from.split_once('`').unwrap();
    let line = format!("{command}{rest}");
    let words = line.split(' ').map(|word| {
        let own = own.iter().find(|(name, _)| *name == word);
        own.map_or(word, |(_, own)| own)
    });
    home.tidemill(&words.collect::<Vec<_>>())
}

/// The pipeline in two files: who reads what, and the rest.
fn in_two_files(home: &Home) -> [&'static str; 2] {
    let text = std::fs::read_to_string(home.path("p.toml")).unwrap();
    let (head, rest) = text.split_once("[topics.ticks]").unwrap();
    home.write("head.toml", head);
    home.write("rest.toml", format!("[topics.ticks]{rest}"));
    ["head.toml", "rest.toml"]
}

#[test]
fn a_missing_input_is_filled_or_created_as_it_is_told() {
    for verb in ["import", "topics create"] {
        let home = Home::empty();
        crate::feeds::read_from_feed(&home, "file://a feed");
        home.change_pipeline(&[("file://a feed", "file://feed")]);
        let [head, rest] = in_two_files(&home);
        home.write(
            "ticks.jsonl",
            (0..TICKS).map(tick).collect::<Vec<_>>().join("\n"),
        );
        let run = ["run", head, rest, "--until-end"];
        let told = home.tidemill(&run).expect(2, &[]);
        as_typed(&home, &told.err, verb, &[("PATH", "ticks.jsonl")]).expect(0, &[]);
        assert!(home.path("feed").exists() && !home.path("data").exists());
        home.tidemill(&run).expect(0, &[]);
    }
}

/// The command made a log of its own, `data`, and the run went on refusing.
#[test]
fn outputs_that_are_gone_are_created_again_as_it_is_told() {
    let home = Home::empty();
    home.change_pipeline(&[
        ("file://data", "file://other"),
        ("[topics.ticks]", "[topics.ticks]\npartitions = 2"),
    ]);
    let create = "topics create ticks p.toml --partitions 2 --broker file://other";
    home.tidemill(&create.split(' ').collect::<Vec<_>>())
        .expect(0, &[]);
    crate::feeds::import(&home, "file://other", 0..TICKS);
    home.run_well();
    let list = ["topics", "list", "--broker", "file://other", "--json"];
    let partitions = || -> Vec<(String, usize)> {
        let listed = home.tidemill(&list).expect(0, &[]).out;
        let listed: serde_json::Value = serde_json::from_str(&listed).unwrap();
        let topics = listed["topics"].as_array().unwrap().iter();
        topics
            .map(|topic| {
                let partitions = topic["partitions"].as_array().unwrap().len();
                (topic["topic"].as_str().unwrap().to_owned(), partitions)
            })
            .collect()
    };
    let before = partitions();
    let delete = |topic: &str| {
        let delete = format!("topics delete {topic} --broker file://other --yes");
        let delete: Vec<&str> = delete.split(' ').collect();
        home.tidemill(&delete).expect(0, &[]);
    };
    for topic in ["bars", "p.control"] {
        delete(topic);
        let told = home.run().expect(6, &["is gone"]);
        as_typed(&home, &told.err, "topics create", &[]).expect(0, &[]);
        assert!(!home.path("data").exists());
        home.run_well();
    }
    assert_eq!(partitions(), before);
}

/// It said `39550 updates in orders`, and the run set all of them aside.
#[test]
fn an_import_into_a_topic_of_another_event_is_refused_and_not_advised() {
    let home = Home::empty();
    home.write("ticks.jsonl", tick(0));
    home.change_pipeline(&[
        (
            "event = \"MarketDataUpdate\"\nkey = \"pair\"",
            "event = \"Order\"\nkey = \"venue\"",
        ),
        (
            "[topics.ticks]",
            "[events.Order]\nfields = { venue = \"text\", currentPrice = \"int\", quantity = \"int\", sequence = \"int\", at = \"time\" }\ntime = \"at\"\n\n[topics.ticks]",
        ),
    ]);
    home.tidemill(&["check", "p.toml"]).expect(0, &[]);
    let why =
        "source `ticks` reads events of type `Order`, and an import writes `MarketDataUpdate`";
    home.tidemill(&["import", "--pipeline", "p.toml", "ticks.jsonl"])
        .expect(2, &[why, "help: "]);
    assert!(!home.path("data").exists());
    let told = home.run();
    let told = told.expect(2, &["fill it with a pipeline that reads `stdio:`"]);
    assert!(!told.err.contains("tidemill import"), "{}", told.err);
}
