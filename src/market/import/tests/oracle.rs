//! Imported files against bars computed from the raw ones by `tests/oracle/bars.py`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::super::Kind;
use super::fixture::Fixture;
use crate::market::decimal::{Rounding, div, parse_exact, write_decimal_wide};

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Event<'a> {
    pair: &'a str,
    #[serde(borrow)]
    current_price: &'a RawValue,
    #[serde(borrow)]
    quantity: &'a RawValue,
}

#[derive(Debug)]
struct Bar {
    open: i64,
    high: i64,
    low: i64,
    close: i64,
    volume: i128,
    turnover: i128,
    count: u64,
}

/// The plainest computation there is, over what was imported.
async fn bars(fixture: &Fixture, micros: i64) -> BTreeMap<(String, i64), Bar> {
    let mut records = fixture.read("market-data-updates").await;
    records.sort_by_key(|record| record.time);
    let mut bars = BTreeMap::new();
    for record in &records {
        let event: Event<'_> = serde_json::from_str(&record.value).unwrap();
        let price = parse_exact(event.current_price.get().as_bytes(), 8).unwrap();
        let quantity = i128::from(parse_exact(event.quantity.get().as_bytes(), 8).unwrap());
        assert_eq!(event.pair, record.key);
        let bar = bars
            .entry((record.key.clone(), record.time.div_euclid(micros) * micros))
            .or_insert(Bar {
                open: price,
                high: price,
                low: price,
                close: price,
                volume: 0,
                turnover: 0,
                count: 0,
            });
        bar.high = bar.high.max(price);
        bar.low = bar.low.min(price);
        bar.close = price;
        bar.volume += quantity;
        bar.turnover += i128::from(price) * quantity;
        bar.count += 1;
    }
    bars
}

fn json_lines(bars: &BTreeMap<(String, i64), Bar>) -> String {
    let text = |value: i128| {
        let mut out = Vec::new();
        write_decimal_wide(value, 8, &mut out);
        String::from_utf8(out).unwrap()
    };
    let mut lines = String::new();
    for ((pair, start), bar) in bars {
        let vwap = div(bar.turnover, 16, bar.volume, 8, 8, Rounding::HalfEven).map(text);
        let line = serde_json::json!({
            "pair": pair,
            "start": jiff::Timestamp::from_microsecond(*start).unwrap().to_string(),
            "open": text(bar.open.into()),
            "high": text(bar.high.into()),
            "low": text(bar.low.into()),
            "close": text(bar.close.into()),
            "volume": text(bar.volume),
            "vwap": vwap.ok(),
            "count": bar.count.to_string(),
        });
        lines.push_str(&format!("{line}\n"));
    }
    lines
}

fn files_below(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files_below(&path));
        } else if path.extension().is_some_and(|extension| extension == "zip") {
            found.push(path);
        }
    }
    found.sort();
    found
}

#[path = "../../../../tests/skip/mod.rs"]
mod skip;

async fn agrees_with_the_oracle(files: Vec<PathBuf>) {
    let scripts = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/oracle");
    let python = |script: &str| {
        let mut command = Command::new("python3");
        command.arg(scripts.join(script));
        command
    };
    let fixture = Fixture::new();
    let Ok(oracle) = python("bars.py").args(&files).output() else {
        return skip::skip("imported bars against the oracle", "python3");
    };
    assert!(oracle.status.success(), "{oracle:?}");
    let expected = fixture.file("expected.jsonl", oracle.stdout);

    let files: Vec<&Path> = files.iter().map(PathBuf::as_path).collect();
    let mut options = fixture.options(&files);
    options.only = Some(Kind::Trade);
    fixture.run(&options).await.unwrap();
    for (window, micros) in [("1s", 1_000_000), ("1m", 60_000_000), ("5m", 300_000_000)] {
        let actual = json_lines(&bars(&fixture, micros).await);
        let actual = fixture.file(window, actual);
        let compared = python("compare.py")
            .args(["--window", window])
            .arg(&expected)
            .arg(actual)
            .output()
            .unwrap();
        assert!(
            compared.status.success(),
            "{window}: {}{}",
            String::from_utf8_lossy(&compared.stdout),
            String::from_utf8_lossy(&compared.stderr)
        );
    }
}

#[tokio::test]
async fn the_bundled_market_gives_the_bars_of_the_oracle() {
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("pipelines/data");
    agrees_with_the_oracle(files_below(&data)).await;
}

#[tokio::test]
async fn a_real_day_gives_the_bars_of_the_oracle() {
    let data = std::env::var_os("TIDEMILL_DATA").filter(|data| !data.is_empty());
    let Some(data) = data else {
        return skip::skip("an import of real days", "data");
    };
    let lean = Path::new(&data).join("lean");
    let files = [
        "equity/usa/tick/ibm/20131007_trade.zip",
        "equity/usa/tick/bac/20131008_trade.zip",
        "crypto/coinbase/second/btcusd/20161007_trade.zip",
        "crypto/coinbase/minute/ethusd/20170904_trade.zip",
    ];
    let files: Vec<PathBuf> = files.map(|file| lean.join(file)).into_iter().collect();
    let there: Vec<PathBuf> = files.into_iter().filter(|file| file.exists()).collect();
    if there.is_empty() {
        return skip::skip("an import of real days", "data");
    }
    agrees_with_the_oracle(there).await;
}
