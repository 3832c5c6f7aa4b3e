#!/usr/bin/env python3
"""A reader of signal-bus in plain Python, written from shm/ABI.md and nothing else.

usage: reader.py [BUS_DIRECTORY] [MEMBER RING]

Without a ring: lists the members and what they hold. With one: follows it and prints each record's position
and fields. The offsets and values are not written down here but taken from the document's tables, so a
reader that works proves the document. Needs the standard library only; x86-64 (see Orderings there: Python
cannot make acquire loads, and on x86-64 need not).
"""
import fcntl
import math
import mmap
import os
import re
import stat
import struct
import sys
import time

DOCUMENT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "shm", "ABI.md")
NAME = re.compile(rb"[A-Za-z0-9_-][A-Za-z0-9._-]{0,30}\Z")
FORMATS = {"u64": "Q", "i64": "q", "u32": "I", "i32": "i", "u16": "H", "i16": "h", "u8": "B", "i8": "b",
           "f32": "f"}
F_OFD_GETLK = 36
MASK = (1 << 64) - 1


class Refused(Exception):
    """An attach that failed; `reason` is the rung of the ladder."""

    def __init__(self, reason, detail):
        super().__init__(f"{reason}: {detail}")
        self.reason = reason


class Overrun(Exception):
    """The producer lapped this observer; `lost` records were missed, the next poll goes on."""

    def __init__(self, lost):
        super().__init__(f"{lost} records lost")
        self.lost = lost


def ahead(a, b):
    """How far a is ahead of b, negative if behind: the difference of two u64 as i64."""
    difference = (a - b) & MASK
    return difference - (1 << 64) if difference >> 63 else difference


class Document:
    """The tables: self.constants, self.structs[name] (a Struct), self.enums[name] {value: enumerator}."""

    def __init__(self, path=DOCUMENT):
        with open(path, encoding="utf-8") as file:
            text = file.read()
        self.constants, self.structs, self.enums, self.tables = {}, {}, {}, {}
        for name, body in re.findall(r"<!-- abi:(\w+) -->\n(.*?)<!-- /abi -->", text, re.DOTALL):
            rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in body.splitlines()]
            head, rows = rows[0], rows[2:]
            if name == "constants":
                self.constants = {row[0].strip("`"): int(row[1].split(",")[0], 0) for row in rows}
            elif head[0] == "offset":
                self.structs[name] = Struct(rows)
            elif head[0] == "value" and head[1] == "name":
                self.enums[name] = {int(row[0]): row[1].strip("`") for row in rows}
            else:
                self.tables[name] = rows
        self.value = {enumerator: value for enum in self.enums.values() for value, enumerator in enum.items()}


class Struct:
    def __init__(self, rows):
        self.size = int(rows[-1][0])
        self.offset = {}
        self.fields = []
        for offset, size, kind, name, *_ in rows[:-1]:
            base, count = re.fullmatch(r"(\w+)(?:\[(\d+)\])?", kind).groups()
            code = f"<{size}s" if base == "char" else f"<{count or ''}{FORMATS[base]}"
            assert struct.calcsize(code) == int(size), (name, code, size)
            self.offset[name.strip("`")] = int(offset)
            self.fields.append((name.strip("`"), int(offset), code, base == "char", count is not None))

    def unpack(self, data, base=0):
        """A dict of the fields in a private copy. char[n]: bytes up to the NUL, None when there is none."""
        result = {}
        for name, offset, code, is_text, is_array in self.fields:
            value = struct.unpack_from(code, data, base + offset)
            if is_text:
                text, nul, _ = value[0].partition(b"\0")
                result[name] = text if nul else None
            else:
                result[name] = value if is_array else value[0]
        return result


def fnv1a(data, value=0xcbf29ce484222325):
    for byte in data:
        value = (value ^ byte) * 0x100000001b3 & MASK
    return value


