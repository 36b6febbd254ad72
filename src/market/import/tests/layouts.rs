//! Golden events of each layout.

use std::sync::Arc;
use std::time::Duration;

use super::super::{Kind, Mapping};
use super::fixture::Fixture;

const TICKS: &str = "equity/usa/tick/ibm/20131007_trade.zip";

#[tokio::test]
async fn lean_equity_ticks_are_in_the_time_of_new_york_and_scaled() {
    let fixture = Fixture::new();
    let file = fixture.zip(
        TICKS,
        "34200000,1815200,283,P,20002020,0\n\
         34200000,1815250,100,,2000,0\n\
         34200001,1815201,50,P,20,1\n\
         34200001,1815202,0,P,20,0\n\
         34200002,0,5,P,20,0\n",
    );
    let report = fixture.run(&fixture.options(&[&file])).await.unwrap();
    assert_eq!(
        fixture.updates().await,
        [
            "2013-10-07T13:30:00.000000Z IBM 181.52,quantity:283,venue:P,sequence:1",
            "2013-10-07T13:30:00.000000Z IBM 181.525,quantity:100,sequence:2",
        ]
    );
    assert_eq!(
        fixture.suspects().await,
        [
            "suspicious 20131007_trade.zip:3 2013-10-07T13:30:00.001000Z IBM 181.5201,quantity:50,venue:P,sequence:3",
            "zero-size 20131007_trade.zip:4 2013-10-07T13:30:00.001000Z IBM 181.5202,quantity:0,venue:P,sequence:4",
            "zero-price 20131007_trade.zip:5 2013-10-07T13:30:00.002000Z IBM 0,quantity:5,venue:P,sequence:5",
        ]
    );
    let record = &fixture.read("market-data-updates").await[0];
    assert_eq!(
        (record.time, record.key.as_str()),
        (1_381_152_600_000_000, "IBM")
    );
    assert!(record.headers.is_empty());
    assert_eq!(report.files, 1);
    assert_eq!((report.counts.records, report.counts.suspicious), (2, 3));
    assert_eq!((report.written, report.exactly_once), (5, true));
    assert_eq!(
        report.counts.first.unwrap().0 + 2_000,
        report.counts.last.unwrap().0
    );
}

#[tokio::test]
async fn lean_equity_quotes_have_a_mid_and_one_sided_ones_are_set_aside() {
    let fixture = Fixture::new();
    let file = fixture.zip(
        "equity/usa/tick/ibm/20131007_quote.zip",
        "34200000,1800100,300,1800200,400,Q,1,0\n\
         34200001,0,0,1836300,100,Q,1,0\n\
         34200002,1800100,200,0,0,P,1,0\n\
         34200003,1800100,300,1800200,400,Q,1,1\n\
         34200004,1800100,0,1800200,400,Q,1,0\n",
    );
    fixture.run(&fixture.options(&[&file])).await.unwrap();
    assert_eq!(
        fixture.updates().await,
        [
            "2013-10-07T13:30:00.000000Z IBM 180.015,bid:180.01,bidQuantity:300,ask:180.02,askQuantity:400,venue:Q,sequence:1"
        ]
    );
    let suspects = fixture.suspects().await;
    assert_eq!(
        suspects[0],
        "one-sided-quote 20131007_quote.zip:2 2013-10-07T13:30:00.001000Z IBM 183.63,ask:183.63,askQuantity:100,venue:Q,sequence:2"
    );
    assert_eq!(
        suspects[1],
        "one-sided-quote 20131007_quote.zip:3 2013-10-07T13:30:00.002000Z IBM 180.01,bid:180.01,bidQuantity:200,venue:P,sequence:3"
    );
    assert!(suspects[2].starts_with("suspicious "));
    assert!(suspects[3].starts_with("zero-size "));
}

