use tidemill_broker::{BatchBuilder, Offset, Timestamp, Topic, TopicPartition};

use super::*;
use crate::events::{Field, JsonEncoder, Type};

pub(super) fn batch(payloads: &[&[u8]]) -> Batch {
    let mut builder = BatchBuilder::default();
    for (at, payload) in payloads.iter().enumerate() {
        builder.push(Timestamp(at as i64), Some(b"key"), Some(payload), &[]);
    }
    let end = Offset(payloads.len() as u64);
    builder.build(TopicPartition::new(Topic::new("t").unwrap(), 0), end)
}

pub(super) fn field(name: &str, ty: Type, required: bool) -> Field {
    Field {
        name: name.into(),
        ty,
        required,
    }
}

fn update() -> Arc<Schema> {
    Arc::new(Schema {
        name: "MarketDataUpdate".into(),
        fields: vec![
            field("timestamp", Type::Time, true),
            field("pair", Type::Text, true),
            field("currentPrice", Type::Decimal(8), true),
            field("quantity", Type::Decimal(8), false),
            field("sequence", Type::Int, false),
            field("closing", Type::Bool, false),
        ],
        time: Some(0),
    })
}

const NEEDED_ALL: u64 = 0b11_1111;

/// Decodes one record; the row, or the class and message of the refusal.
fn one(payload: &[u8]) -> Result<Rows, Poison> {
    one_with(
        JsonDecoder::new(update(), NEEDED_ALL, Limits::default()).system_event(),
        payload,
    )
}

fn one_with(mut decoder: JsonDecoder, payload: &[u8]) -> Result<Rows, Poison> {
    let mut refused = None;
    let rows = decoder.decode(&batch(&[payload]), &mut |_, poison| refused = Some(poison));
    refused.map_or(Ok(rows), Err)
}

const START: &str = r#"{"timestamp":"2013-10-07T13:30:00Z","pair":"BTC-USD","currentPrice":1"#;

#[test]
fn a_record_becomes_a_row_and_its_text_stays_in_the_slab() {
    let rows = one(
        br#" { "eventType" : "MarketDataUpdate", "version": 1, "new":[{"a":[]}],
        "timestamp": 1381152600000.5, "pair": "BTC-USD", "currentPrice": 94321.55,
        "quantity": "0.10", "sequence": null, "closing": true } "#,
    )
    .unwrap();
    assert_eq!(rows.time(0), Timestamp(1_381_152_600_000_500));
    assert_eq!(rows.text(0, 1), Some(&b"BTC-USD"[..]));
    assert_eq!(rows.number(0, 2), Some(9_432_155_000_000));
    assert_eq!(rows.number(0, 3), Some(10_000_000));
    assert_eq!(rows.number(0, 4), None);
    assert_eq!(rows.number(0, 5), Some(1));
    assert_eq!(rows.key(0), Some(&b"key"[..]));
    let text = Text::from_slot(rows.slots(0)[1]);
    assert!((text.end as usize) <= rows.source().unwrap().slab().len());
}

#[test]
fn escaped_text_is_unescaped() {
    let text = START.replace("BTC-USD", r"\u00c9\ud83d\ude00\n\/") + "}";
    assert_eq!(
        one(text.as_bytes()).unwrap().text(0, 1),
        Some("É😀\n/".as_bytes())
    );
}

