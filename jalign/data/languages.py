"""Language tags (BCP 47): their shape, their usual case, and the locale names of catalogues."""

from __future__ import annotations

import re

from jalign.errors import UserError

_TAG = re.compile(
    r"(?P<language>[a-z]{2,3})(-(?P<extlang>[a-z]{3}))?(-(?P<script>[a-z]{4}))?"
    r"(-(?P<region>[a-z]{2}|[0-9]{3}))?(?P<variants>(-([a-z0-9]{5,8}|[0-9][a-z0-9]{3}))*)"
    r"(?P<extensions>(-[a-wyz0-9](-[a-z0-9]{2,8})+)*)(?P<private>-x(-[a-z0-9]{1,8})+)?",
    re.IGNORECASE,
)
# What a catalogue may be called where the exact tag is absent: the usual script or region.
_STAND_INS = {
    "zh": ("zh-Hans", "zh-CN"),
    "zh-Hans": ("zh-CN", "zh"),
    "zh-Hant": ("zh-TW", "zh-HK"),
    "sr": ("sr-Cyrl",),
    "sr-Cyrl": ("sr",),
    "no": ("nb",),
    "nb": ("no",),
    "pt-PT": ("pt",),
}
_SCRIPT_MODIFIERS = {"latin": "Latn", "cyrillic": "Cyrl", "devanagari": "Deva", "arabic": "Arab"}


def normalize_tag(tag: str) -> str:
    """Check the shape of a language tag and give it the usual case: `ZH-hans-cn` is `zh-Hans-CN`.

    Raises: UserError for what has not the shape of a BCP 47 tag.
    """
    match = _TAG.fullmatch(tag)
    if not match:
        hint = " Write it with hyphens." if "_" in tag else ""
        raise UserError(
            f"{tag!r} is not a language tag (BCP 47, such as en, sw, zh-Hans, pt-BR).{hint}"
        )
    parts = [match["language"].lower()]
    parts += [match["extlang"].lower()] if match["extlang"] else []
    parts += [match["script"].title()] if match["script"] else []
    parts += [match["region"].upper()] if match["region"] else []
    rest = (match["variants"] or "") + (match["extensions"] or "") + (match["private"] or "")
    return "-".join(parts) + rest.lower()


def from_locale(name: str) -> str | None:
    """Turn the name of a locale folder (`zh_Hans`, `pt_BR`, `sr@latin`, `de_DE.UTF-8`) into a tag.

    None where the name is no locale's.
    """
    base, _, modifier = name.partition("@")
    tag = base.partition(".")[0].replace("_", "-")
    if modifier:
        script = _SCRIPT_MODIFIERS.get(modifier.lower(), modifier)
        language, _, region = tag.partition("-")
        is_script = re.fullmatch("[A-Za-z]{4}", script)
        tag = "-".join(filter(None, [language, script, region])) if is_script else f"{tag}-{script}"
    try:
        return normalize_tag(tag)
    except UserError:
        return None


def stand_ins(tag: str) -> tuple[str, ...]:
    """Return the tag and those that may stand in for it, best first: `zh`, `zh-Hans`, `zh-CN`."""
    return (tag, *_STAND_INS.get(tag, ()))