#[tokio::test]
async fn a_bar_becomes_four_updates_and_floats_are_rounded_and_counted() {
    let fixture = Fixture::new();
    let file = fixture.zip(
        "crypto/coinbase/second/btcusd/20161007_trade.zip",
        "4000,611.78,611.87,611.77,8.880099999999999e2,0.60046\n",
    );
    // The close lies above the high.
    let error = fixture.run(&fixture.options(&[&file])).await.unwrap_err();
    assert!(
        error.to_string().ends_with(
            "20161007_trade.zip:1:27: expected open and close between low and high, found `8.880099999999999e2`"
        ),
        "{error}"
    );
    let file = fixture.zip(
        "crypto/coinbase/second/btcusd/20161007_trade.zip",
        "4000,611.78,611.87,611.77,611.780099999999999,0.60046\n5000,1,1,1,1,0\n",
    );
    let report = fixture.run(&fixture.options(&[&file])).await.unwrap();
    assert_eq!(
        fixture.updates().await,
        [
            "2016-10-07T00:00:04.000000Z BTCUSD 611.78,quantity:0,venue:coinbase,sequence:1",
            "2016-10-07T00:00:04.250000Z BTCUSD 611.87,quantity:0,venue:coinbase,sequence:1",
            "2016-10-07T00:00:04.500000Z BTCUSD 611.77,quantity:0,venue:coinbase,sequence:1",
            "2016-10-07T00:00:04.750000Z BTCUSD 611.7801,quantity:0.60046,venue:coinbase,sequence:1",
        ]
    );
    assert_eq!(report.counts.rounded, 1);
    assert_eq!(report.counts.suspicious, 1);
}

#[tokio::test]
async fn an_equity_bar_is_scaled_and_a_quote_bar_has_both_sides() {
    let fixture = Fixture::new();
    let trades = fixture.zip(
        "equity/usa/minute/spy/20131007_trade.zip",
        "34200000,1680000,1690000,1670000,1685000,1200\n",
    );
    let quotes = fixture.zip(
        "crypto/coinbase/minute/ethusd/20180404_quote.zip",
        "0,416.15,416.15,416.15,416.15,0.34307688999999997,416.16,416.16,416.16,416.16,47.8553\n\
         60000,,,,,0,415.01,415.01,415.01,415.01,1\n",
    );
    let mut options = fixture.options(&[&trades, &quotes]);
    let error = fixture.run(&options).await.unwrap_err().to_string();
    assert!(error.contains("topics of their own"), "{error}");
    options.only = Some(Kind::Trade);
    fixture.run(&options).await.unwrap();
    options.only = Some(Kind::Quote);
    let report = fixture.run(&options).await.unwrap();
    let updates = fixture.updates().await;
    assert_eq!(
        updates[3],
        "2013-10-07T13:30:45.000000Z SPY 168.5,quantity:1200,sequence:1"
    );
    assert_eq!(
        updates[7],
        "2018-04-04T00:00:45.000000Z ETHUSD 416.155,bid:416.15,bidQuantity:0.34307689,ask:416.16,askQuantity:47.8553,venue:coinbase,sequence:1"
    );
    assert_eq!((report.counts.records, report.counts.rounded), (4, 1));
    assert!(fixture.suspects().await[0].starts_with("one-sided-quote"));
}

#[tokio::test]
async fn binance_files_are_read_with_names_or_without_in_either_unit_of_time() {
    let fixture = Fixture::new();
    let trades = fixture.file(
        "BTCUSDT-trades-2024-12-31.csv",
        "id,price,qty,quote_qty,time,is_buyer_maker,is_best_match\n\
         7,93000.10,0.5,46500.05,1735689599123,True,True\n",
    );
    let agg = fixture.zip(
        "BTCUSDT-aggTrades-2025-01-01.zip",
        "9,93000.20,0.25,7,8,1735689600123456,false,true\n",
    );
    let klines = fixture.file(
        "BTCUSDT-1m-2025-01-02.csv",
        "1735776000000000,1,4,0.5,2,10,1735776059999999,20,3,1,1,0\n",
    );
    fixture
        .run(&fixture.options(&[&klines, &agg, &trades]))
        .await
        .unwrap();
    assert_eq!(
        fixture.updates().await,
        [
            "2024-12-31T23:59:59.123000Z BTCUSDT 93000.1,quantity:0.5,side:sell,venue:binance,tradeId:7,sequence:2",
            "2025-01-01T00:00:00.123456Z BTCUSDT 93000.2,quantity:0.25,side:buy,venue:binance,tradeId:9,sequence:1",
            "2025-01-02T00:00:00.000000Z BTCUSDT 1,quantity:0,venue:binance,sequence:1",
            "2025-01-02T00:00:15.000000Z BTCUSDT 4,quantity:0,venue:binance,sequence:1",
            "2025-01-02T00:00:30.000000Z BTCUSDT 0.5,quantity:0,venue:binance,sequence:1",
            "2025-01-02T00:00:45.000000Z BTCUSDT 2,quantity:10,venue:binance,sequence:1",
        ]
    );
}

