"""Catalogues: English beside its translation, markup off, and a count of all that is left out."""

import gzip
import importlib.util
from collections import Counter

import polib
import pytest

from jalign.data.corpora import _markup, gettext
from jalign.errors import UserError

PO = r"""
msgid ""
msgstr ""
"Content-Type: text/plain; charset=UTF-8\n"
"Plural-Forms: nplurals=3; plural=(n%10==1 && n%100!=11 ? 0 : n%10>=2 && n%10<=4 ? 1 : 2);\n"

msgid "&Save the <b>file</b>"
msgstr "&Сохранить <b>файл</b>"

msgctxt "menu"
msgid "Open"
msgstr "Открыть"

#, fuzzy
msgid "Close"
msgstr "Закрытие"

msgid "Help"
msgstr ""

msgid "%(n)s file"
msgid_plural "%(n)s files"
msgstr[0] "%(n)s файл"
msgstr[1] "%(n)s файла"
msgstr[2] "%(n)s файлов"

#. Default: "You are \"here\""
msgid "label_you_are_here"
msgstr "Вы здесь"

msgid "label_without_default"
msgstr "Без исходного"

msgid "Python"
msgstr "Python"

msgid "%s: %d"
msgstr "%s — %d"

#~ msgid "Old"
#~ msgstr "Старый"
"""
PAIRS = [
    ("Save the file", "Сохранить файл"),
    ("Open", "Открыть"),
    ("%(n)s file", "%(n)s файл"),
    ("%(n)s files", "%(n)s файлов"),
    ('You are "here"', "Вы здесь"),
]
LEFT_OUT = {
    "fuzzy": 1, "untranslated": 1, "other_plural_form": 1, "symbolic_id": 1,
    "same_as_english": 1, "no_letters": 1, "obsolete": 1,
}  # fmt: skip


def texts(raws):
    return [tuple(side.decode() for side in raw.sides) for raw in raws]


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_po_gives_pairs_with_lines_and_counts_the_rest(tmp_path, suffix):
    path = tmp_path / f"ru.po{suffix}"
    path.write_bytes(gzip.compress(PO.encode()) if suffix else PO.encode())
    left_out = Counter()
    raws = list(gettext.read(str(path), left_out=left_out))
    assert texts(raws) == PAIRS
    assert left_out == LEFT_OUT
    for raw, start in zip(raws[:2], ('msgid "&Save', 'msgctxt "menu"'), strict=True):
        assert PO.splitlines()[raw.line - 1].startswith((start, "msgid"))


def test_mo_gives_the_same_pairs_as_its_po(tmp_path):
    po = polib.pofile(PO)
    po.save_as_mofile(str(tmp_path / "ru.mo"))
    found = texts(gettext.read(str(tmp_path / "ru.mo")))
    # a .mo has no comments, so symbolic ids cannot be told from English
    assert sorted(found)[: len(PAIRS) - 1] == sorted(PAIRS[:-1])


def test_locale_folders_are_matched_by_tag_and_po_goes_before_mo(tmp_path):
    for locale, suffix in [("zh_CN", "po"), ("zh_CN", "mo"), ("zh_TW", "po"), ("pt_BR", "mo")]:
        folder = tmp_path / locale / "LC_MESSAGES"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"x.{suffix}").write_bytes(b"")

    def names(lang):
        return [str(c.path.relative_to(tmp_path)) for c in gettext.find(str(tmp_path), lang)]

    assert names("zh") == names("zh-Hans") == ["zh_CN/LC_MESSAGES/x.po"]
    assert names("zh-TW") == names("zh-Hant") == ["zh_TW/LC_MESSAGES/x.po"]
    assert names("pt-BR") == ["pt_BR/LC_MESSAGES/x.mo"]
    with pytest.raises(UserError, match="no catalogues for de; it has pt-BR, zh-CN, zh-TW"):
        names("de")


def test_broken_catalogues_are_flawed_at_their_line(tmp_path):
    path = tmp_path / "de.po"
    path.write_text(PO + '\nmsgid "a"\nmsgstr "b\nnonsense here\n')
    [raw] = gettext.read(str(path))
    assert raw.flaw.reason == "bad_catalogue"
    assert raw.line == 45
    path.write_bytes(PO.encode().replace("Открыть".encode(), b"\xff\xfe"))
    [raw] = gettext.read(str(path))
    assert raw.flaw.reason == "bad_utf8"
    assert "msgstr" in PO.splitlines()[raw.line - 1]
    (tmp_path / "de.mo").write_bytes(b"not a catalogue at all")
    [raw] = gettext.read(str(tmp_path / "de.mo"))
    assert raw.flaw.reason == "bad_catalogue"


def test_a_bom_is_reported_and_a_line_separator_does_not_break_the_catalogue(tmp_path):
    path = tmp_path / "ru.po"
    path.write_bytes(b"\xef\xbb\xbf" + PO.replace("Открыть", "От\u2028крыть").encode())
    first, second, *rest = gettext.read(str(path))
    assert [r.reason for r in first.repairs] == ["bom"]
    assert (second.repairs, len(rest)) == ((), 3)
    assert second.sides[1].decode() in ("От\u2028крыть", "От крыть")


@pytest.mark.parametrize(
    ("src", "trg", "want"),
    [
        ("&File", "&Datei", ("File", "Datei")),
        ("File", "文件(&F)", ("File", "文件")),
        ("_Open…", "開く(_O)…", ("Open…", "開く…")),
        ("Save _As", "Speichern _unter", ("Save As", "Speichern unter")),
        ("R&D at AT&T", "F&E bei AT&T", ("R&D at AT&T", "F&E bei AT&T")),
        ("Tom &amp; Eve", "Tom &amp; Eva", ("Tom & Eve", "Tom & Eva")),
        ('See <a href="x">this</a>.<br/>Now', "Siehe<br>das", ("See this. Now", "Siehe das")),
        ("a < b and\n c", "a < b und c", ("a < b and c", "a < b und c")),
        ("Hi %(user_name)s", "Hallo %(user_name)s", ("Hi %(user_name)s", "Hallo %(user_name)s")),
        ("the file_name", "der file_name", ("the file_name", "der file_name")),
    ],
)
def test_markup_goes_and_text_stays(src, trg, want):
    assert _markup.clean_pair(src, trg) == want


def test_only_english_can_be_the_source():
    with pytest.raises(UserError, match="translated from en, not de"):
        list(gettext.parts(["de", "fr", "x.po"]))


def test_a_package_that_is_not_installed_says_how_to_get_it():
    said = r"no installed package 'nope.nope'.*with pip .*Django and plone.app.locales"
    with pytest.raises(UserError, match=said):
        list(gettext.parts(["en", "fr", "package:nope.nope"]))


@pytest.mark.parametrize("lang", "de fr es ru zh ar hi vi tr ja".split())
def test_quickstart_packages_give_enough_messages(lang):
    if any(importlib.util.find_spec(name) is None for name in ("django", "plone")):
        pytest.skip("the extra 'quickstart' is not installed")
    pairs = set()
    for package in ("package:django", "package:plone.app.locales"):
        for part in gettext.parts(["en", lang, package]):
            for raw in part.read():
                assert raw.origin.startswith(package + "/")
                pairs.add(raw.sides)
    assert 1_800 <= len(pairs) <= 5_000
