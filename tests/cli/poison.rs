//! Records that cannot be what they should be: kept byte for byte with their reason, while all others
//! go through.

use std::io::Write as _;
use std::process::Stdio;

use tidemill_broker::Headers;

use crate::support::{Home, PIPELINE, TICKS, append, append_ticks, block_on, pair, tick};

/// A tick with a part replaced.
fn changed(from: &str, to: &str) -> Vec<u8> {
    let whole = tick(0);
    assert!(whole.contains(from), "{whole}");
    whole.replacen(from, to, 1).into_bytes()
}

/// What is wrong with a record, and how its dead letter must be classed.
fn poisons() -> Vec<(&'static str, Vec<u8>)> {
    let nested = format!("{}{}", "[".repeat(10_000), "]".repeat(10_000));
    let mut broken = tick(0).into_bytes();
    broken[60] = 0xff;
    vec![
        ("decode.utf8", broken),
        ("decode.json.not_object", nested.clone().into_bytes()),
        (
            "decode.json.depth",
            changed("{", &format!("{{\"x\":{nested},")),
        ),
        ("decode.json.duplicate", changed("{", "{\"pair\":\"CCC\",")),
        ("decode.number.not_finite", changed("100.25", "NaN")),
        ("decode.number.not_finite", changed("100.25", "-Infinity")),
        ("decode.number.not_finite", changed("100.25", "\"NaN\"")),
        ("decode.number.exponent", changed("100.25", "1e400")),
        ("decode.number.exponent", changed("100.25", "\"1e400\"")),
        (
            "decode.number.decimals",
            changed("100.25", "0.1234567890123"),
        ),
        (
            "decode.number.overflow",
            changed("100.25", "123456789012345678901234567890"),
        ),
        ("schema.missing_field", changed("\"pair\":\"AAA\",", "")),
        ("schema.type", changed("100.25", "[]")),
        (
            "decode.json.trailing",
            changed("\"sequence\":0}", "\"sequence\":0}}"),
        ),
        ("decode.json.syntax", b"".to_vec()),
        ("decode.too_large", vec![b'x'; 2 << 20]),
    ]
}

#[test]
fn poison_goes_to_the_dead_letters_byte_for_byte_and_all_else_goes_through() {
    let home = Home::empty();
    let poisons = poisons();
    let headers = Headers::new().with("trace", "7").with("raw", [0xff, 0x00]);
    block_on(async {
        let log = home.log().await;
        append_ticks(&log, 0..TICKS / 2).await;
        for (_, value) in &poisons {
            append(&log, b"a key", value, &headers).await;
        }
        append_ticks(&log, TICKS / 2..TICKS).await;
        log.close().await.unwrap();
    });
    home.run_well();
    home.expect_all_bars();
    let dead = home.records("p.dead-letter");
    assert_eq!(dead.len(), poisons.len());
    for (index, (dead, (class, value))) in dead.iter().zip(&poisons).enumerate() {
        let place = TICKS as usize / 2 + index;
        assert_eq!(dead.header("dl-src"), format!("ticks/0@{place}"));
        assert_eq!(dead.header("dl-src-ts"), dead.timestamp.to_string());
        assert_eq!(dead.header("dl-v"), "1");
        assert_eq!(dead.header("dl-attempts"), "1");
        let of = dead.header("dl-pipeline");
        assert!(of.starts_with("p 1 ") && of.len() == 20, "{of}");
        assert_eq!(
            dead.header("dl-class"),
            *class,
            "{}",
            dead.header("dl-error")
        );
        assert_eq!(dead.header("dl-disposition"), "poison");
        assert_eq!(dead.header("dl-payload"), "full");
        assert!(dead.value == *value, "{class}: another payload");
        assert_eq!(dead.key.as_deref(), Some(&b"a key"[..]));
        assert_eq!(dead.timestamp, 7);
        let own = [
            ("trace".to_owned(), b"7".to_vec()),
            ("raw".to_owned(), vec![0xff, 0x00]),
        ];
        assert_eq!(dead.headers[..2], own);
        let told = dead.header("dl-error");
        assert!(told.len() < 300, "no payload in the reason: {told}");
    }
    // A second run finds nothing to do.
    home.run_well();
    assert_eq!(home.records("p.dead-letter").len(), poisons.len());
    home.expect_all_bars();
}

#[test]
fn a_dead_letter_never_fails_for_its_size() {
    let home = Home::empty();
    // As large as the log takes: with the reason it is larger.
    let huge = vec![b'x'; (16 << 20) - 64];
    block_on(async {
        let log = home.log().await;
        append_ticks(&log, 0..TICKS).await;
        append(&log, b"k", &huge, &Headers::new()).await;
        log.close().await.unwrap();
    });
    home.run_well();
    home.expect_all_bars();
    let dead = home.records("p.dead-letter");
    assert_eq!(dead.len(), 1);
    assert_eq!(dead[0].header("dl-class"), "decode.too_large");
    let payload = dead[0].header("dl-payload");
    assert!(
        payload.starts_with(&format!("truncated {} ", huge.len())),
        "{payload}"
    );
    assert!(huge.starts_with(&dead[0].value) && !dead[0].value.is_empty());
}

