//! Telling a file's layout, pair, day and venue from its path and its first lines.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use jiff::civil::Date;
use jiff::tz::TimeZone;

use super::container;
use super::day::Day;
use super::error::{BadLine, Error, Result};
use super::fields::Fields;
use super::item::Scales;
use super::layout::{Kind, Layout, Resolution, Security, Setting};
use super::lines::{Line, Lines};
use super::ohlcv;
use super::options::Options;

/// What is known of a file before it is read.
#[derive(Debug, Clone)]
pub(super) struct Detected {
    pub(super) setting: Setting,
    /// Empty where each line has its own.
    pub(super) pair: Arc<str>,
    pub(super) venue: Option<Arc<str>>,
    /// What of the above decides about the outcome, as text: nothing else, or a file would not be known
    /// again when it is given with an option that means nothing to it.
    pub(super) fingerprint: String,
    /// Options that mean something to it.
    pub(super) heeds: Heeds,
    /// The length of its bars, where nobody said it.
    pub(super) guessed_bar: Option<Duration>,
}

/// Which options mean something to a file.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Heeds {
    /// `--date`: its times count from midnight.
    pub(super) date: bool,
    /// `--zone`: its times are those of clocks on a wall.
    pub(super) zone: bool,
    /// `--bar`: it has bars, and does not say how long they are.
    pub(super) bar: bool,
    /// `--map`: it names its fields.
    pub(super) map: bool,
}

/// What a path tells.
#[derive(Debug, Default, PartialEq)]
struct Told {
    layout: Option<Layout>,
    pair: Option<String>,
    date: Option<Date>,
    /// What stands where the date belongs and is none.
    no_day: Option<String>,
    market: Option<String>,
}

/// Tells what a file is.
pub(super) fn detect(path: &Path, options: &Options) -> Result<Detected> {
    let unclear = |what: &str| Error::Unclear {
        path: path.to_path_buf(),
        what: what.to_owned(),
    };
    let told = from_path(path);
    let layout = match options.layout.or(told.layout) {
        Some(layout) => layout,
        None => from_content(path)?.ok_or_else(|| {
            unclear(
                "neither its path nor its first line tells its layout; give --format, or lay the \
                 files out as the source does",
            )
        })?,
    };
    let pair = match options.pair.clone().or(told.pair) {
        Some(pair) => pair,
        None if layout == Layout::Json => String::new(),
        None => return Err(unclear("its path does not tell the pair; give --pair")),
    };
    let heeds = Heeds {
        date: matches!(layout, Layout::Lean { .. }),
        zone: match layout {
            Layout::Lean { .. } => true,
            // Whether it does is not looked for where nobody asks.
            Layout::Ohlcv => options.zone.is_some() && has_local_times(path)?,
            _ => false,
        },
        bar: layout == Layout::Ohlcv,
        map: layout == Layout::Json,
    };
    let date = options.date.filter(|_| heeds.date).or(told.date);
    if let (Layout::Lean { .. }, None, Some(no_day)) = (layout, date, &told.no_day) {
        return Err(unclear(&format!(
            "`{no_day}` in its name is no day; name it YYYYMMDD_trade or YYYYMMDD_quote, or give --date"
        )));
    }
    let zone = if heeds.zone {
        zone(layout, told.market.as_deref(), options).map_err(|what| unclear(&what))?
    } else {
        TimeZone::UTC
    };
    let zone_name = zone.iana_name().unwrap_or("UTC").to_owned();
    let day = match (layout, date) {
        (Layout::Lean { .. }, Some(date)) => {
            Some(Day::new(date, zone.clone()).map_err(|error| unclear(&error.to_string()))?)
        }
        _ => None,
    };
    let bar = match layout {
        Layout::Ohlcv => match options.bar {
            Some(bar) => Some(bar),
            None => spacing(path, &zone)?,
        },
        _ => None,
    };
    let mapping = if heeds.map {
        options.mapping.clone()
    } else {
        Arc::default()
    };
    let venue = match layout {
        // Of an equity each tick names its exchange; the market is a country.
        Layout::Lean {
            security: Security::Equity,
            ..
        } => None,
        Layout::BinanceTrades | Layout::BinanceAggTrades | Layout::BinanceKlines => {
            Some("binance".to_owned())
        }
        _ => told.market,
    };
    let setting = Setting {
        layout,
        scales: Scales {
            price: options.price_scale,
            quantity: options.quantity_scale,
        },
        day,
        zone,
        bar,
        mapping,
    };
    let fingerprint = format!(
        "{layout}|{pair}|{date:?}|{zone_name}|{venue:?}|{bar:?}|{}|{}|{}",
        options.price_scale, options.quantity_scale, setting.mapping
    );
    Ok(Detected {
        setting,
        pair: Arc::from(pair),
        venue: venue.map(Arc::from),
        fingerprint,
        heeds,
        guessed_bar: bar.filter(|_| options.bar.is_none()),
    })
}