def layout_hash(struct_of_header, header_bytes, directory_bytes):
    value = fnv1a(b"")
    for name, size in (("abi_version", 4), ("file_size", 8), ("name", 32), ("kind", 16), ("identity", 8)):
        at = struct_of_header.offset[name]
        value = fnv1a(header_bytes[at:at + size], value)
    return fnv1a(directory_bytes, value)


class Member:
    """An attached member file. Raises Refused. Detach with close()."""

    def __init__(self, document, directory, name, allow_dead=True):
        self.document = document
        self.path = os.path.join(directory, name)
        if not NAME.match(name.encode()):
            raise Refused("invalid", f"'{name}' is no member name")
        self.descriptor = self._open(directory)
        self.map = None
        try:
            self._attach(name.encode(), allow_dead)
        except Refused:
            self.close()
            raise

    def _open(self, directory):
        try:
            descriptor = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        except FileNotFoundError:
            raise Refused("absent", self.path) from None
        except PermissionError:
            raise Refused("denied", f"{self.path}: permission") from None
        status, parent = os.fstat(descriptor), os.stat(directory)
        reason = None
        if not stat.S_ISREG(status.st_mode):
            reason = Refused("corrupt", f"{self.path}: not a regular file")
        elif status.st_uid not in (os.geteuid(), parent.st_uid, 0) or status.st_mode & 0o022:
            reason = Refused("denied", f"{self.path}: uid {status.st_uid}, mode {status.st_mode:o}")
        elif status.st_size == 0:
            reason = Refused("not ready", f"{self.path}: empty")
        elif not 512 <= status.st_size <= self.document.constants["BUS_FILE_BYTES_MAX"]:
            reason = Refused("corrupt", f"{self.path}: {status.st_size} bytes")
        elif status.st_blocks * 512 < status.st_size and self.path.startswith("/dev/shm/"):  # Python has no statfs
            reason = Refused("not ready", f"{self.path}: has holes")
        if reason:
            os.close(descriptor)
            raise reason
        return descriptor

    def _attach(self, name, allow_dead):
        constants, structs = self.document.constants, self.document.structs
        size = os.fstat(self.descriptor).st_size
        self.map = mmap.mmap(self.descriptor, size, mmap.MAP_SHARED, mmap.PROT_READ)
        self.view = memoryview(self.map)
        self.words = self.view[:size // 8 * 8].cast("Q")
        _ = self.words[0]  # magic, before the rest
        header_bytes = self.words[:512 // 8].tobytes()
        self.header = header = structs["bus_member_header"].unpack(header_bytes)
        if header["magic"] == 0:
            raise Refused("not ready", f"{self.path}: no magic")
        if header["magic"] != constants["BUS_MAGIC"]:
            raise Refused("corrupt", f"{self.path}: no member file")
        if header["abi_version"] != constants["BUS_ABI_VERSION"]:
            raise Refused("version", f"{self.path}: version {header['abi_version']}, this reader knows "
                          f"{constants['BUS_ABI_VERSION']}")
        directory_end = 512 + 128 * header["entry_count"]
        if ((header["header_size"], header["entry_size"], header["entry_offset"]) != (512, 128, 512)
                or header["entry_count"] > constants["BUS_ENTRIES_MAX"]
                or header["file_size"] != size or size < directory_end
                or None in (header["name"], header["kind"], header["boot_id"]) or not NAME.match(header["name"])):
            raise Refused("corrupt", f"{self.path}: header")
        directory_bytes = self.words[512 // 8:directory_end // 8].tobytes()
        self.entries, end = [], directory_end
        for at in range(0, len(directory_bytes), 128):
            entry = structs["bus_entry"].unpack(directory_bytes, at)
            self._check_entry(entry, end, size)
            self.entries.append(entry)
            end = entry["offset"] + entry["size"]
        if layout_hash(structs["bus_member_header"], header_bytes, directory_bytes) != header["layout_hash"]:
            raise Refused("corrupt", f"{self.path}: layout hash")
        if header["name"] != name:
            raise Refused("corrupt", f"{self.path}: names member {header['name'].decode()}")
        if not allow_dead and not self.is_locked():
            raise Refused("dead owner", self.path)

    def _check_entry(self, entry, end, file_size):
        if (None in (entry["name"], entry["peer"], entry["unit"]) or not NAME.match(entry["name"])
                or entry["peer"] and not NAME.match(entry["peer"])):
            raise Refused("corrupt", f"{self.path}: name of an entry")
        wanted = self.object_bytes(entry)
        alignment = {self.document.value["BUS_OBJECT_COUNTER"]: 8,
                     self.document.value["BUS_OBJECT_STAGING"]: 4096}.get(entry["type"], 64)
        if (wanted is None or entry["size"] != wanted or entry["offset"] % alignment or entry["offset"] < end
                or entry["offset"] + entry["size"] > file_size):
            raise Refused("corrupt", f"{self.path}: object {entry['name'].decode()}")

    def object_bytes(self, entry):
        value, constants = self.document.value, self.document.constants
        kind, depth, size = entry["type"], entry["depth"], entry["record_size"]
        lines = size % 64 == 0 and 64 <= size <= constants["BUS_RECORD_BYTES_MAX"]
        if kind == value["BUS_OBJECT_RING"]:
            good = lines and 4 <= depth <= constants["BUS_RING_DEPTH_MAX"] and depth & (depth - 1) == 0
            return 256 + depth * size if good and entry["policy"] in self.document.enums["bus_policy"] else None
        if kind == value["BUS_OBJECT_BOARD"]:
            good = entry["record_type"] == value["BUS_RECORD_SIGNAL"] and size == 64 and 1 <= depth <= 65536
            return depth * size if good else None
        if kind == value["BUS_OBJECT_SYMBOLS"]:
            return 64 + 32 * depth if 1 <= depth <= 65535 else None
        if kind == value["BUS_OBJECT_TEXT"]:
            return depth if 1 <= depth <= 65536 else None
        if kind == value["BUS_OBJECT_STAGING"]:
            good = size % 4096 == 0 and 4096 <= size <= 1 << 24 and 4 <= depth <= 1024
            return constants["BUS_STAGING_HEADER_BYTES"] + depth * size if good else None
        if kind == value["BUS_OBJECT_TABLE"]:
            return depth * size if lines and 1 <= depth <= 65536 else None
        fixed = {value["BUS_OBJECT_POSITION"]: 128, value["BUS_OBJECT_COUNTER"]: 8,
                 value["BUS_OBJECT_HISTOGRAM"]: 64 + 8 * constants["BUS_HISTOGRAM_BUCKETS"]}
        return fixed.get(kind) if depth == 1 else None

    def close(self):
        if self.map is not None:
            for view in ("words", "view"):
                getattr(self, view).release()
            self.map.close()
            self.map = None
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1

    def word(self, offset):
        return self.words[offset // 8]

    def live(self):
        """The header as it is now."""
        return self.document.structs["bus_member_header"].unpack(self.words[:512 // 8].tobytes())

    def is_locked(self):
        probe = struct.pack("hhqqi4x", fcntl.F_RDLCK, os.SEEK_SET, 0, 0, 0)
        return struct.unpack("hhqqi4x", fcntl.fcntl(self.descriptor, F_OFD_GETLK, probe))[0] != fcntl.F_UNLCK

    def status(self, stall_ns=1_000_000_000):
        state = os.fstat(self.descriptor)
        if state.st_size < self.header["file_size"]:
            return "gone"  # before the map is touched: Python does not survive SIGBUS
        if self.word(0) != self.document.constants["BUS_MAGIC"] or state.st_nlink == 0:
            return "gone"
        if not self.is_locked():
            return "dead"
        beat = self.word(self.document.structs["bus_member_header"].offset["heartbeat_ns"])
        return "stalled" if time.monotonic_ns() - beat > stall_ns else "alive"

    def find(self, kind, name=None, peer=None):
        """The entry of type BUS_OBJECT_<kind>; KeyError when there is none."""
        for entry in self.entries:
            if (entry["type"] == self.document.value["BUS_OBJECT_" + kind] and name in (None, entry["name"].decode())
                    and peer in (None, entry["peer"].decode())):
                return entry
        raise KeyError(f"{self.path}: no {kind} {name}")

    def _copy(self, offset, size):
        return self.words[offset // 8:(offset + size) // 8].tobytes()

    def counter(self, name):
        return self.word(self.find("COUNTER", name)["offset"])

    def position(self, ring, producer):
        entry = self.find("POSITION", ring, producer)
        return self.document.structs["bus_position"].unpack(self._copy(entry["offset"], 128))

    def histogram(self, name):
        entry = self.find("HISTOGRAM", name)
        return Histogram(self.document.structs["bus_histogram"].unpack(self._copy(entry["offset"], entry["size"])))

    def symbols(self, name=None):
        entry = self.find("SYMBOLS", name)
        while True:
            generation = self.word(entry["offset"] + 8)
            count = min(self.word(entry["offset"]), entry["depth"])
            data = self._copy(entry["offset"] + 64, 32 * count)
            if self.word(entry["offset"] + 8) == generation:
                break
        rows = []
        for i in range(count):
            row = self.document.structs["bus_symbol"].unpack(data, 32 * i)
            row["name"] = data[32 * i:32 * i + 19].partition(b"\0")[0].decode(errors="replace")
            rows.append(row)
        return rows

    def text(self, name):
        entry = self.find("TEXT", name)
        data = bytes(self.view[entry["offset"]:entry["offset"] + entry["depth"]])
        return data.partition(b"\0")[0].decode(errors="replace")

    def board(self, name, index):
        """The latest signal as (fields, bytes); None when there is none, or none to be had."""
        entry = self.find("BOARD", name)
        if entry["record_type"] != self.document.value["BUS_RECORD_SIGNAL"] or entry["record_size"] != 64:
            raise KeyError(f"board {name} holds no signals")
        if not 0 <= index < entry["depth"]:
            raise IndexError(index)
        offset = entry["offset"] + index * 64
        for _ in range(64):
            stamp = self.word(offset + 56)
            if stamp == 0:
                return None
            data = self._copy(offset, 64)
            if stamp & 1 == 0 and self.word(offset + 56) == stamp:
                data = data[:56] + struct.pack("<Q", stamp)
                return self.document.structs["bus_signal"].unpack(data), data
        return None


class Histogram:
    def __init__(self, fields):
        self.buckets = fields["buckets"]
        self.count = sum(self.buckets)
        self.sum, self.minimum, self.maximum = fields["sum"], fields["minimum"], fields["maximum"]

    @staticmethod
    def bucket(value):
        value = min(value, (1 << 41) - 1)
        shift = max((value | 1).bit_length() - 1, 6) - 6
        return 64 * shift + (value >> shift)

    @staticmethod
    def bounds(bucket):
        if bucket < 128:
            return bucket, bucket
        shift = bucket // 64 - 1
        low = (bucket - 64 * shift) << shift
        return low, low + (1 << shift) - 1

    def quantile(self, quantile):
        if self.count == 0:
            return 0
        rank, seen = max(1, math.ceil(quantile * self.count)), 0
        for bucket, count in enumerate(self.buckets):
            seen += count
            if seen >= rank:
                last = bucket == len(self.buckets) - 1
                return self.maximum if last else min(self.bounds(bucket)[1], self.maximum)
        return self.maximum


class Observer:
    """Follows a ring. poll() returns (position, record bytes), None when there is none yet, raises Overrun."""

    def __init__(self, member, ring, from_oldest=False):
        entry = member.find("RING", ring)
        self.words = member.words
        self.depth, self.record_words = entry["depth"], entry["record_size"] // 8
        self.slots = (entry["offset"] + 256) // 8
        first_at = member.document.structs["bus_ring_header"].offset["first"]
        self.first = member.word(entry["offset"] + first_at)
        self.lost = 0
        head = self.head()
        oldest = self.first if (head - self.first) & MASK < self.depth else (head - self.depth) & MASK
        if (head - oldest) & MASK == self.depth:
            oldest = (oldest + 1) & MASK
        self.next = oldest if from_oldest else head

    def _slot(self, position):
        return self.slots + (position & (self.depth - 1)) * self.record_words

    def _stamp(self, position):
        return self.words[self._slot(position) + self.record_words - 1]

    def head(self):
        head = None
        for i in range(self.depth):
            stamp = self._stamp(i)
            if (stamp - 1) & (self.depth - 1) == i and (head is None or ahead(stamp, head) > 0):
                head = stamp
        return head or 0

    def _overrun(self):
        resume = (self.head() - self.depth // 2) & MASK
        if ahead(resume, self.next) <= 0:
            resume = (self.next + 1) & MASK
        lost = (resume - self.next) & MASK
        self.lost += lost
        self.next = resume
        raise Overrun(lost)

    def poll(self):
        position = self.next
        wanted = (position + 1) & MASK
        stamp = self._stamp(position)
        if stamp != wanted:
            if ahead(stamp, wanted) > 0:
                self._overrun()
            return None
        slot = self._slot(position)
        record = self.words[slot:slot + self.record_words].tobytes()
        if self._stamp((position - 1) & MASK) != position:
            self._overrun()
        self.next = wanted
        return position, record


def list_bus(document, directory):
    for name in sorted(os.listdir(directory)):
        if not NAME.match(name.encode()):
            continue
        try:
            member = Member(document, directory, name)
        except Refused as reason:
            print(f"{name}: {reason}")
            continue
        live = member.live()
        state = document.enums["bus_member_state"].get(live["state"], "?")
        print(f"{name} ({member.header['kind'].decode()}): {member.status()}, {state}, pid {live['pid']}, "
              f"epoch {live['epoch']}")
        for entry in member.entries:
            kind = document.enums["bus_object_type"][entry["type"]].removeprefix("BUS_OBJECT_")
            label = entry["name"].decode()
            show = {"COUNTER": lambda m, n: m.counter(n), "TEXT": lambda m, n: m.text(n),
                    "SYMBOLS": lambda m, n: ", ".join(row["name"] for row in m.symbols(n)),
                    "HISTOGRAM": lambda m, n: f"p50 {m.histogram(n).quantile(0.5)} of {m.histogram(n).count}",
                    "RING": lambda m, n: f"next position {Observer(m, n).next}"}.get(kind, lambda m, n: "")
            print(f"  {kind.lower()} {label}: {show(member, label)} {entry['unit'].decode()}")
        member.close()


def follow(document, directory, name, ring):
    member = Member(document, directory, name)
    record_type = document.enums["bus_record_type"].get(member.find("RING", ring)["record_type"], "")
    layout = document.structs.get("bus_" + record_type.removeprefix("BUS_RECORD_").lower())
    observer = Observer(member, ring)
    while member.status() not in ("gone", "dead"):
        try:
            taken = observer.poll()
        except Overrun as overrun:
            print(overrun, file=sys.stderr)
            continue
        if taken is None:
            time.sleep(0.001)
            continue
        fields = layout.unpack(taken[1]) if layout else taken[1].hex()
        text = ()
        if layout and "fragment_bytes" in fields:  # a header, then text
            text = (taken[1][layout.size:-8][:fields["fragment_bytes"]],)
        print(taken[0], fields, *text)


def main(arguments):
    if "--help" in arguments or len(arguments) not in (0, 1, 3):
        print(__doc__)
        return 0 if "--help" in arguments else 2
    directory = arguments[0] if arguments else os.environ.get("SIGNAL_BUS") or "/dev/shm/signals"
    try:
        if len(arguments) == 3:
            follow(Document(), directory, *arguments[1:])
        else:
            list_bus(Document(), directory)
    except (Refused, KeyError, OSError) as reason:
        print(f"reader: {reason}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        pass
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
