//! The layouts that are read: their names, and how each line of them is taken.

use std::collections::VecDeque;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use jiff::tz::TimeZone;

use super::day::Day;
use super::error::BadLine;
use super::item::{Item, Reason, Scales, Update};
use super::{binance, json, lean, ohlcv};

/// How a file is laid out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Layout {
    /// QuantConnect LEAN: one file per symbol and day.
    Lean {
        /// What is traded: decides about the scale of prices and the time zone.
        security: Security,
        /// How fine.
        resolution: Resolution,
        /// Trades or quotes.
        kind: Kind,
    },
    /// Binance trades: id, price, quantity, quote quantity, time, maker.
    BinanceTrades,
    /// Binance aggregated trades: id, price, quantity, first id, last id, time, maker.
    BinanceAggTrades,
    /// Binance klines: open time, open, high, low, close, volume, close time and more.
    BinanceKlines,
    /// Bars of any origin: timestamp, open, high, low, close, volume.
    Ohlcv,
    /// One JSON object per line: a MarketDataUpdate, or any with a field mapping.
    Json,
}

/// What a LEAN file's symbol is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Security {
    /// A share: prices are multiplied by 10,000, times are those of the exchange.
    Equity,
    /// A crypto pair: plain decimals, times are UTC.
    Crypto,
}

/// How fine a LEAN file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Resolution {
    /// Every trade or quote.
    Tick,
    /// Bars of a second.
    Second,
    /// Bars of a minute.
    Minute,
}

impl Resolution {
    /// Length of a bar.
    pub(super) fn bar(self) -> Option<Duration> {
        match self {
            Self::Tick => None,
            Self::Second => Some(Duration::from_secs(1)),
            Self::Minute => Some(Duration::from_secs(60)),
        }
    }
}

/// What an update tells of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// What was traded.
    Trade,
    /// What was offered.
    Quote,
}

impl Layout {
    /// What its updates tell of.
    pub fn kind(self) -> Kind {
        match self {
            Self::Lean { kind, .. } => kind,
            Self::BinanceTrades
            | Self::BinanceAggTrades
            | Self::BinanceKlines
            | Self::Ohlcv
            | Self::Json => Kind::Trade,
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Trade => "trade",
            Self::Quote => "quote",
        })
    }
}

impl FromStr for Kind {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "trade" => Ok(Self::Trade),
            "quote" => Ok(Self::Quote),
            _ => Err(format!(
                "unknown kind `{text}`: expected `trade` or `quote`"
            )),
        }
    }
}

impl fmt::Display for Layout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Lean {
                security,
                resolution,
                kind,
            } => {
                let security = match security {
                    Security::Equity => "equity",
                    Security::Crypto => "crypto",
                };
                let resolution = match resolution {
                    Resolution::Tick => "tick",
                    Resolution::Second => "second",
                    Resolution::Minute => "minute",
                };
                write!(f, "lean-{security}-{resolution}-{kind}")
            }
            Self::BinanceTrades => f.write_str("binance-trades"),
            Self::BinanceAggTrades => f.write_str("binance-agg-trades"),
            Self::BinanceKlines => f.write_str("binance-klines"),
            Self::Ohlcv => f.write_str("ohlcv"),
            Self::Json => f.write_str("json"),
        }
    }
}

impl FromStr for Layout {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Ok(match text {
            "binance-trades" => Self::BinanceTrades,
            "binance-agg-trades" => Self::BinanceAggTrades,
            "binance-klines" => Self::BinanceKlines,
            "ohlcv" => Self::Ohlcv,
            "json" => Self::Json,
            _ => lean(text).ok_or_else(|| {
                format!(
                    "unknown layout `{text}`: expected \
                     lean-{{equity|crypto}}-{{tick|second|minute}}-{{trade|quote}}, \
                     binance-trades, binance-agg-trades, binance-klines, ohlcv or json"
                )
            })?,
        })
    }
}

fn lean(text: &str) -> Option<Layout> {
    let mut parts = text.split('-');
    let known = parts.next()? == "lean";
    let security = match parts.next()? {
        "equity" => Security::Equity,
        "crypto" => Security::Crypto,
        _ => return None,
    };
    let resolution = match parts.next()? {
        "tick" => Resolution::Tick,
        "second" => Resolution::Second,
        "minute" => Resolution::Minute,
        _ => return None,
    };
    let kind = parts.next()?.parse().ok()?;
    (known && parts.next().is_none()).then_some(Layout::Lean {
        security,
        resolution,
        kind,
    })
}

/// Takes lines of one file.
#[derive(Debug)]
pub(super) enum Parser {
    Lean(lean::Parser),
    BinanceTrades,
    BinanceAggTrades,
    BinanceKlines,
    Ohlcv(ohlcv::Parser),
    Json(json::Parser),
}

