#!/usr/bin/env python3
"""Reads a log directory by the words of brokers/file/FORMAT.md alone, without any of Tidemill's code.

    log.py DIRECTORY             every record, as `tidemill read TOPIC --json` prints it; by topic,
                                 partition and offset
    log.py DIRECTORY --offsets   what groups have committed: group, topic, partition, offset
    log.py DIRECTORY --topics    topics, their settings, and the watermarks of their partitions

Reads what is durable, takes no lock, changes nothing. Checks every checksum, and that whatever the
format promises holds, also where reading does not depend on it: of indexes, of what the manifest sums
up. Ends with 1 and names file and byte where it does not.
"""

import argparse
import datetime as dt
import json
import pathlib
import re
import struct
import sys

VERSION = 1
MOST = 1 << 62
NONE_4, NONE_8 = (1 << 32) - 1, (1 << 64) - 1
LEAST_TIME, MOST_TIME = -(1 << 63), (1 << 63) - 1
NAME = re.compile(rb"[A-Za-z0-9._-]{1,249}")
SPARSE = 1


class Damaged(Exception):
    pass


def need(holds, path, at, what):
    if not holds:
        raise Damaged(f"{path}: byte {at}: {what}")


# --- CRC32C, four bytes at a time --------------------------------------------------------------------


def tables():
    one = []
    for byte in range(256):
        for _ in range(8):
            byte = (byte >> 1) ^ (0x82F63B78 if byte & 1 else 0)
        one.append(byte)
    two = []
    for pair in range(1 << 16):
        state = (pair >> 8) ^ one[pair & 255]
        two.append((state >> 8) ^ one[state & 255])
    four = [(two[pair] >> 16) ^ two[two[pair] & 0xFFFF] for pair in range(1 << 16)]
    return one, two, four


ONE, TWO, FOUR = tables()


def crc(*parts):
    """The CRC32C of these bytes, one after the other."""
    state = NONE_4
    for part in parts:
        words = len(part) // 4
        for word in struct.unpack_from(f"<{words}I", part):
            state ^= word
            state = FOUR[state & 0xFFFF] ^ TWO[state >> 16]
        for byte in part[words * 4:]:
            state = (state >> 8) ^ ONE[(state ^ byte) & 255]
    return state ^ NONE_4


assert crc(b"123456789") == crc(b"1234", b"56", b"789") == 0xE3069283


# --- Fields ------------------------------------------------------------------------------------------


class Fields:
    """Reads fields one after the other; what does not fit is damage."""

    def __init__(self, path, bytes_, at=0, end=None):
        self.path, self.bytes, self.at = path, bytes_, at
        self.end = len(bytes_) if end is None else end

    def take(self, count):
        begin = self.at
        need(begin + count <= self.end, self.path, begin, "it ends inside a field")
        self.at += count
        return self.bytes[begin:self.at]

    def number(self, form):
        (value,) = struct.unpack("<" + form, self.take(struct.calcsize(form)))
        return value

    def u8(self):
        return self.number("B")

    def u32(self):
        return self.number("I")

    def u64(self):
        return self.number("Q")

    def count(self):
        """An offset, a place, the number of a file."""
        value = self.u64()
        need(value <= MOST, self.path, self.at - 8, "the number is too large")
        return value

    def time(self):
        return self.number("q")

    def name(self):
        begin = self.at
        name = self.take(self.u8())
        is_name = NAME.fullmatch(name) and name not in (b".", b"..")
        need(is_name, self.path, begin, "this is no name")
        return name.decode("ascii")

    def done(self):
        need(self.at == self.end, self.path, self.at, "more follows than there may be")


def whole(path, magic):
    """The fields of a file of magic and checksum; and what the checksum covers."""
    bytes_ = path.read_bytes()
    need(bytes_[:8] == magic, path, 0, "these are not its first bytes")
    fields = Fields(path, bytes_, 8)
    need(fields.u32() == crc(bytes_[12:]), path, 8, "the checksum does not match")
    return fields


def version(fields):
    found = fields.u32()
    need(found == VERSION, fields.path, fields.at - 4, f"version {found} is not known")


# --- What there is -----------------------------------------------------------------------------------


