"""Take the markup of user interfaces off messages, and keep their text."""

from __future__ import annotations

import html
import re

_TAG = re.compile(r"</?[a-zA-Z][\w:-]*(\s+[^<>]*)?/?>|<!--.*?-->", re.DOTALL)
_BLOCK = re.compile(
    r"</?(br|p|div|li|ul|ol|h[1-6]|tr|td|th|table|hr|dt|dd)\b[^<>]*>", re.IGNORECASE
)
# "File (&F)", "Datei (_D)": translations into Chinese and Japanese append the English accelerator
_APPENDED_KEY = re.compile(r"\s*[(（][&_]\w[)）]")
# "&File", "E&xit"; not "R & D", "AT&T" or "&amp;"
_AMPERSAND = re.compile(r"(?<![A-Z])&(?=[^\W\d_])(?!\w+;)")
_UNDERSCORE = re.compile(r"(?<![\w%({$])_(?=[^\W\d_])")


def clean_pair(src: str, trg: str) -> tuple[str, str]:
    """Clean both sides of a message, the same way.

    Tags go and their text stays, entities become characters, accelerator marks go, and white space
    becomes one space. Placeholders such as %(name)s stay: they are aligned across languages.
    """
    src, trg = _without_tags(src), _without_tags(trg)
    has_key = _has_key(src) or _has_key(trg)
    return _clean(src, has_key), _clean(trg, has_key)


def _without_tags(text: str) -> str:
    return _TAG.sub("", _BLOCK.sub(" ", text)) if "<" in text else text


def _has_key(text: str) -> bool:
    """Say whether a message looks like a label with one accelerator."""
    if _APPENDED_KEY.search(text):
        return True
    return len(_AMPERSAND.findall(text)) + len(_UNDERSCORE.findall(text)) == 1


def _clean(text: str, has_key: bool) -> str:
    if has_key:
        text = _APPENDED_KEY.sub("", text)
        text = _UNDERSCORE.sub("", _AMPERSAND.sub("", text, count=1), count=1)
    if "&" in text:
        text = html.unescape(text)
    return " ".join(text.replace("\ufeff", "").split())


def has_letters(text: str) -> bool:
    """Say whether there is a letter outside placeholders such as %s, {name} and ${name}."""
    bare = re.sub(r"%\(\w+\)[a-z]|%[a-z]|\$?\{[^}]*\}", "", text)
    return any(c.isalpha() for c in bare)