#[tokio::test]
async fn ohlcv_takes_its_columns_by_name_and_the_length_of_a_bar_from_two_lines() {
    let fixture = Fixture::new();
    let file = fixture.file(
        "bars.csv",
        "\u{feff}Symbol,Date,Volume,Open,High,Low,Close\r\n\
         X,2024-01-31 09:30:00,10,1,4,0.5,2\r\n\
         X,2024-01-31T09:31:00Z,20,2,2,2,2\r\n",
    );
    let mut options = fixture.options(&[&file]);
    let error = fixture.run(&options).await.unwrap_err().to_string();
    assert!(
        error.ends_with("its path does not tell the pair; give --pair"),
        "{error}"
    );
    options.pair = Some("X-USD".into());
    fixture.run(&options).await.unwrap();
    let updates = fixture.updates().await;
    assert_eq!(updates.len(), 8);
    assert_eq!(
        updates[3],
        "2024-01-31T09:30:45.000000Z X-USD 2,quantity:10,sequence:2"
    );
    assert_eq!(
        updates[4],
        "2024-01-31T09:31:00.000000Z X-USD 2,quantity:0,sequence:3"
    );
}

/// Of bars without names of columns, the length could not be told.
#[tokio::test]
async fn a_byte_order_mark_before_the_first_line_changes_nothing_in_any_layout() {
    for (name, text) in [
        (
            "ours.jsonl",
            r#"{"eventType":"MarketDataUpdate","timestamp":"2024-01-31T09:30:00Z","pair":"A","currentPrice":4.5}"#,
        ),
        (
            "foreign.jsonl",
            r#"{"timestamp":"2024-01-31T09:30:00Z","currentPrice":4.5}"#,
        ),
        (
            "BTCUSDT-trades-2025-01-02.csv",
            "1,42000.5,0.25,10500.125,1735776000000000,True,True\n",
        ),
        (
            "BTCUSDT-aggTrades-2025-01-02.csv",
            "1,42000.5,0.25,1,2,1735776000000000,True,True\n",
        ),
        (
            "BTCUSDT-1m-2025-01-02.csv",
            "1735776000000000,1,4,0.5,2,10,1735776059999999,20,3,5,10,0\n",
        ),
        (
            "bars.csv",
            "2024-01-31 09:30:00,1,4,0.5,2,10\n2024-01-31 09:31:00,2,2,2,2,20\n",
        ),
        (
            "named.csv",
            "Date,Open,High,Low,Close,Volume\n2024-01-31 09:30:00,1,4,0.5,2,10\n2024-01-31 09:31:00,2,2,2,2,20\n",
        ),
    ] {
        let mut found = Vec::new();
        for mark in ["", "\u{feff}"] {
            let fixture = Fixture::new();
            let file = fixture.file(name, format!("{mark}{text}"));
            let mut options = fixture.options(&[&file]);
            options.pair = Some("A".into());
            fixture.run(&options).await.unwrap();
            found.push(fixture.updates().await);
        }
        assert!(!found[0].is_empty(), "{name}");
        assert_eq!(found[0], found[1], "{name}");
    }
}