/// What a parser needs to know of its file.
#[derive(Debug, Clone)]
pub(super) struct Setting {
    pub(super) layout: Layout,
    pub(super) scales: Scales,
    /// The day of a layout whose times count from midnight.
    pub(super) day: Option<Day>,
    /// The zone of times that do not say theirs.
    pub(super) zone: TimeZone,
    /// The length of a bar, where the layout does not tell.
    pub(super) bar: Option<Duration>,
    /// Field names of JSON lines.
    pub(super) mapping: Arc<json::Mapping>,
}

impl Parser {
    /// A parser for a file, or what is missing.
    pub(super) fn new(setting: &Setting) -> Result<Self, &'static str> {
        Ok(match setting.layout {
            Layout::Lean {
                security,
                resolution,
                kind,
            } => {
                let day = setting
                    .day
                    .clone()
                    .ok_or("times count from midnight of a day that is not known; give --date")?;
                Self::Lean(lean::Parser::new(
                    security,
                    resolution,
                    kind,
                    setting.scales,
                    day,
                )?)
            }
            Layout::BinanceTrades => Self::BinanceTrades,
            Layout::BinanceAggTrades => Self::BinanceAggTrades,
            Layout::BinanceKlines => Self::BinanceKlines,
            Layout::Ohlcv => Self::Ohlcv(ohlcv::Parser::new(
                setting
                    .bar
                    .ok_or("the length of its bars is not known; give --bar")?,
                setting.zone.clone(),
            )),
            Layout::Json => Self::Json(json::Parser::new(setting.mapping.clone())),
        })
    }

    /// Takes the first line, if all it does is to name the columns.
    pub(super) fn take_names(&mut self, line: &str) -> bool {
        match self {
            Self::BinanceTrades | Self::BinanceAggTrades | Self::BinanceKlines => line
                .trim_start_matches('"')
                .starts_with(|first: char| first.is_ascii_alphabetic()),
            Self::Ohlcv(parser) => parser.take_names(line),
            Self::Lean(_) | Self::Json(_) => false,
        }
    }

    /// Takes a line; answers how many numbers were rounded. Nothing is emitted from a bad line.
    pub(super) fn line(&mut self, line: &str, out: &mut Emit<'_>) -> Result<u64, BadLine> {
        match self {
            Self::Lean(parser) => parser.line(line, out),
            Self::BinanceTrades => binance::trade(line, out),
            Self::BinanceAggTrades => binance::agg_trade(line, out),
            Self::BinanceKlines => binance::kline(line, out),
            Self::Ohlcv(parser) => parser.line(line, out),
            Self::Json(parser) => parser.line(line, out),
        }
    }
}

/// Where a parser puts what a line becomes.
#[derive(Debug)]
pub(super) struct Emit<'a> {
    pub(super) items: &'a mut VecDeque<Item>,
    /// The file's pair.
    pub(super) pair: &'a Arc<str>,
    /// The file's venue.
    pub(super) venue: Option<&'a str>,
    /// The line's number, from 1.
    pub(super) line: u64,
    pub(super) scales: Scales,
}

impl Emit<'_> {
    /// Emits an update. A missing venue is the file's, a missing sequence the line's number.
    pub(super) fn update(&mut self, update: Update<'_>) {
        self.put(None, update);
    }

    /// Emits an update to the side topic.
    pub(super) fn suspect(&mut self, reason: Reason, update: Update<'_>) {
        self.put(Some(reason), update);
    }

    fn put(&mut self, suspect: Option<Reason>, update: Update<'_>) {
        let update = Update {
            venue: update.venue.or(self.venue),
            sequence: update.sequence.or(Some(self.line)),
            ..update
        };
        self.items.push_back(Item {
            time: update.time,
            pair: self.pair.clone(),
            line: self.line,
            suspect,
            payload: update.json(self.pair, self.scales),
        });
    }

    /// Emits a trade, or sets it aside if nothing was traded or at no price.
    pub(super) fn trade(&mut self, update: Update<'_>) {
        if update.quantity == Some(0) {
            self.suspect(Reason::ZeroSize, update);
        } else if update.price == 0 {
            self.suspect(Reason::ZeroPrice, update);
        } else {
            self.update(update);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_layout_is_read_back_from_its_name() {
        let mut all = vec![
            Layout::BinanceTrades,
            Layout::BinanceAggTrades,
            Layout::BinanceKlines,
            Layout::Ohlcv,
            Layout::Json,
        ];
        for security in [Security::Equity, Security::Crypto] {
            for resolution in [Resolution::Tick, Resolution::Second, Resolution::Minute] {
                for kind in [Kind::Trade, Kind::Quote] {
                    all.push(Layout::Lean {
                        security,
                        resolution,
                        kind,
                    });
                }
            }
        }
        for layout in all {
            assert_eq!(layout.to_string().parse(), Ok(layout));
        }
        assert!("lean-equity-hour-trade".parse::<Layout>().is_err());
        assert!("lean-equity-tick-trade-x".parse::<Layout>().is_err());
    }
}
