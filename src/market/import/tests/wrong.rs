//! Wrong input: what is said, and that nothing is half written.

use std::sync::Arc;
use std::time::Duration;

use super::super::{Error, OnBadLine, Options};
use super::fixture::{Fixture, zipped};

const TICKS: &str = "equity/usa/tick/ibm/20131007_trade.zip";

#[tokio::test]
async fn a_bad_line_is_named_and_nothing_is_written() {
    for (line, expected) in [
        (
            "34200001,NaN,1,P,0,0",
            ":2:10: expected price as a decimal number, found `NaN`",
        ),
        (
            "34200001,1e400,1,P,0,0",
            ":2:10: expected price as a decimal number, found `1e400`",
        ),
        (
            "-1,1815200,1,P,0,0",
            ":2:1: expected milliseconds since midnight, within the day, found `-1`",
        ),
        (
            "86400000,1815200,1,P,0,0",
            ":2:1: expected milliseconds since midnight, within the day, found `86400000`",
        ),
        (
            "34200001,1815200,-5,P,0,0",
            ":2:18: expected size that is not negative, found `-5`",
        ),
        (
            "34200001,1815200,1,P,0,maybe",
            ":2:24: expected suspicious as true or false, found `maybe`",
        ),
        (
            "34200001,1815200,1,P,0",
            ":2:23: expected suspicious, found `the line's end`",
        ),
        (
            "34200001,1815200,1,P,0,0,7",
            ":2:26: expected the line's end, found `7`",
        ),
    ] {
        let fixture = Fixture::new();
        let file = fixture.zip(TICKS, format!("34200000,1815200,283,P,0,0\n{line}\n"));
        let error = fixture.run(&fixture.options(&[&file])).await.unwrap_err();
        assert_eq!(error.to_string(), format!("{}{expected}", file.display()));
        assert!(fixture.topics().await.is_empty(), "{line}");
    }
}

#[tokio::test]
async fn a_bad_line_that_is_skipped_goes_to_the_side_topic() {
    let fixture = Fixture::new();
    let mut content = b"34200000,1815200,283,P,0,0\nx,y\n34200001,1815200,\xff,P,0,0\n".to_vec();
    content.extend(vec![b'9'; 2_000_000]);
    content.extend(b"\n34200002,1815300,1,P,0,0\n");
    let file = fixture.zip(TICKS, content);
    let mut options = fixture.options(&[&file]);
    options.on_bad_line = OnBadLine::Skip;
    let report = fixture.run(&options).await.unwrap();
    assert_eq!((report.counts.records, report.counts.bad_lines), (2, 3));
    let suspects = fixture.read("market-data-suspect").await;
    let reasons: Vec<&str> = suspects
        .iter()
        .map(|record| record.headers[0].1.as_str())
        .collect();
    assert_eq!(
        reasons,
        [
            "bad-line: column 1: expected milliseconds since midnight as a decimal number, found `x`",
            "bad-line: column 18: expected UTF-8, found `\u{fffd},P,0,0`",
            "bad-line: column 262145: expected a line of at most 262144 bytes, found `a longer one`",
        ]
    );
    assert_eq!(suspects[0].value, "x,y");
    assert!(suspects[2].value.len() < 10_000);
}

#[tokio::test]
async fn an_archive_that_is_not_whole_is_refused() {
    let lines: String = (0..5_000)
        .map(|index| {
            format!(
                "{},{},283,P,0,0\n",
                34_200_000 + index,
                1_815_200 + index * 7 % 31
            )
        })
        .collect();
    let whole = zipped(&[("x.csv", lines.as_bytes())]);
    let mut flipped = whole.clone();
    flipped[whole.len() / 2] ^= 0x55;
    for (content, what) in [
        (
            whole[..whole.len() - 40].to_vec(),
            "not a readable zip archive",
        ),
        (flipped, "not a readable zip archive"),
        (b"hello".to_vec(), "not a readable zip archive"),
        (zipped(&[]), "it holds 0 files where one is expected"),
        (
            zipped(&[("a.csv", b"1"), ("b.csv", b"2")]),
            "it holds 2 files where one is expected",
        ),
    ] {
        let fixture = Fixture::new();
        let file = fixture.file(TICKS, content);
        let error = fixture.run(&fixture.options(&[&file])).await.unwrap_err();
        let text = error.to_string();
        // Damage may also show as a line that makes no sense, before the end is reached.
        assert!(
            text.contains(what) || matches!(error, Error::Line { .. }),
            "{text}"
        );
        assert!(fixture.topics().await.is_empty());
    }
}

#[tokio::test]
async fn a_file_that_tells_too_little_is_refused_with_the_option_that_helps() {
    let fixture = Fixture::new();
    for (file, what) in [
        (fixture.file("notes.txt", "hello\n"), "give --format"),
        (fixture.file("nothing.csv", ""), "is empty; leave it out"),
        (fixture.zip(TICKS, ""), "is empty; leave it out"),
        (
            fixture.file("one.csv", "1700000000,1,1,1,1,1\n"),
            "give --pair",
        ),
        (
            fixture.zip("equity/japan/tick/x/20131007_trade.zip", "1\n"),
            "give --zone",
        ),
        (
            fixture.file("a/b", "").parent().unwrap().to_owned(),
            "name the files in it",
        ),
        ("/nowhere/x.csv".into(), "cannot open"),
    ] {
        let error = fixture.run(&fixture.options(&[&file])).await.unwrap_err();
        assert!(error.to_string().contains(what), "{error}");
    }
    let file = fixture.file("one.csv", "1700000000,1,1,1,1,1\n");
    let mut options = fixture.options(&[&file]);
    options.pair = Some("X".into());
    let error = fixture.run(&options).await.unwrap_err();
    assert!(error.to_string().contains("give --bar"), "{error}");
    options.layout = "lean-crypto-tick-trade".parse().ok();
    let error = fixture.run(&options).await.unwrap_err();
    assert!(error.to_string().contains("give --date"), "{error}");
    assert!(fixture.run(&fixture.options(&[])).await.is_err());
    assert!(fixture.topics().await.is_empty());
}