#[test]
fn a_record_without_a_time_field_takes_the_time_of_the_record() {
    let schema = Arc::new(Schema {
        name: "Tick".into(),
        fields: vec![field("at", Type::Time, false)],
        time: Some(0),
    });
    let mut decoder = JsonDecoder::new(schema, 0, Limits::default());
    let batch = batch(&[b"{}", br#"{"at":null}"#, br#"{"at":7}"#]);
    let rows = decoder.decode(&batch, &mut |_, poison| panic!("{poison}"));
    let times: Vec<_> = rows.heads().iter().map(|head| head.time).collect();
    assert_eq!(times, [0, 1, 7_000]);
}

#[test]
fn fields_nobody_needs_are_checked_as_json_and_nothing_more() {
    let decoder = || JsonDecoder::new(update(), 0b10, Limits::default());
    let text = START.replace("\"currentPrice\":1", "\"currentPrice\":\"no number\"");
    let rows = one_with(decoder(), format!("{text}}}").as_bytes()).unwrap();
    assert_eq!(rows.head(0).present, 0b11, "the time is always needed");
    let refused = one_with(decoder(), format!("{text},\"quantity\":01}}").as_bytes());
    assert_eq!(refused.unwrap_err().class, class::SYNTAX);
    let refused = one_with(decoder(), br#"{"timestamp":7,"pair":"P"}"#);
    assert_eq!(refused.unwrap_err().class, class::MISSING_FIELD);
}

#[test]
fn each_refusal_has_its_class_and_place() {
    let long = "x".repeat((256 << 10) + 1);
    let after = |tail: &str| format!("{START}{tail}").into_bytes();
    let with = |from: &str, to: &str| (START.replace(from, to) + "}").into_bytes();
    let deep = |levels: usize| {
        after(&format!(
            ",\"x\":{}{}}}",
            "[".repeat(levels),
            "]".repeat(levels)
        ))
    };
    assert!(
        one(&deep(63)).is_ok(),
        "the event is the first of 64 levels"
    );
    let wide = |elements: usize| after(&format!(",\"x\":[{}1]}}", "1,".repeat(elements - 1)));
    assert!(one(&wide(100_000)).is_ok());
    let cases: [(Vec<u8>, &str, &str); 40] = [
        (b"".into(), class::SYNTAX, "byte 0: EOF"),
        (b"[1]".into(), class::NOT_OBJECT, "expected a JSON object"),
        (
            b"\"secret\"".into(),
            class::NOT_OBJECT,
            "expected a JSON object",
        ),
        (after(""), class::SYNTAX, "EOF while parsing"),
        // Cut off, and wrong before that: it is the first that is told.
        (
            after(",\"quantity\":true"),
            class::SYNTAX,
            "EOF while parsing",
        ),
        (after(",}"), class::SYNTAX, "byte 70: trailing comma"),
        (after("}\n x"), class::TRAILING, "byte 72: expected the end"),
        (after(",\"x\":01}"), class::SYNTAX, "invalid number"),
        (after(",\"x\":tru}"), class::SYNTAX, "expected ident"),
        (after(",\"x\":\"\n\"}"), class::SYNTAX, "control character"),
        (after(",\"x\":\"\\q\"}"), class::SYNTAX, "invalid escape"),
        (b"{\"a\xff\":1}".into(), class::UTF8, "byte 3: not UTF-8"),
        (deep(64), class::DEPTH, "deeper than 64 levels"),
        (deep(10_000), class::DEPTH, "byte 137: nested deeper"),
        (wide(100_001), class::ARRAY, "more than 100000 elements"),
        (
            after(&format!(",\"x\":\"{long}\"}}")),
            class::STRING,
            "byte 74: string of more",
        ),
        (
            after(&format!(",\"x\":{{\"{long}\":1}}}}")),
            class::STRING,
            "byte 75: string of more",
        ),
        (
            after(&format!(",\"{long}\":1}}")),
            class::STRING,
            "string of more than 262144",
        ),
        (
            after(",\"pair\":1}"),
            class::DUPLICATE,
            "field `pair` is there twice",
        ),
        (
            after(",\"version\":1,\"version\":1}"),
            class::DUPLICATE,
            "`version`",
        ),
        (
            after(",\"p\\u0061ir\":1}"),
            class::DUPLICATE,
            "field `pair`",
        ),
        (
            b"{}".into(),
            class::MISSING_FIELD,
            "required field `timestamp` is missing",
        ),
        (
            with("\"BTC-USD\"", "null"),
            class::MISSING_FIELD,
            "`pair` is null",
        ),
        (
            with("\"BTC-USD\"", "7"),
            class::TYPE,
            "byte 43: field `pair`: expected text, found a number",
        ),
        (
            with("\"BTC-USD\"", "\"\\ud800\""),
            class::SYNTAX,
            "escape that is no character",
        ),
        (
            after(",\"closing\":1}"),
            class::TYPE,
            "expected bool, found a number",
        ),
        (
            after(",\"sequence\":[]}"),
            class::TYPE,
            "expected int, found an array",
        ),
        (
            after(",\"sequence\":1.5}"),
            class::DECIMALS,
            "more than 0 decimals",
        ),
        (
            after(",\"quantity\":1.123456789}"),
            class::DECIMALS,
            "more than 8 decimals",
        ),
        (
            after(",\"quantity\":1e400}"),
            class::EXPONENT,
            "exponent beyond 1e±30",
        ),
        (
            after(",\"quantity\":1e30}"),
            class::OVERFLOW,
            "too large for 64 bits",
        ),
        (
            after(",\"quantity\":NaN}"),
            class::NOT_FINITE,
            "byte 81: not a finite number",
        ),
        (
            after(",\"quantity\":-Infinity}"),
            class::NOT_FINITE,
            "not a finite number",
        ),
        (
            after(",\"quantity\":\"NaN\"}"),
            class::NOT_FINITE,
            "not a finite number",
        ),
        (
            after(",\"quantity\":\"secret\"}"),
            class::NUMBER_SYNTAX,
            "not a number",
        ),
        (
            with("2013-10-07T", "2013-10-07 "),
            class::TIME_SYNTAX,
            "byte 13: field `timestamp`",
        ),
        (
            with(":00Z", ":00.0000001Z"),
            class::TIME_PRECISION,
            "finer than a microsecond",
        ),
        (
            with("\"2013-10-07T13:30:00Z\"", "999999999999999"),
            class::TIME_RANGE,
            "outside the years",
        ),
        (
            after(",\"eventType\":\"secret\"}"),
            class::EVENT_TYPE,
            "than `MarketDataUpdate`",
        ),
        (after(",\"version\":2}"), class::VERSION, "up to 1"),
    ];
    for (payload, class, message) in cases {
        let shown = String::from_utf8_lossy(&payload[..payload.len().min(200)]).into_owned();
        let poison = one(&payload).expect_err(&shown);
        assert_eq!(poison.class, class, "{shown}: {poison}");
        assert!(poison.message.contains(message), "{shown}: {poison}");
        assert!(!poison.message.contains("secret"), "{poison}");
    }
}

#[test]
fn a_tombstone_and_a_huge_record_are_refused_and_the_rest_is_read() {
    let mut builder = BatchBuilder::default();
    let good = format!("{START}}}");
    let large = format!("{}{good}", " ".repeat(16 << 20));
    for value in [None, Some(large.as_bytes()), Some(good.as_bytes())] {
        builder.push(Timestamp(0), None, value, &[]);
    }
    let batch = builder.build(TopicPartition::new(Topic::new("t").unwrap(), 0), Offset(3));
    let mut refused = Vec::new();
    let rows = JsonDecoder::new(update(), NEEDED_ALL, Limits::default())
        .decode(&batch, &mut |at, poison| refused.push((at, poison.class)));
    assert_eq!(refused, [(0, class::EMPTY), (1, class::TOO_LARGE)]);
    assert_eq!(rows.len(), 1);
    assert_eq!(rows.head(0).record, 2);
}

#[test]
fn a_flood_of_refused_records_leaves_the_layout_to_those_after_it() {
    let good = format!("{START}.50}}");
    let broken = [
        format!("{START}.50"),
        good.replace("currentPrice", "price"),
        good.replace("1.50", "true"),
        good.replacen('{', "<", 1),
    ];
    let mut payloads = vec![good.as_bytes()];
    for _ in 0..50 {
        payloads.extend(broken.iter().map(String::as_bytes));
    }
    payloads.extend([good.as_bytes(); 10]);
    let mut refused = 0;
    let mut decoder = JsonDecoder::new(update(), NEEDED_ALL, Limits::default());
    let rows = decoder.decode(&batch(&payloads), &mut |_, _| refused += 1);
    assert_eq!((rows.len(), refused), (11, 200));
    assert_eq!(decoder.predicted(), 10);
}

#[test]
fn an_import_rounds_and_counts() {
    let mut decoder = JsonDecoder::new(update(), NEEDED_ALL, Limits::default()).rounding();
    let text = format!("{START}.000000005,\"quantity\":2.50}}");
    let rows = decoder.decode(&batch(&[text.as_bytes()]), &mut |_, poison| {
        panic!("{poison}")
    });
    assert_eq!(rows.number(0, 2), Some(100_000_000));
    assert_eq!(decoder.rounded(), 1);
}

#[test]
fn a_row_is_written_as_declared() {
    let text = format!("{START}.50,\"closing\":false,\"sequence\":-3}}")
        .replace("BTC-USD", r#"\"\u0001é\n"#);
    let rows = one(text.as_bytes()).unwrap();
    let mut out = b"kept".to_vec();
    JsonEncoder::new(update(), Some("MarketDataUpdate")).write(&rows, 0, &mut out);
    let expected = r#"kept{"eventType":"MarketDataUpdate","timestamp":"2013-10-07T13:30:00.000000Z","pair":"\"\u0001é\n","currentPrice":1.5,"sequence":-3,"closing":false}"#;
    assert_eq!(String::from_utf8(out).unwrap(), expected);
    for length in [60, 62, 63, 64, 65, 5_000] {
        let (mut out, long) = (Vec::new(), "x".repeat(length));
        let rows = one((START.replace("BTC-USD", &long) + "}").as_bytes()).unwrap();
        JsonEncoder::new(update(), None).write(&rows, 0, &mut out);
        let expected = r#"{"timestamp":"2013-10-07T13:30:00.000000Z","pair":"","currentPrice":1}"#
            .replace("\"\"", &format!("\"{long}\""));
        assert_eq!(String::from_utf8(out).unwrap(), expected);
    }
    let mut out = Vec::new();
    let mut empty = rows.clone();
    empty.heads_mut()[0].present = 0;
    JsonEncoder::new(update(), None).write(&empty, 0, &mut out);
    assert_eq!(out, b"{}");
}