#[tokio::test]
async fn json_lines_of_ours_are_kept_byte_for_byte_and_foreign_ones_are_mapped() {
    let fixture = Fixture::new();
    let line = r#"{"eventType":"MarketDataUpdate", "timestamp":"2024-01-31T09:30:00Z","pair":"BTC-USD","currentPrice":42000.50,"extra":[1,{"a":2}]}"#;
    let ours = fixture.file("ours.jsonl", format!("{line}\n\n"));
    let foreign = fixture.file(
        "foreign.jsonl",
        r#"{"s":"ETH-USD","p":"2500.123456789","q":"0.1","T":1706693400001,"id":"a-1"}"#,
    );
    fixture.run(&fixture.options(&[&ours])).await.unwrap();
    let mut options = fixture.options(&[&foreign]);
    options.mapping = Arc::new(
        Mapping::new([
            "s=pair",
            "p=currentPrice",
            "q=quantity",
            "T=timestamp",
            "id=tradeId",
        ])
        .unwrap(),
    );
    let report = fixture.run(&options).await.unwrap();
    let records = fixture.read("market-data-updates").await;
    assert_eq!(records[0].value, line);
    assert_eq!(records[0].key, "BTC-USD");
    assert_eq!(
        records[1].value,
        r#"{"eventType":"MarketDataUpdate","timestamp":"2024-01-31T09:30:00.001000Z","version":1,"pair":"ETH-USD","currentPrice":2500.12345679,"quantity":0.1,"tradeId":"a-1","sequence":1}"#
    );
    assert_eq!(report.counts.rounded, 1);
    for bad in ["price", "a=b", "a=pair,b=pair"] {
        assert!(bad.parse::<Mapping>().is_err(), "{bad}");
    }
}

#[tokio::test]
async fn files_are_merged_by_event_time_and_ties_go_by_the_order_of_the_files() {
    let fixture = Fixture::new();
    let ibm = fixture.zip(
        TICKS,
        "1000,10000,1,P,0,0\n1000,20000,2,P,0,0\n3000,30000,3,P,0,0\n",
    );
    let bac = fixture.zip(
        "equity/usa/tick/bac/20131007_trade.zip",
        "1000,40000,4,P,0,0\n2000,50000,5,P,0,0\n1500,60000,6,P,0,0\n",
    );
    let next = fixture.zip(
        "equity/usa/tick/ibm/20131008_trade.zip",
        "1000,70000,7,P,0,0\n",
    );
    let report = fixture
        .run(&fixture.options(&[&next, &bac, &ibm]))
        .await
        .unwrap();
    let prices: Vec<String> = fixture
        .updates()
        .await
        .iter()
        .map(|update| update.split(&[' ', ','][..]).nth(2).unwrap().to_owned())
        .collect();
    // 6 comes after 5 although its time is earlier: the order within a file is kept.
    assert_eq!(prices, ["4", "1", "2", "5", "6", "3", "7"]);
    assert_eq!(report.counts.backwards, 1);
}

/// The texts were once joined by commas again, and `1,234` was read as a volume of 1.
#[tokio::test]
async fn a_comma_within_a_field_is_no_end_of_it_whatever_the_order_of_columns() {
    for (name, line, column) in [
        (
            "Date,Close,Open,High,Low,Volume",
            "2024-01-30,2,1,3,1,\"1,234\"",
            21,
        ),
        (
            "Date,Open,High,Low,Close,Volume",
            "2024-01-30,1,3,1,2,\"1,234\"",
            21,
        ),
        (
            "Date,Close,Open,High,Low,Volume",
            "2024-01-30,2,1,3,1,1,234",
            22,
        ),
        (
            "Date,Open,High,Low,Close,Volume",
            "2024-01-30,1,3,1,2,1,234",
            22,
        ),
        (
            "Date,Close,Open,High,Low,Volume",
            "2024-01-30,x,1,3,1,5",
            12,
        ),
        ("Date,Volume,Open,High,Low,Close", "2024-01-30,5,1,3,1", 19),
    ] {
        let fixture = Fixture::new();
        let file = fixture.file("bars.csv", format!("{name}\n{line}\n"));
        let mut options = fixture.options(&[&file]);
        options.pair = Some("X".into());
        options.bar = Some(Duration::from_secs(60));
        let error = fixture.run(&options).await.unwrap_err().to_string();
        let place = format!("bars.csv:2:{column}: expected ");
        assert!(error.contains(&place), "{line}: {error}");
    }
}

