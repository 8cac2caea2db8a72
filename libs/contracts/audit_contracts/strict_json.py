"""
JSON as the house takes it: one reading, the same for every reader.

Two parsers may read one document differently where it has a key twice, an integer beyond 64 bits, a float that
overflows, a NUL or half a surrogate pair. An audit log can't afford that, so such documents are refused before any
model sees them.

A clean document costs one parse, one dump and a few counts. Only a document that is refused is read again, token by
token, to say where its faults are (`strict_json_faults`).
"""

from __future__ import annotations

from typing import Any, Final

import msgspec
import orjson

from audit_contracts.errors import InvalidEntry, Violation
from audit_contracts.strict_json_faults import faults

DEPTH_MAX: Final = 32
REFUSED: Final = object()

# msgspec keeps integers beyond 64 bits as they are, where orjson would quietly make floats of them; dumping with orjson
# then refuses them.
_decode: Final = msgspec.json.Decoder().decode
_decode_array: Final = msgspec.json.Decoder(list[msgspec.Raw]).decode


def loads(raw: bytes, *, depth_max: int = DEPTH_MAX) -> Any:
    """
    The value of one JSON document in UTF-8.

    Args:
        raw: the document, already bounded in size: naming the faults of a refused one takes up to 1 µs a byte.
        depth_max: how deep arrays and objects may be nested; `[]` has depth 1.

    Raises:
        InvalidEntry: not JSON; a key twice in one object; NUL characters or lone surrogates in keys or values; NaN or
            infinity; an integer outside -2^63 … 2^64-1; a float that overflows; too deep; not UTF-8, or with a byte
            order mark. It lists the first 100 faults, each with its pointer.
    """
    value = try_loads(raw, depth_max=depth_max)
    if value is REFUSED:
        raise InvalidEntry(faults(raw, depth_max) or [Violation("", "not JSON", "not_json")])
    return value


def try_loads(raw: bytes, *, depth_max: int = DEPTH_MAX) -> Any:
    """What `loads` gives, or `REFUSED` where it would raise; it takes no time to find out why."""
    try:
        value = _decode(raw)
        dumped = orjson.dumps(value)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, orjson.JSONEncodeError):
        return REFUSED
    if b"\\" in raw and b"\\u00" in raw:
        # Once pairs of backslashes are gone, each that is left begins the escape it seems to begin.
        escapes = raw.replace(b"\\\\", b"")
        if b"\\u0000" in escapes:
            return REFUSED
        colons = escapes.count(b":") + escapes.count(b"\\u003a") + escapes.count(b"\\u003A")
    else:
        colons = -1 if raw == dumped else raw.count(b":")
    # A dump holds one colon for each pair kept and those inside kept strings, never escaped. A pair that the parser
    # dropped for a later one of the same key took at least its own colon along, and nothing can bring one in.
    if colons >= 0 and colons != dumped.count(b":"):
        return REFUSED
    if raw.count(b"{") + raw.count(b"[") > depth_max and _is_deeper(value, depth_max):
        return REFUSED
    return value


def split_array(raw: bytes) -> list[bytes]:
    """
    The elements of a JSON array, each as its own bytes, unread: `loads` tells for each whether it is clean.

    Raises:
        InvalidEntry: the whole is not an array; where it breaks off, counted in bytes.
    """
    try:
        return [bytes(item) for item in _decode_array(raw)]
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        detail = "nested too deep" if isinstance(exc, RecursionError) else str(exc)
        raise InvalidEntry([Violation("", f"not a JSON array: {detail}", "not_json")]) from None


def split_lines(raw: bytes) -> list[bytes]:
    """The lines of NDJSON that hold more than white space, each as its own bytes, unread. CRLF ends a line like LF."""
    return [line for line in raw.split(b"\n") if line and not line.isspace()]


def _is_deeper(value: Any, depth_max: int) -> bool:
    level = [value] if type(value) in (dict, list) else []
    for _ in range(depth_max):
        if not level:
            return False
        level = [
            child
            for node in level
            for child in (node.values() if type(node) is dict else node)
            if type(child) in (dict, list)
        ]
    return bool(level)
