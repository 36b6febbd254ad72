#!/usr/bin/env python3
"""Bars from raw LEAN files, computed without any of Tidemill's code.

    bars.py [--windows 1s,1m,5m] FILE...

Reads trade ticks and trade bars (zip archives laid out as LEAN does) and prints one JSON object per
window and pair, sorted by window, pair and start: open, high, low, close, volume, vwap, count. All
numbers are exact decimals, printed as text.

What an import does, stated once more here so that it can be held against it:

* times count from midnight of the exchange (equities: New York) or of UTC (crypto);
* equity prices are multiplied by 10,000; prices and sizes are rounded half-even to 8 decimals;
* suspicious ticks and those without size or price do not count;
* a bar is four trades: open, high, low and close at its start and a quarter, a half and three
  quarters of its length later; all its volume is that of the close, and without volume it is nothing;
* a window is [start, end) on the UTC epoch, ties go by the order in the file;
* vwap is rounded half-even to 8 decimals, and absent where nothing was traded.
"""

import argparse
import csv
import datetime as dt
import decimal
import io
import json
import pathlib
import sys
import zipfile

Decimal = decimal.Decimal
CONTEXT = decimal.Context(prec=80, rounding=decimal.ROUND_HALF_EVEN)
EIGHT = Decimal("0.00000001")
UTC = dt.timezone.utc
EPOCH = dt.datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND = dt.timedelta(microseconds=1)


def new_york():
    """The zone of US equities; by rule where the machine has no time zone data."""
    try:
        import zoneinfo

        return zoneinfo.ZoneInfo("America/New_York")
    except Exception:  # no module, or no data
        return NewYorkByRule()


class NewYorkByRule(dt.tzinfo):
    """US Eastern time since 2007: summer time from 2 o'clock on the second Sunday of March to 2
    o'clock on the first Sunday of November."""

    def utcoffset(self, when):
        return dt.timedelta(hours=-5) + self.dst(when)

    def dst(self, when):
        def sunday(month, nth, hour):
            first = dt.datetime(when.year, month, 1, hour)
            return first + dt.timedelta(days=(6 - first.weekday()) % 7 + 7 * (nth - 1))

        wall = when.replace(tzinfo=None)
        # From 2 to 3 there is no time on the first day; it is read with the offset before.
        summer = sunday(3, 2, 3) <= wall < sunday(11, 1, 2)
        return dt.timedelta(hours=1 if summer else 0)

    def tzname(self, when):
        return "EDT" if self.dst(when) else "EST"


def rounded(text):
    return Decimal(text).quantize(EIGHT, context=CONTEXT)


def micros(moment):
    return (moment - EPOCH) // MICROSECOND


def trades(path):
    """Yields (time in microseconds, price, size) of a file, in its order, and its pair."""
    security, _, resolution, symbol, name = path.parts[-5:]
    date, kind = path.stem.split("_")
    if kind != "trade":
        raise SystemExit(f"{path}: only trade files have bars")
    day = dt.datetime.strptime(date, "%Y%m%d")
    zone = new_york() if security == "equity" else UTC
    unit = Decimal(10000) if security == "equity" else Decimal(1)
    length = {"tick": None, "second": 1_000_000, "minute": 60_000_000}[resolution]
    with zipfile.ZipFile(path) as archive:
        (entry,) = archive.namelist()
        text = io.TextIOWrapper(archive.open(entry), encoding="utf-8", newline="")
        for row in csv.reader(text):
            if not row:
                continue
            since = dt.timedelta(microseconds=int(Decimal(row[0]) * 1000))
            # Wall-clock arithmetic, then the zone: as the exchange's clock shows it.
            time = micros((day + since).replace(tzinfo=zone).astimezone(UTC))
            if length is None:
                price, size = rounded(Decimal(row[1]) / unit), rounded(row[2])
                if row[-1] != "0" or size == 0 or price == 0:
                    continue
                yield time, price, size
            else:
                prices = [rounded(Decimal(column) / unit) for column in row[1:5]]
                volume = rounded(row[5])
                if volume == 0 or prices[3] == 0:
                    continue
                sizes = [Decimal(0), Decimal(0), Decimal(0), volume]
                for index in range(4):
                    yield time + index * length // 4, prices[index], sizes[index]


def plain(number):
    text = format(number, "f")
    return text.rstrip("0").rstrip(".") if "." in text else text


def rfc3339(time):
    moment = EPOCH + dt.timedelta(microseconds=time)
    return moment.strftime("%Y-%m-%dT%H:%M:%S.%f") + "Z"


def bars(ticks, length):
    """The bars of one pair's trades, sorted by time."""
    found = {}
    for time, price, size in ticks:
        bar = found.get(time // length)
        if bar is None:
            found[time // length] = bar = [price, price, price, price, Decimal(0), Decimal(0), 0]
        bar[1] = max(bar[1], price)
        bar[2] = min(bar[2], price)
        bar[3] = price
        bar[4] = CONTEXT.add(bar[4], size)
        bar[5] = CONTEXT.add(bar[5], CONTEXT.multiply(price, size))
        bar[6] += 1
    for index in sorted(found):
        yield index * length, found[index]


WINDOWS = {"1s": 1_000_000, "1m": 60_000_000, "5m": 300_000_000}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--windows", default="1s,1m,5m")
    parser.add_argument("files", nargs="+", type=pathlib.Path)
    options = parser.parse_args()

    pairs = {}
    for path in options.files:
        pairs.setdefault(path.parts[-2].upper(), []).extend(trades(path.absolute()))
    for window in options.windows.split(","):
        length = WINDOWS[window]
        for pair in sorted(pairs):
            # Stable: ties keep the order of files and lines.
            ticks = sorted(pairs[pair], key=lambda tick: tick[0])
            for start, (first, high, low, last, volume, turnover, count) in bars(ticks, length):
                bar = {
                    "window": window,
                    "pair": pair,
                    "start": rfc3339(start),
                    "end": rfc3339(start + length),
                    "open": plain(first),
                    "high": plain(high),
                    "low": plain(low),
                    "close": plain(last),
                    "volume": plain(volume),
                }
                if volume != 0:
                    vwap = CONTEXT.divide(turnover, volume).quantize(EIGHT, context=CONTEXT)
                    bar["vwap"] = plain(vwap)
                bar["count"] = str(count)
                print(json.dumps(bar))


if __name__ == "__main__":
    try:
        main()
    except BrokenPipeError:
        sys.exit(1)