/// `20240130` was once read as so many seconds: August 1970.
#[tokio::test]
async fn dates_without_anything_between_their_parts_are_dates() {
    let fixture = Fixture::new();
    let file = fixture.file(
        "bars.csv",
        "20240130,1,1,1,1,5\n\
         202401310930,1,1,1,1,6\n\
         20240201093000,1,1,1,1,7\n\
         1706866200,1,1,1,1,8\n",
    );
    let mut options = fixture.options(&[&file]);
    options.pair = Some("X".into());
    options.bar = Some(Duration::from_secs(60));
    fixture.run(&options).await.unwrap();
    let closes: Vec<String> = fixture
        .updates()
        .await
        .into_iter()
        .skip(3)
        .step_by(4)
        .collect();
    assert_eq!(
        closes,
        [
            "2024-01-30T00:00:45.000000Z X 1,quantity:5,sequence:1",
            "2024-01-31T09:30:45.000000Z X 1,quantity:6,sequence:2",
            "2024-02-01T09:30:45.000000Z X 1,quantity:7,sequence:3",
            "2024-02-02T09:30:45.000000Z X 1,quantity:8,sequence:4",
        ]
    );
    // Before 1970, as a date it is: not some day after.
    let file = fixture.file("old.csv", "19290115,1,1,1,1,5\n");
    options.files = vec![file];
    let error = fixture.run(&options).await.unwrap_err().to_string();
    assert!(error.contains("old.csv:1:1: expected timestamp"), "{error}");
}

/// Friday and Monday were once taken for bars of three days.
#[tokio::test]
async fn the_length_of_a_bar_is_the_least_time_between_two() {
    let fixture = Fixture::new();
    let file = fixture.file(
        "bars.csv",
        "Date,Open,High,Low,Close,Volume\n\
         2024-01-26,1,1,1,1,5\n\
         2024-01-29,1,1,1,1,6\n\
         2024-01-30,1,1,1,1,7\n",
    );
    let mut options = fixture.options(&[&file]);
    options.pair = Some("X".into());
    let report = fixture.run(&options).await.unwrap();
    assert_eq!(
        fixture.updates().await[3],
        "2024-01-26T18:00:00.000000Z X 1,quantity:5,sequence:2"
    );
    assert_eq!(report.counts.lines, 3, "the names of columns are no bar");
    assert_eq!(report.guessed_bar_micros, [86_400_000_000]);
}

/// Foreign lines without a mapping were once read in milliseconds whatever the size: January 1970.
#[tokio::test]
async fn the_unit_of_a_foreign_time_goes_by_its_size_with_a_mapping_or_without() {
    let ours =
        r#"{"eventType":"MarketDataUpdate","timestamp":1700000000,"pair":"X","currentPrice":1}"#;
    let foreign = r#"{"timestamp":1700000000,"pair":"X","currentPrice":1}"#;
    for (line, mapping, micros) in [
        (foreign, "", 1_700_000_000_000_000),
        (foreign, "id=tradeId", 1_700_000_000_000_000),
        (ours, "", 1_700_000_000_000),
        (ours, "id=tradeId", 1_700_000_000_000),
    ] {
        let fixture = Fixture::new();
        let file = fixture.file("x.jsonl", line);
        let mut options = fixture.options(&[&file]);
        options.mapping = Arc::new(mapping.parse().unwrap());
        fixture.run(&options).await.unwrap();
        let time = fixture.read("market-data-updates").await[0].time;
        assert_eq!(time, micros, "{line} with `{mapping}`");
    }
}

#[tokio::test]
async fn a_bar_with_any_price_of_zero_is_set_aside() {
    let fixture = Fixture::new();
    let trades = fixture.zip(
        "crypto/coinbase/second/btcusd/20161007_trade.zip",
        "4000,0,2,0,1,5\n5000,1,2,0,1,5\n6000,1,2,1,1,5\n",
    );
    let quotes = fixture.zip(
        "crypto/coinbase/second/btcusd/20161007_quote.zip",
        "4000,1,2,0,1,5,3,3,3,3,5\n5000,1,2,1,1,5,0,3,0,3,5\n6000,1,1,1,1,5,3,3,3,3,5\n",
    );
    let mut options = fixture.options(&[&trades, &quotes]);
    for kind in [Kind::Trade, Kind::Quote] {
        options.only = Some(kind);
        fixture.run(&options).await.unwrap();
    }
    assert_eq!(fixture.updates().await.len(), 8);
    let suspects = fixture.suspects().await;
    let reasons = suspects.iter().map(|line| line.split(' ').next().unwrap());
    assert_eq!(
        reasons.collect::<Vec<_>>(),
        [
            "zero-price",
            "zero-price",
            "one-sided-quote",
            "one-sided-quote"
        ]
    );
}