class Partition:
    def __init__(self):
        self.next, self.low, self.segments, self.records = 0, 0, [], []
        self.tombstones_gone = self.compacted = 0


class Topic:
    def __init__(self, number, fields):
        self.number, self.name = number, fields.name()
        count = fields.u32()
        need(count <= 1 << 20, fields.path, fields.at - 4, "too many partitions")
        cleanup, age, size = fields.u8(), fields.u64(), fields.u64()
        need(cleanup in (0, 1), fields.path, fields.at - 17, "no such cleanup")
        self.settings = {"cleanup": ("delete", "compact")[cleanup]}
        if cleanup == 1:
            need(size == 0, fields.path, fields.at - 8, "compaction has no bound in bytes")
            self.settings["tombstonesMicros"] = age
        else:
            self.settings["ageMicros"] = None if age == NONE_8 else age
            self.settings["bytes"] = None if size == NONE_8 else size
        self.partitions = [Partition() for _ in range(count)]


class Log:
    def __init__(self, directory):
        self.directory = directory
        self.topics, self.offsets = {}, {}
        self.identity()
        self.salt = crc(self.uuid)
        self.manifest()
        for topic in self.topics.values():
            for number, partition in enumerate(topic.partitions):
                for segment in partition.segments:
                    self.segment(topic, number, partition, segment)
        self.logs()

    def identity(self):
        path = self.directory / "FORMAT"
        bytes_ = path.read_bytes()
        need(bytes_[:16] == b"tidemill log\r\n\0\x1a", path, 0, "this is no log directory")
        fields = Fields(path, bytes_, 16)
        version(fields)
        self.uuid = fields.take(16)
        need(fields.u32() == crc(bytes_[:36]), path, 36, "the checksum does not match")
        fields.done()

    def manifest(self):
        fields = whole(self.directory / "MANIFEST", b"TmMan\r\n\0")
        path = fields.path
        version(fields)
        need(fields.take(16) == self.uuid, path, 16, "it belongs to another directory")
        self.manifest_number = fields.count()
        self.first_log, self.first_place = fields.count(), fields.count()
        self.next_topic = fields.count()
        numbers = []
        for _ in range(fields.u32()):
            number = fields.u64()
            need(number < self.next_topic, path, fields.at - 8, "a topic of the future")
            numbers.append(number)
            topic = self.topics[number] = Topic(number, fields)
            for partition in topic.partitions:
                partition.next, partition.low = fields.count(), fields.count()
                partition.tombstones_gone, partition.compacted = fields.count(), fields.count()
                end = 0
                for _ in range(fields.u32()):
                    at = fields.at
                    segment = {
                        "base": fields.count(),
                        "rewritten": fields.u32(),
                        "next": fields.count(),
                        "length": fields.u64(),
                        "crc": fields.u32(),
                        "records": fields.u64(),
                        "first_append": fields.time(),
                        "last_append": fields.time(),
                        "latest": fields.time(),
                        "index_crc": fields.u32(),
                    }
                    rises = end <= segment["base"] <= segment["next"]
                    need(rises, path, at, "segments overlap")
                    end = segment["next"]
                    partition.segments.append(segment)
                is_within = end <= partition.next and partition.low <= partition.next
                need(is_within, path, fields.at, "what is listed is beyond the end")
        need(numbers == sorted(set(numbers)), path, 12, "topics do not rise")
        names = {topic.name for topic in self.topics.values()}
        need(len(names) == len(numbers), path, 12, "two topics have one name")
        listed = []
        for _ in range(fields.u32()):
            group, topic, partition, offset = self.group_offset(fields)
            need(topic in self.topics, path, fields.at, "an offset in no topic")
            listed.append((group, topic, partition))
            self.offsets[group, topic, partition] = offset
        need(listed == sorted(set(listed)), path, fields.at, "group offsets do not rise")
        fields.done()

    @staticmethod
    def group_offset(fields):
        return fields.name(), fields.u64(), fields.u32(), fields.u64()

    def segment(self, topic, number, partition, listed):
        folder = self.directory / "topics" / f"{topic.number:016x}" / str(number)
        path = folder / f"{listed['base']:020}.{listed['rewritten']}.segment"
        bytes_ = path.read_bytes()[:listed["length"]]
        need(len(bytes_) == listed["length"], path, len(bytes_), "the file ends here")
        need(crc(bytes_) == listed["crc"], path, 0, "the checksum is not the manifest's")
        at, next_offset, blocks = 0, listed["base"], []
        while at < len(bytes_):
            block = self.block(path, bytes_, at, len(bytes_))
            is_ours = (block["topic"], block["partition"]) == (topic.number, number)
            follows = next_offset <= block["base"] and block["next"] <= listed["next"]
            need(is_ours and follows, path, at, "the block does not belong here")
            next_offset = block["next"]
            blocks.append(block)
            at = block["end"]
        for block in blocks:
            partition.records += block["records"]
        summed = {
            "records": sum(len(block["records"]) for block in blocks),
            "first_append": min((block["append"] for block in blocks), default=MOST_TIME),
            "last_append": max((block["append"] for block in blocks), default=LEAST_TIME),
            "latest": max((block["latest"] for block in blocks), default=LEAST_TIME),
        }
        for what, sum_ in summed.items():
            need(listed[what] == sum_, path, 0, f"{what}: {sum_}, listed as {listed[what]}")
        self.index(path.with_suffix(".index"), listed, blocks)

    def index(self, path, listed, blocks):
        """Nobody needs it to read everything; but what it says must be so."""
        if not path.exists():
            return
        fields = whole(path, b"TmIdx\r\n\0")
        covers, latest = fields.u64(), fields.time()
        marks = [(fields.count(), fields.u64(), fields.time()) for _ in range(fields.u32())]
        fields.done()
        expected, last, latest_before = [], None, LEAST_TIME
        for block in blocks:
            if last is None or block["at"] - last >= 64 * 1024:
                last = block["at"]
                expected.append((block["base"], last, latest_before))
            latest_before = max(latest_before, block["latest"])
        # One that a crash left ahead of its manifest describes more.
        need(covers >= listed["length"], path, 12, "it describes less than its segment")
        within = [mark for mark in marks if mark[1] < listed["length"]]
        need(within == expected, path, 32, "its marks are not those of its segment")
        if covers == listed["length"]:
            need(latest == listed["latest"], path, 20, "the latest timestamp is another")
            written = crc(path.read_bytes()) == listed["index_crc"]
            need(written, path, 0, "it is not as it was written")

    def block(self, path, bytes_, begin, end):
        fields = Fields(path, bytes_, begin, end)
        need(fields.take(4) == b"TmBk", path, begin, "no block begins here")
        stored = fields.u32()
        length, count, flags, partition = (fields.u32() for _ in range(4))
        block = {
            "partition": partition,
            "topic": fields.count(),
            "base": fields.count(),
            "next": fields.count(),
            "append": fields.time(),
            "latest": fields.time(),
            "crc": stored,
            "at": begin,
            "end": begin + length,
        }
        need(fields.u64() == 0, path, begin + 64, "this should be zero")
        need(length >= 72 and begin + length <= end, path, begin + 8, "the block ends elsewhere")
        bytes_ = bytes_[begin:begin + length]
        found = crc(bytes_[72:], bytes_[8:72]) ^ self.salt
        need(found == stored, path, begin + 4, "the checksum does not match")
        need(flags in (0, SPARSE), path, begin + 16, "unknown flags")
        need(block["next"] >= block["base"] + count, path, begin + 40, "more records than offsets")
        table = Fields(path, bytes_, 72)
        entries = []
        for index in range(count):
            entry = [table.time(), table.u32(), table.u32(), table.u32()]
            entries.append(entry + [table.u32() if flags == SPARSE else index])
        data = Fields(path, bytes_, table.at)
        block["records"] = []
        last = -1
        for timestamp, key, value, headers, delta in entries:
            offset = block["base"] + delta
            need(last < offset < block["next"], path, begin, "offsets do not rise")
            last = offset
            key = None if key == NONE_4 else data.take(key)
            value = None if value == NONE_4 else data.take(value)
            block["records"].append((offset, timestamp, key, value, self.headers(path, data, headers)))
        data.done()
        latest = max((entry[0] for entry in entries), default=LEAST_TIME)
        need(latest == block["latest"], path, begin + 56, "the latest timestamp is another")
        return block

    @staticmethod
    def headers(path, data, length):
        fields, found = Fields(path, data.take(length)), []
        while fields.at < length:
            name, value = fields.u32(), fields.u32()
            found.append((fields.take(name).decode("utf-8"), fields.take(value)))
        return found

    # --- The log ---

    def logs(self):
        numbers = []
        for path in (self.directory / "log").iterdir():
            if re.fullmatch(r"[0-9]{20}\.log", path.name) and int(path.name[:20]) >= self.first_log:
                numbers.append(int(path.name[:20]))
        numbers.sort()
        files = [(number, self.directory / "log" / f"{number:020}.log") for number in numbers]
        durable = self.durable()
        if durable is None:
            durable = max((self.claimed(path, number) for number, path in files), default=0)
        place = self.first_place
        for index, (number, path) in enumerate(files):
            if place >= durable:
                break
            need(number == self.first_log + index, path, 0, "a log file before it is missing")
            place = self.log_file(path, number, place, durable)
        need(place >= durable, self.directory / "log", 0, "the log ends before it was durable")

    def durable(self):
        path = self.directory / "DURABLE"
        bytes_ = path.read_bytes() if path.exists() else b""
        if len(bytes_) < 28 or struct.unpack_from("<I", bytes_, 24)[0] != crc(bytes_[:24]):
            return None
        _, place, _ = struct.unpack_from("<3Q", bytes_)
        return place

    def claimed(self, path, number):
        """The most that a frame says was durable; as far as there are whole frames."""
        bytes_, most = path.read_bytes(), 0
        try:
            at, salt, begin = self.log_header(path, bytes_, number)
            while at < len(bytes_):
                frame = self.frame(path, bytes_, at, begin, salt)
                most, at = max(most, frame["durable"]), frame["end"]
        except Damaged:
            pass
        return most

    def log_header(self, path, bytes_, number):
        fields = Fields(path, bytes_, 0, min(64, len(bytes_)))
        need(fields.take(8) == b"TmLog\r\n\0", path, 0, "no log file begins here")
        need(fields.u32() == crc(bytes_[12:64]), path, 8, "the checksum does not match")
        version(fields)
        need(fields.take(16) == self.uuid, path, 16, "it belongs to another directory")
        need(fields.count() == number, path, 32, "it has another number")
        begin = fields.count()
        need(fields.take(16) == bytes(16), path, 48, "this should be zero")
        return 64, crc(self.uuid, struct.pack("<Q", number)), begin

    def log_file(self, path, number, place, durable):
        bytes_ = path.read_bytes()
        at, salt, begin = self.log_header(path, bytes_, number)
        need(begin == place, path, 40, "it does not begin where the one before ends")
        while at < len(bytes_) and begin + at < durable:
            frame = self.frame(path, bytes_, at, begin, salt)
            need(begin + frame["end"] <= durable, path, at, "a frame is durable in part")
            self.take_in(path, at, frame)
            at = frame["end"]
        return begin + at

    def frame(self, path, bytes_, at, begin, salt):
        fields = Fields(path, bytes_, at)
        need(fields.take(4) == b"TmFr", path, at, "no frame begins here")
        stored, head_length, kind = fields.u32(), fields.u32(), fields.u32()
        body_length, place, durable = fields.u64(), fields.count(), fields.count()
        need(place == begin + at, path, at + 24, "the frame belongs elsewhere")
        need(head_length <= 1 << 26, path, at + 8, "the head is too long")
        body = at + 40 + head_length
        end = body + body_length
        need(end <= len(bytes_), path, at, "the file ends inside a frame")
        need(crc(bytes_[at + 8:body]) ^ salt == stored, path, at + 4, "the checksum does not match")
        head = Fields(path, bytes_, at + 40, body)
        frame = {"durable": durable, "end": end, "kind": kind, "blocks": []}
        if kind == 1:
            count, of_blocks = head.u32(), head.u32()
            frame["offsets"] = [self.group_offset(head) for _ in range(head.u32())]
            next_block = body
            while next_block < end:
                frame["blocks"].append(self.block(path, bytes_, next_block, end))
                next_block = frame["blocks"][-1]["end"]
            stored = b"".join(struct.pack("<I", block["crc"]) for block in frame["blocks"])
            is_whole = (count, of_blocks) == (len(frame["blocks"]), crc(stored))
            need(is_whole, path, at + 40, "these are not the blocks of this frame")
        elif kind == 2:
            frame["topic"] = Topic(head.u64(), head)
            need(body_length == 0, path, at + 16, "no blocks may follow")
        elif kind == 3:
            frame["number"] = head.u64()
            need(body_length == 0, path, at + 16, "no blocks may follow")
        else:
            need(False, path, at + 12, "unknown kind")
        head.done()
        return frame

    def take_in(self, path, at, frame):
        if frame["kind"] == 2:
            topic = frame["topic"]
            need(topic.number >= self.next_topic, path, at + 40, "the topic's number was used")
            self.next_topic = topic.number + 1
            self.topics[topic.number] = topic
        elif frame["kind"] == 3:
            gone = frame["number"]
            need(self.topics.pop(gone, None), path, at + 40, "the topic was not there")
            self.offsets = {key: next_ for key, next_ in self.offsets.items() if key[1] != gone}
        else:
            for block in frame["blocks"]:
                topic = self.topics.get(block["topic"])
                is_known = topic and block["partition"] < len(topic.partitions)
                need(is_known, path, block["at"], "the block is of no partition")
                partition = topic.partitions[block["partition"]]
                need(partition.next == block["base"], path, block["at"], "offsets are missing")
                partition.next = block["next"]
                partition.records += block["records"]
            for group, topic, partition, offset in frame["offsets"]:
                if topic in self.topics:
                    self.offsets[group, topic, partition] = offset


