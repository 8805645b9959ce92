"""Validate the texts of a corpus: each flaw has a name, a place and advice."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from typing import NamedTuple

# reason -> what is needed, for the message
NEEDS = {
    "bad_utf8": "need UTF-8 text",
    "bom": "need text without a byte order mark",
    "crlf": "need lines that end in \\n",
    "missing_separator": "need both sides on the line",
    "extra_separator": "need exactly two sides on the line",
    "empty_side": "need text on every side",
    "nul": "need text without NUL bytes",
    "line_break": "need one line: this character breaks lines in other programs",
    "control_character": "need text without control characters",
    "too_long": "need shorter texts (--max_chars, --max_words raise the limits)",
    "length_ratio": "need sides of comparable length (--max_ratio raises the limit)",
    "duplicate": "need each text or pair once per source",
    "bad_catalogue": "need a gettext catalogue that polib can read",
}
REPAIRABLE = ("bom", "crlf")
# the characters at which str.splitlines() breaks, beyond \n and \r
_BREAKS = "\v\f\x1c\x1d\x1e\x85\u2028\u2029"
_SUSPECT = re.compile(f"[\x00-\x08\x0b-\x1f\x7f-\x9f{_BREAKS}]")


class Flaw(NamedTuple):
    """What is wrong with a record: on which side, how many lines below its first."""

    reason: str
    detail: str
    side: int = 0
    lines_down: int = 0


class Raw(NamedTuple):
    """A record as a reader found it: the bytes of each side, where, and what the reader noticed."""

    sides: tuple[bytes, ...]
    file: str
    line: int
    repairs: tuple[Flaw, ...] = ()
    flaw: Flaw | None = None
    trg_file: str | None = None

    @property
    def origin(self) -> str:
        """Return the place as file:line."""
        return f"{self.file}:{self.line}"

    def place(self, flaw: Flaw) -> str:
        """Return the place of a flaw as file:line; the sides may be in two files."""
        file = self.trg_file if flaw.side == 1 and self.trg_file else self.file
        return f"{file}:{self.line + flaw.lines_down}"


@dataclass(frozen=True)
class Limits:
    """How long a text may be, and how much longer one side than the other."""

    max_chars: int = 10_000
    max_words: int = 2_000
    max_ratio: float = 9.0


def check(raw: Raw, limits: Limits) -> tuple[str, ...] | Flaw:
    """Decode a record, or say what is wrong with it (its first flaw)."""
    if raw.flaw:
        return raw.flaw
    texts = []
    for index, data in enumerate(raw.sides):
        side = "" if len(raw.sides) == 1 else (" of the source side", " of the target side")[index]
        text = _decode(data, side)
        flaw = text if isinstance(text, Flaw) else _check_text(text, side, limits)
        if flaw:
            return flaw._replace(side=index)
        texts.append(text)
    return _check_ratio(texts, limits) or tuple(texts)


def _decode(data: bytes, side: str) -> str | Flaw:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        byte = f"byte 0x{data[error.start]:02x}"
        utf16 = " (the file looks like UTF-16)" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else ""
        detail = f"{byte} at position {error.start}{side} is not UTF-8{utf16}"
        return Flaw("bad_utf8", detail, lines_down=data.count(b"\n", 0, error.start))


def _check_text(text: str, side: str, limits: Limits) -> Flaw | None:
    match = _SUSPECT.search(text)
    if match:
        char, position = match[0], match.start()
        reason = {"\0": "nul"}.get(char, "line_break" if char in _BREAKS else "control_character")
        detail = f"U+{ord(char):04X} at character {position}{side}"
        return Flaw(reason, detail, lines_down=text.count("\n", 0, position))
    if is_empty(text):
        return Flaw("empty_side", f"no text{side}" if side else "an empty line")
    if len(text) > limits.max_chars:
        return Flaw("too_long", f"{len(text)} characters{side}, the limit is {limits.max_chars}")
    if len(text) > limits.max_words and (num_words := len(text.split())) > limits.max_words:
        return Flaw("too_long", f"{num_words} words{side}, the limit is {limits.max_words}")
    return None


def is_empty(text: str) -> bool:
    """Say whether a text has nothing but spaces, format and control characters."""
    return all(c.isspace() or unicodedata.category(c)[0] in "ZC" for c in text)


def _check_ratio(texts: list[str], limits: Limits) -> Flaw | None:
    if len(texts) < 2:
        return None
    shorter, longer = sorted(map(len, texts))
    # 20 characters of grace, or every short label with a long translation would be absurd
    if longer + 20 <= limits.max_ratio * (shorter + 20):
        return None
    sizes = " and ".join(str(len(text)) for text in texts)
    return Flaw("length_ratio", f"sides of {sizes} characters, the limit is {limits.max_ratio:g}x")


def message(raw: Raw, flaw: Flaw) -> str:
    """Write the error of strict mode: where, what was got, what is needed, what to type."""
    action = "repair it" if flaw.reason in REPAIRABLE else "set such lines aside"
    return (
        f"{raw.place(flaw)}: {flaw.reason}: {flaw.detail}; "
        f"{NEEDS[flaw.reason]}. Correct the file, or type --on-error=quarantine to {action} "
        "and count them."
    )


def escape(data: bytes) -> str:
    """Write raw bytes on one line of TSV, reversibly: bad bytes as \\xNN, breaks as \\uNNNN."""

    def replace(match: re.Match) -> str:
        code = ord(match[0])
        if match[0] == "\\":
            return "\\\\"
        return f"\\x{code - 0xDC00:02x}" if 0xDC80 <= code <= 0xDCFF else f"\\u{code:04x}"

    text = data.decode(errors="surrogateescape")
    return re.sub("[\\\\\x00-\x1f\x7f-\x9f\u2028\u2029\udc80-\udcff]", replace, text)


def held_out_key(text: str) -> str:
    """Normalise a text for the held-out split: equal but for case, width and spaces is equal."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())
