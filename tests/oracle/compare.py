#!/usr/bin/env python3
"""Holds bars against those of bars.py.

    compare.py [--window 1m] [--fields open,high,low,close,volume,vwap] [--map vwap=average]
               ORACLE ACTUAL

Both are files of JSON lines (`-` is standard input); ORACLE is what bars.py prints, ACTUAL what
`tidemill read TOPIC --json` prints: bars as they are, or records with the bar in `value`. Bars are
matched by pair and start, so their order does not matter; a bar that is there twice is an error.
Numbers are compared as decimals, times as instants. Explains the first difference of each kind and
ends with 1 if there is any.
"""

import argparse
import collections
import datetime as dt
import decimal
import json
import sys

Decimal = decimal.Decimal


def lines(name):
    source = sys.stdin if name == "-" else open(name, encoding="utf-8")
    with source:
        for number, line in enumerate(source, 1):
            if line.strip():
                try:
                    value = json.loads(line, parse_float=Decimal, parse_int=Decimal)
                except ValueError as error:
                    raise SystemExit(f"{name}:{number}: not JSON: {error}")
                if isinstance(value, dict) and "value" in value:
                    inner = value["value"]
                    value = (
                        json.loads(inner, parse_float=Decimal, parse_int=Decimal)
                        if isinstance(inner, str)
                        else inner
                    )
                yield number, value


def instant(value):
    """Microseconds since 1970 of RFC 3339 text or of milliseconds."""
    if isinstance(value, Decimal):
        return int(value * 1000)
    text = value.replace("Z", "+00:00")
    moment = dt.datetime.fromisoformat(text)
    epoch = dt.datetime(1970, 1, 1, tzinfo=dt.timezone.utc)
    return (moment - epoch) // dt.timedelta(microseconds=1)


def number(value):
    return None if value is None else Decimal(value).normalize()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--window", help="only bars of this window in ORACLE")
    parser.add_argument("--fields", default="open,high,low,close,volume,vwap,count")
    parser.add_argument("--map", action="append", default=[], metavar="OURS=ACTUAL",
                        help="what a field is called in ACTUAL")
    parser.add_argument("oracle")
    parser.add_argument("actual")
    options = parser.parse_args()
    names = dict(entry.split("=", 1) for entry in options.map)
    fields = [field for field in options.fields.split(",") if field]

    expected = {}
    for _, bar in lines(options.oracle):
        if options.window in (None, bar["window"]):
            expected[(bar["pair"], instant(bar["start"]))] = bar

    problems = collections.Counter()

    def problem(kind, text):
        problems[kind] += 1
        if problems[kind] == 1:
            print(f"{kind}: {text}")

    seen = set()
    for at, bar in lines(options.actual):
        key = (bar[names.get("pair", "pair")], instant(bar[names.get("start", "start")]))
        where = f"line {at}: {key[0]} at {bar[names.get('start', 'start')]}"
        if key in seen:
            problem("twice", where)
        seen.add(key)
        want = expected.get(key)
        if want is None:
            problem("not expected", where)
            continue
        for field in fields:
            wanted, found = number(want.get(field)), number(bar.get(names.get(field, field)))
            if wanted != found:
                problem(
                    f"{field} differs",
                    f"{where}: expected {want.get(field)}, found {found}\n"
                    f"  expected {json.dumps(want)}\n  found    {json.dumps(bar, default=str)}",
                )
    for pair, start in sorted(expected.keys() - seen):
        problem("missing", f"{pair} at {expected[(pair, start)]['start']}")

    if problems:
        summary = ", ".join(f"{count} {kind}" for kind, count in sorted(problems.items()))
        print(f"{len(expected)} bars expected, {len(seen)} found: {summary}")
        return 1
    if not expected:
        print("no bars expected: nothing was compared")
        return 1
    print(f"{len(expected)} bars equal in {', '.join(fields)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