# --- As `tidemill read --json` prints it ---------------------------------------------------------------


def text_or_hex(bytes_, text, hex_):
    try:
        return {text: bytes_.decode("utf-8")}
    except UnicodeDecodeError:
        return {hex_: bytes_.hex()}


def instant(micros):
    try:
        moment = dt.datetime(1970, 1, 1) + dt.timedelta(microseconds=micros)
    except OverflowError:
        return str(micros)
    return moment.isoformat(timespec="microseconds") + "Z"


def is_json(text):
    def refuse(constant):
        raise ValueError(constant)

    try:
        json.loads(text, parse_constant=refuse)
    except ValueError:
        return False
    return True


def dump(value):
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def line(topic, partition, record):
    offset, timestamp, key, value, headers = record
    fields = {"topic": topic, "partition": partition, "offset": offset, "timestamp": instant(timestamp)}
    if key is not None:
        fields.update(text_or_hex(key, "key", "keyHex"))
    shown = [f"{dump(name)}:{dump(field)}" for name, field in fields.items()]
    if value is not None:
        found = text_or_hex(value, "valueText", "valueHex")
        text = found.get("valueText")
        if text is not None and is_json(text):
            bare = text.replace("\n", " ").replace("\r", " ").strip(" \t")
            shown.append(f'"value":{bare}')
        else:
            shown += [f"{dump(name)}:{dump(field)}" for name, field in found.items()]
    if headers:
        found = [dict(name=name, **text_or_hex(value, "value", "hex")) for name, value in headers]
        shown.append(f'"headers":{dump(found)}')
    return "{" + ",".join(shown) + "}"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("directory", type=pathlib.Path)
    parser.add_argument("--offsets", action="store_true", help="what groups have committed")
    parser.add_argument("--topics", action="store_true", help="topics and their watermarks")
    options = parser.parse_args()
    try:
        log = Log(options.directory)
    except Damaged as damage:
        raise SystemExit(f"{damage}")
    topics = sorted(log.topics.values(), key=lambda topic: topic.name)
    sys.stdout.reconfigure(encoding="utf-8", newline="\n")
    if options.offsets:
        for (group, topic, partition), offset in sorted(log.offsets.items()):
            print(dump([group, log.topics[topic].name, partition, offset]))
    elif options.topics:
        for topic in topics:
            marks = [[partition.low, partition.next] for partition in topic.partitions]
            print(dump({"topic": topic.name, **topic.settings, "partitions": marks}))
    else:
        for topic in topics:
            for number, partition in enumerate(topic.partitions):
                for record in partition.records:
                    if record[0] >= partition.low:
                        print(line(topic.name, number, record))


if __name__ == "__main__":
    main()