fn zone(layout: Layout, market: Option<&str>, options: &Options) -> Result<TimeZone, String> {
    if let Some(zone) = &options.zone {
        return TimeZone::get(zone).map_err(|error| format!("unknown time zone `{zone}`: {error}"));
    }
    match layout {
        Layout::Lean {
            security: Security::Equity,
            ..
        } => match market {
            None | Some("usa") => {
                TimeZone::get("America/New_York").map_err(|error| error.to_string())
            }
            Some(market) => Err(format!(
                "the time zone of market `{market}` is not known; give --zone"
            )),
        },
        _ => Ok(TimeZone::UTC),
    }
}

/// `.../{equity|crypto}/MARKET/{tick|second|minute}/SYMBOL/YYYYMMDD_{trade|quote}.{zip|csv}`, or
/// `PAIR-{trades|aggTrades|INTERVAL}-...`.
fn from_path(path: &Path) -> Told {
    let stem = path.file_stem().and_then(|stem| stem.to_str());
    let Some(stem) = stem else {
        return Told::default();
    };
    let parents: Vec<&str> = path
        .parent()
        .into_iter()
        .flat_map(Path::components)
        .filter_map(|part| part.as_os_str().to_str())
        .collect();
    let mut told = Told::default();
    if let Some((date, kind)) = stem.split_once('_')
        && is_eight_digits(date)
        && let Ok(kind) = kind.parse::<Kind>()
    {
        told.date = day(date);
        if told.date.is_none() {
            told.no_day = Some(date.to_owned());
        }
        if let [.., security, market, resolution, symbol] = parents[..] {
            told.layout = lean(security, resolution, kind);
            if told.layout.is_some() {
                told.pair = Some(symbol.to_ascii_uppercase());
                told.market = Some(market.to_ascii_lowercase());
            }
        }
        if told.date.is_some() || told.layout.is_some() {
            return told;
        }
    }
    let extension = path.extension().and_then(|extension| extension.to_str());
    if extension.is_some_and(|extension| extension == "jsonl" || extension == "ndjson") {
        told.layout = Some(Layout::Json);
        return told;
    }
    if let Some((pair, rest)) = stem.split_once('-')
        && pair.bytes().all(|byte| byte.is_ascii_alphanumeric())
    {
        let kind = rest.split('-').next().unwrap_or_default();
        told.layout = match kind {
            "trades" => Some(Layout::BinanceTrades),
            "aggTrades" => Some(Layout::BinanceAggTrades),
            _ if is_interval(kind) => Some(Layout::BinanceKlines),
            _ => None,
        };
        if told.layout.is_some() {
            told.pair = Some(pair.to_ascii_uppercase());
        }
    }
    told
}

fn lean(security: &str, resolution: &str, kind: Kind) -> Option<Layout> {
    Some(Layout::Lean {
        security: match security.to_ascii_lowercase().as_str() {
            "equity" => Security::Equity,
            "crypto" | "cryptofuture" => Security::Crypto,
            _ => return None,
        },
        resolution: match resolution.to_ascii_lowercase().as_str() {
            "tick" => Resolution::Tick,
            "second" => Resolution::Second,
            "minute" => Resolution::Minute,
            _ => return None,
        },
        kind,
    })
}