#[tokio::test]
async fn wrong_json_is_refused_with_its_column() {
    let deep = format!(
        r#"{{"timestamp":1,"pair":"X","currentPrice":1,"x":{}"#,
        "[".repeat(10_000)
    );
    for (line, what) in [
        ("[1]", ":1:1: expected a JSON object"),
        (
            r#"{"timestamp":1,"pair":"X","currentPrice":NaN}"#,
            ":1:42: expected a JSON object",
        ),
        (
            r#"{"timestamp":1,"pair":"X","currentPrice":1e400}"#,
            ":1:42: expected a decimal number, found `1e400`",
        ),
        (
            r#"{"timestamp":1,"pair":"X","currentPrice":-1}"#,
            ":1:42: expected a number that is not negative",
        ),
        (
            r#"{"timestamp":1,"pair":"X","pair":"Y","currentPrice":1}"#,
            "duplicate field `pair`",
        ),
        (
            r#"{"timestamp":1,"pair":"X"}"#,
            "expected field `currentPrice` with",
        ),
        (r#"{"timestamp":1,"currentPrice":1}"#, "give --pair"),
        (
            r#"{"timestamp":"yesterday","pair":"X","currentPrice":1}"#,
            ":1:14: expected a time in RFC 3339",
        ),
        (
            r#"{"eventType":"OrderCreated","timestamp":1,"pair":"X","currentPrice":1}"#,
            "expected \"MarketDataUpdate\"",
        ),
        (&deep, "expected a JSON object"),
    ] {
        let fixture = Fixture::new();
        let file = fixture.file("x.jsonl", line);
        let error = fixture.run(&fixture.options(&[&file])).await.unwrap_err();
        assert!(error.to_string().contains(what), "{error}");
        assert!(fixture.topics().await.is_empty());
    }
}

#[tokio::test]
async fn an_option_that_means_nothing_to_any_file_is_refused() {
    let fixture = Fixture::new();
    let bars = fixture.file("bars.csv", "1700000000,1,1,1,1,5\n1700000060,1,1,1,1,5\n");
    let zoned = fixture.file(
        "zoned.csv",
        "2024-01-31T09:30:00Z,1,1,1,1,5\n2024-01-31T09:31:00Z,1,1,1,1,5\n",
    );
    let lines = fixture.file(
        "x.jsonl",
        r#"{"eventType":"MarketDataUpdate","timestamp":"2024-01-31T09:30:00Z","pair":"X","currentPrice":1}"#,
    );
    let trades = fixture.file("X-trades-2024.csv", "1,2,3,6,1700000000000,true,true\n");
    let option = |name: &'static str| {
        move |options: &mut Options| match name {
            "--zone" => options.zone = Some("America/New_York".into()),
            "--date" => options.date = Some(jiff::civil::date(2024, 1, 31)),
            "--bar" => options.bar = Some(Duration::from_secs(60)),
            _ => options.mapping = Arc::new("a=pair".parse().unwrap()),
        }
    };
    for (file, names) in [
        (&bars, vec!["--zone", "--date", "--map"]),
        (&zoned, vec!["--zone", "--date", "--map"]),
        (&lines, vec!["--zone", "--date", "--bar"]),
        (&trades, vec!["--zone", "--date", "--bar", "--map"]),
    ] {
        for name in names {
            let mut options = fixture.options(&[file]);
            options.pair = Some("X".into());
            option(name)(&mut options);
            let error = fixture.run(&options).await.unwrap_err().to_string();
            let expected = format!("{name} means nothing to these files: ");
            assert!(error.starts_with(&expected), "{}: {error}", file.display());
        }
    }
}

#[tokio::test]
async fn a_file_is_known_again_when_it_comes_with_options_for_another() {
    let fixture = Fixture::new();
    let bars = fixture.file("bars.csv", "1700000000,1,1,1,1,5\n1700000060,1,1,1,1,5\n");
    let mut options = fixture.options(&[&bars]);
    options.pair = Some("X".into());
    fixture.run(&options).await.unwrap();
    let local = fixture.file("local.csv", "2024-01-31,1,1,1,1,5\n2024-02-01,1,1,1,1,5\n");
    let lines = fixture.file("x.jsonl", r#"{"t":1700000000,"pair":"X","currentPrice":1}"#);
    let ticks = fixture.file(
        "equity/usa/tick/ibm/20131007_trade.csv",
        "34200000,1815200,283,P,20002020,0\n",
    );
    options.files = vec![bars, local, lines, ticks];
    options.zone = Some("America/New_York".into());
    options.date = Some(jiff::civil::date(2013, 10, 7));
    options.mapping = Arc::new("t=timestamp".parse().unwrap());
    let error = fixture.run(&options).await.unwrap_err();
    assert!(matches!(error, Error::AlreadyImported { .. }), "{error}");
}