#[test]
fn a_raised_limit_takes_larger_records_and_what_exceeds_it_is_a_dead_letter() {
    let home = Home::empty();
    let raised = "event = \"MarketDataUpdate\"\nrecord_max = \"3MiB\"";
    let file = PIPELINE.replacen("event = \"MarketDataUpdate\"", raised, 1);
    home.write("p.toml", file);
    let padded = |number: u64, bytes: usize| {
        let mut text = tick(number);
        text.push_str(&" ".repeat(bytes - text.len()));
        text.into_bytes()
    };
    let over = padded(TICKS - 1, (3 << 20) + 1);
    block_on(async {
        let log = home.log().await;
        append_ticks(&log, 0..TICKS - 2).await;
        let key = |number| pair(number).as_bytes();
        let headers = Headers::new();
        append(&log, key(TICKS - 1), &over, &headers).await;
        // As large as may be: the two ticks that are missing.
        let largest = padded(TICKS - 2, 3 << 20);
        append(&log, key(TICKS - 2), &largest, &headers).await;
        append(&log, key(TICKS - 1), tick(TICKS - 1).as_bytes(), &headers).await;
        log.close().await.unwrap();
    });
    home.run_well();
    home.expect_all_bars();
    let dead = home.records("p.dead-letter");
    assert_eq!(dead.len(), 1);
    assert_eq!(dead[0].header("dl-class"), "decode.too_large");
    assert_eq!(dead[0].header("dl-disposition"), "poison");
    let error = dead[0].header("dl-error");
    assert!(
        error.starts_with("3145729 bytes: at most 3145728 are read; `record_max`"),
        "{error}"
    );
    assert!(dead[0].value == over, "kept whole: the log takes it");
}

#[test]
fn a_key_too_long_for_state_is_set_aside() {
    let home = Home::empty();
    let last = TICKS - 1;
    let long = tick(last).replace("BBB", &"K".repeat(2_000));
    block_on(async {
        let log = home.log().await;
        append_ticks(&log, 0..TICKS).await;
        append(&log, b"k", long.as_bytes(), &Headers::new()).await;
        log.close().await.unwrap();
    });
    home.run_well();
    home.expect_all_bars();
    let dead = home.records("p.dead-letter");
    assert_eq!(dead.len(), 1);
    assert_eq!(dead[0].value, long.as_bytes());
    assert!(
        dead[0].header("dl-error").contains("1024"),
        "{}",
        dead[0].header("dl-error")
    );
}

/// What `VmHWM` says of a process, in bytes.
#[cfg(target_os = "linux")]
fn peak_memory(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status
        .lines()
        .find(|line| line.starts_with("VmHWM:"))
        .unwrap();
    let kilobytes: u64 = line.split_whitespace().nth(1).unwrap().parse().unwrap();
    kilobytes << 10
}

#[test]
#[cfg(target_os = "linux")]
fn a_line_of_100_mb_on_standard_input_is_set_aside_in_bounded_memory() {
    let home = Home::empty();
    home.write("p.toml", crate::stdio::PIPELINE);
    let mut child = home
        .command(&["run", "p.toml"])
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = child.stdin.take().unwrap();
    writeln!(input, "{}", tick(0)).unwrap();
    let part = vec![b'x'; 1 << 20];
    for _ in 0..100 {
        input.write_all(&part).unwrap();
    }
    // Whatever is in the pipe beyond this has been read when it could be written.
    writeln!(input, "\n{}", tick(10)).unwrap();
    let peak = peak_memory(child.id());
    drop(input);
    let ended: crate::support::Ended = child.wait_with_output().unwrap().into();
    let ended = ended.expect(0, &[]);
    assert_eq!(ended.out.lines().count(), 2);
    assert!(peak < 200 << 20, "{peak} bytes");
    let dead = home.records("dead");
    assert_eq!(dead.len(), 1);
    assert_eq!(dead[0].header("dl-class"), "decode.too_large");
    assert_eq!(dead[0].header("line-bytes"), (100 << 20).to_string());
    let payload = format!("truncated {}", 100 << 20);
    assert_eq!(dead[0].header("dl-payload"), payload);
    assert!(dead[0].value.len() > 15 << 20);
    assert!(dead[0].value.iter().all(|byte| *byte == b'x'));
    assert!(ended.err.contains("too long"), "{}", ended.err);
}

#[test]
#[cfg(target_os = "linux")]
fn a_line_of_100_mb_in_an_import_is_refused_with_its_place_in_bounded_memory() {
    let home = Home::empty();
    let mut content = tick(0).into_bytes();
    content.push(b'\n');
    content.resize(100 << 20, b'x');
    home.write("long.jsonl", content);
    let import = [
        "import",
        "long.jsonl",
        "--broker",
        "file://data",
        "--topic",
        "ticks",
    ];
    // A shell's limit on memory instead of a look at the process, which ends too soon for that.
    let mut limited = std::process::Command::new("sh");
    limited.args([
        "-c",
        "ulimit -d 90000; exec \"$0\" \"$@\"",
        env!("CARGO_BIN_EXE_tidemill"),
    ]);
    limited.args(import).current_dir(home.path(""));
    let ended: crate::support::Ended = limited.output().unwrap().into();
    ended.expect(
        1,
        &["long.jsonl:2:", "expected a line of at most 262144 bytes"],
    );
    let mut skipping = import.to_vec();
    skipping.extend(["--on-bad-line", "skip"]);
    home.tidemill(&skipping).expect(0, &[]);
    assert_eq!(home.records("ticks").len(), 1);
    assert_eq!(home.records("market-data-suspect").len(), 1);
}