fn is_eight_digits(text: &str) -> bool {
    text.len() == 8 && text.bytes().all(|byte| byte.is_ascii_digit())
}

fn day(text: &str) -> Option<Date> {
    is_eight_digits(text)
        .then(|| {
            jiff::fmt::strtime::parse("%Y%m%d", text)
                .ok()?
                .to_date()
                .ok()
        })
        .flatten()
}

/// `1s`, `5m`, `1h`, `1d`, `1w`, `1mo`.
fn is_interval(text: &str) -> bool {
    let unit = text.trim_start_matches(|char: char| char.is_ascii_digit());
    unit.len() < text.len() && matches!(unit, "s" | "m" | "h" | "d" | "w" | "mo" | "M")
}

/// The first two lines of a file; empty where there are none.
fn first_lines(path: &Path) -> Result<[String; 2]> {
    let mut lines: Lines = container::open(path)?.lines;
    let mut first = [String::new(), String::new()];
    let mut line = Vec::new();
    for text in &mut first {
        match lines.next(&mut line) {
            Ok(Line::Whole) => *text = String::from_utf8_lossy(&line).into_owned(),
            // It alone may tell the layout.
            Ok(Line::TooLong) if lines.number() == 1 => {
                return Err(BadLine::too_long().at(path, 1));
            }
            Ok(Line::TooLong | Line::End) => break,
            Err(source) => return Err(unreadable(path, source)),
        }
    }
    Ok(first)
}

fn unreadable(path: &Path, source: std::io::Error) -> Error {
    Error::Io {
        doing: "read",
        path: path.to_path_buf(),
        source,
    }
}

fn from_content(path: &Path) -> Result<Option<Layout>> {
    let [first, second] = first_lines(path)?;
    if first.is_empty() {
        return Err(Error::Unclear {
            path: path.to_path_buf(),
            what: "is empty; leave it out".into(),
        });
    }
    Ok(by_lines(&first, &second))
}

fn by_lines(first: &str, second: &str) -> Option<Layout> {
    if first.trim_start().starts_with('{') {
        return Some(Layout::Json);
    }
    let columns = |line: &str| -> Vec<String> {
        let mut fields = Fields::new(line);
        std::iter::from_fn(|| fields.try_text().map(|field| field.text.to_owned())).collect()
    };
    let names = columns(first);
    let name = |index: usize| names.get(index).map(String::as_str);
    match (name(0), name(1)) {
        (Some("agg_trade_id"), _) => return Some(Layout::BinanceAggTrades),
        (Some("id"), Some("price")) => return Some(Layout::BinanceTrades),
        (Some("open_time"), _) if names.len() == 12 => return Some(Layout::BinanceKlines),
        _ => {}
    }
    if ohlcv::names(first).is_some() {
        return Some(Layout::Ohlcv);
    }
    let row = if names.first().is_some_and(|name| is_number(name)) {
        names
    } else {
        columns(second)
    };
    let truth = |index: usize| {
        row.get(index)
            .is_some_and(|text| matches!(text.to_ascii_lowercase().as_str(), "true" | "false"))
    };
    match row.len() {
        12 => Some(Layout::BinanceKlines),
        8 if truth(6) => Some(Layout::BinanceAggTrades),
        7 if truth(5) => Some(Layout::BinanceTrades),
        7 if truth(6) => Some(Layout::BinanceAggTrades),
        6 if truth(5) => Some(Layout::BinanceTrades),
        6 if row[1..].iter().all(|text| is_number(text)) => Some(Layout::Ohlcv),
        _ => None,
    }
}

fn is_number(text: &str) -> bool {
    crate::market::decimal::parse_rounded(text.as_bytes(), 0).is_ok()
}

/// The least time between two bars of a file that follow each other, which is taken for the length of all:
/// before a weekend or a gap it is longer.
fn spacing(path: &Path, zone: &TimeZone) -> Result<Option<Duration>> {
    let (mut before, mut least) = (None, None);
    times(path, |text| {
        let time = ohlcv::instant(text, zone)?;
        if let Some(before) = before.replace(time.0) {
            let apart = time.0.abs_diff(before);
            if apart > 0 && least.is_none_or(|least| apart < least) {
                least = Some(apart);
            }
        }
        None::<()>
    })?;
    Ok(least.map(Duration::from_micros))
}