#[tokio::test]
async fn an_empty_side_of_a_quote_is_absent_as_one_of_zero_is() {
    let fixture = Fixture::new();
    let file = fixture.zip(
        "crypto/coinbase/tick/btcusd/20161007_quote.zip",
        "4000,,,3,5,0\n4000,1,5,,0,0\n",
    );
    fixture.run(&fixture.options(&[&file])).await.unwrap();
    let suspects = fixture.suspects().await;
    assert!(suspects[0].starts_with("one-sided-quote "), "{suspects:?}");
    assert!(
        suspects[0].contains(" 3,ask:3,askQuantity:5,"),
        "{suspects:?}"
    );
    assert!(
        suspects[1].contains(" 1,bid:1,bidQuantity:5,"),
        "{suspects:?}"
    );
}

/// They were once taken for times of UTC, whatever was said.
#[tokio::test]
async fn times_of_bars_without_a_zone_are_of_the_zone_that_is_given() {
    for (line, zone, expected) in [
        (
            "2024-01-31 09:30:00",
            Some("America/New_York"),
            "2024-01-31T14:30:00",
        ),
        (
            "2024-07-31T09:30:00",
            Some("America/New_York"),
            "2024-07-31T13:30:00",
        ),
        (
            "202401310930",
            Some("America/New_York"),
            "2024-01-31T14:30:00",
        ),
        (
            "2024-01-31",
            Some("America/New_York"),
            "2024-01-31T05:00:00",
        ),
        ("2024-01-31 09:30:00", None, "2024-01-31T09:30:00"),
    ] {
        let fixture = Fixture::new();
        // What says its offset is meant as it says.
        let text = format!("{line},1,1,1,1,5\n2024-12-31T00:00:00Z,1,1,1,1,5\n");
        let mut options = fixture.options(&[&fixture.file("bars.csv", text)]);
        options.pair = Some("X".into());
        options.bar = Some(Duration::from_secs(60));
        options.zone = zone.map(Into::into);
        fixture.run(&options).await.unwrap();
        let updates = fixture.updates().await;
        assert!(updates[0].starts_with(expected), "{line}: {updates:?}");
        assert!(
            updates[4].starts_with("2024-12-31T00:00:00."),
            "{updates:?}"
        );
    }
}

#[tokio::test]
async fn files_one_after_the_other_take_event_time_back_and_together_do_not() {
    let bars = |minute: u32| {
        format!("2024-01-31T09:{minute}:00Z,1,1,1,1,5\n2024-01-31T10:{minute}:00Z,1,1,1,1,5\n")
    };
    let one_by_one = Fixture::new();
    let together = Fixture::new();
    for (fixture, at_once) in [(&one_by_one, false), (&together, true)] {
        let files = [10, 20].map(|minute| fixture.file(&format!("{minute}.csv"), bars(minute)));
        let mut options = fixture.options(&[]);
        options.pair = Some("X".into());
        options.bar = Some(Duration::from_secs(60));
        if at_once {
            options.files = files.to_vec();
            assert!(!fixture.run(&options).await.unwrap().goes_back);
            // Done already: nothing goes anywhere.
            assert!(!fixture.run(&options).await.unwrap().goes_back);
            continue;
        }
        for (file, goes_back) in files.into_iter().zip([false, true]) {
            options.files = vec![file];
            assert_eq!(fixture.run(&options).await.unwrap().goes_back, goes_back);
        }
    }
    let times = |read: &[super::fixture::Read]| read.iter().map(|one| one.time).collect::<Vec<_>>();
    let together = times(&together.read("market-data-updates").await);
    assert!(together.is_sorted());
    assert!(!times(&one_by_one.read("market-data-updates").await).is_sorted());
}