/// Whether any time of a file of bars depends on the zone it is of.
fn has_local_times(path: &Path) -> Result<bool> {
    let found = times(path, |text| ohlcv::local(text).map(|_| ()))?;
    Ok(found.is_some())
}

/// Goes through the times of a file of bars, as text, until `take` has what it wants. What is wrong with a
/// line is told when it is read.
fn times<T>(path: &Path, mut take: impl FnMut(&str) -> Option<T>) -> Result<Option<T>> {
    let mut lines: Lines = container::open(path)?.lines;
    let mut line = Vec::new();
    let mut columns = ohlcv::Columns::default();
    loop {
        match lines.next(&mut line) {
            Ok(Line::Whole) => {}
            Ok(Line::TooLong) => continue,
            Ok(Line::End) => return Ok(None),
            Err(source) => return Err(unreadable(path, source)),
        }
        let Ok(text) = std::str::from_utf8(&line) else {
            continue;
        };
        if lines.number() == 1
            && let Some(named) = ohlcv::names(text)
        {
            columns = named;
            continue;
        }
        let taken = ohlcv::time_of(text, &columns).and_then(&mut take);
        if taken.is_some() {
            return Ok(taken);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lean_path_tells_everything() {
        let told = from_path(Path::new("/data/equity/usa/tick/ibm/20131007_trade.zip"));
        assert_eq!(
            told,
            Told {
                layout: "lean-equity-tick-trade".parse().ok(),
                pair: Some("IBM".into()),
                no_day: None,
                date: Some(jiff::civil::date(2013, 10, 7)),
                market: Some("usa".into()),
            }
        );
        let told = from_path(Path::new(
            "crypto/coinbase/second/btcusd/20161007_quote.zip",
        ));
        assert_eq!(told.layout, "lean-crypto-second-quote".parse().ok());
        let told = from_path(Path::new("option/usa/minute/ibm/20131007_trade.zip"));
        assert_eq!(told.layout, None);
        let told = from_path(Path::new("x/20131099_trade.zip"));
        assert_eq!(told.date, None);
    }

    #[test]
    fn a_binance_name_tells_pair_and_layout() {
        for (name, layout) in [
            ("BTCUSDT-trades-2025-01-01.zip", Layout::BinanceTrades),
            ("BTCUSDT-aggTrades-2025-01.csv", Layout::BinanceAggTrades),
            ("BTCUSDT-1m-2025-01-01.csv", Layout::BinanceKlines),
        ] {
            let told = from_path(Path::new(name));
            assert_eq!(told.layout, Some(layout));
            assert_eq!(told.pair.as_deref(), Some("BTCUSDT"));
        }
        assert_eq!(from_path(Path::new("notes-m-1.csv")).layout, None);
    }

    #[test]
    fn the_first_lines_tell_a_layout_with_and_without_names() {
        for (first, second, layout) in [
            ("{\"pair\":1}", "", Some(Layout::Json)),
            (
                "id,price,qty,quote_qty,time,is_buyer_maker",
                "1,2,3,6,5,true",
                Some(Layout::BinanceTrades),
            ),
            (
                "1,2,3,6,1700000000000,true,true",
                "",
                Some(Layout::BinanceTrades),
            ),
            (
                "1,2,3,6,9,1700000000000,true",
                "",
                Some(Layout::BinanceAggTrades),
            ),
            (
                "1,2,3,6,9,1700000000000,true,true",
                "",
                Some(Layout::BinanceAggTrades),
            ),
            (
                "1700000000000,1,2,1,2,5,1700000059999,6,1,1,1,0",
                "",
                Some(Layout::BinanceKlines),
            ),
            ("1700000000,1,2,1,2,5", "", Some(Layout::Ohlcv)),
            ("Date,Open,High,Low,Close,Volume", "", Some(Layout::Ohlcv)),
            ("hello,world", "1,2", None),
            ("", "", None),
        ] {
            assert_eq!(by_lines(first, second), layout, "{first}");
        }
    }
}
