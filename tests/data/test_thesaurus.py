"""Thesaurus links: words found without case, punctuation and inflection; frequent ones passed by;
limits, directions, and wrong files.
"""

from __future__ import annotations

import itertools
import unicodedata
import warnings

import pytest

from jalign.data.files import read_lines
from jalign.data.pipeline import StreamConfig, make_stream
from jalign.data.records import Example, Text, read_manifest, write_dataset
from jalign.data.rows import Specials
from jalign.data.thesaurus import (
    Spelling,
    ThesaurusConfig,
    most_frequent,
    read_lemmas,
)
from jalign.data.tokenizer import load_tokenizer, train_tokenizer
from jalign.errors import ConfigError

PAIRS = [
    ("The House, the cat", "Das HAUS und die Katze"),
    ("the cats sleep", "die Katze und das Bett"),
    ("the bed", "das Bett"),
    ("dogs and cats", "Hund und Katze"),
    ("a house a house", "Haus Haus Haus"),
]
WORDS = "house\tHaus\ncat\tKatze\nbed\tBett\nthe\tdas\nthe\tdie\nbed\tbed\n"
LEMMAS = [("cats", "cat"), ("dogs", "dog"), ("Cats", "cat"), ("the", "the")]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Write a dataset of the pairs, en-de, with a tokenizer that knows its characters."""
    folder = tmp_path_factory.mktemp("thesaurus")
    tokenizer = train_tokenizer([t for p in PAIRS for t in p] * 20, folder / "tokenizer", 38)

    def examples():
        for number, texts in enumerate(PAIRS, 1):
            encoded = tokenizer.encode_words(texts)
            sides = (Text(t, *e) for t, e in zip(texts, encoded, strict=True))
            yield Example(tuple(sides), f"pairs:{number}")

    found = list(examples())
    write_dataset(
        folder / "data",
        {
            ("pair", "en-de"): {"train": found, "heldout": found[:2]},
            ("pair", "en-fr"): {"train": found[:3]},
        },
        langs={"en-de": ("en", "de"), "en-fr": ("en", "fr")},
        vocab_size=tokenizer.vocab_size,
        tokenizer_sha256=tokenizer.sha256,
    )
    (folder / "words.tsv").write_text(WORDS, encoding="utf-8")
    swapped = [line.split("\t")[::-1] for line in WORDS.splitlines()]
    (folder / "swapped.tsv").write_text("\n".join("\t".join(x) for x in swapped), encoding="utf-8")
    lines = [f"1\t{form}\t{lemma}" + "\t_" * 7 for form, lemma in LEMMAS]
    (folder / "en.conllu").write_text("\n\n".join(lines) + "\n\n", encoding="utf-8")
    return folder, tokenizer


def links_of(data, file="en-de=words.tsv", split="train", sources=("en-de",), **changes):
    """Return the linked words of every pair and their weights, from the rows of a stream."""
    folder, tokenizer = data
    name, _, path = file.partition("=")
    cfg = ThesaurusConfig(files=(f"{name}={folder / path}",), **changes)
    stream = StreamConfig("separate", 1, row_length=128, sources=sources, thesaurus=cfg)
    specials = Specials(tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id)
    manifest = read_manifest(folder / "data")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a corpus of five sentences fits badly
        rows = make_stream(
            manifest, specials, "pair", stream, split=split, once=True, tokenizer=tokenizer
        )
    found = {}
    for number in range(rows.packed.num_rows):
        batch = {key: x[0] for key, x in rows.rows(number, 1).items()}
        for (source, record), example in zip(rows.records(number), itertools.count(1)):
            mine = [
                (int(batch["word"][i]), int(batch["word"][j]), float(weight))
                for (i, j), weight in zip(batch["links"], batch["link_weight"], strict=True)
                if i >= 0 and batch["example"][i] == example
            ]
            assert all(
                batch["side"][i] == 1 and batch["side"][j] == 2 for i, j in batch["links"] if i >= 0
            )
            found[source, record] = sorted(mine)
    return [found[key] for key in sorted(found)], rows


def test_words_are_found_without_case_and_punctuation(data):
    found, rows = links_of(data, skip_frequent=0)
    assert found[0] == [(0, 0, 1.0), (0, 3, 1.0), (1, 1, 1.0), (2, 0, 1.0), (2, 3, 1.0)] + [
        (3, 4, 1.0)
    ]
    assert found[3] == [] and found[2] == [(0, 0, 1.0), (1, 1, 1.0)]
    assert rows.counts == {"words in the dictionary en-de": 5}  # without bed - bed


def test_every_occurrence_is_linked_and_the_limit_takes_the_least_ambiguous(data):
    found, _ = links_of(data, skip_frequent=0)
    assert found[4] == [(i, j, 1.0) for i in (1, 3) for j in range(3)]
    found, _ = links_of(data, skip_frequent=0, max_links=3)
    assert [w for *_, w in found[4]] == [1.0] * 3 + [0.0] * 3  # not forgotten: no negatives
    # house and cat have one translation here, the has two
    assert [(i, j) for i, j, w in found[0] if w] == [(0, 0), (1, 1), (3, 4)]


def test_the_most_frequent_words_are_passed_by(data):
    found, _ = links_of(data, skip_frequent=1)  # the; Haus (4 times, and once HAUS)
    assert found[0] == [(3, 4, 1.0)] and found[4] == []
    assert most_frequent({"b": 2, "a": 2, "c": 3}, 2) == {"c", "a"}


def test_lemmas_match_where_a_treebank_says_them(data):
    folder, _ = data
    assert read_lemmas(str(folder / "en.conllu")) == {"cats": "cat", "dogs": "dog"}
    found, _ = links_of(data, skip_frequent=0, lemmas=(f"en={folder / 'en.conllu'}",))
    assert (1, 1, 1.0) in found[1] and found[3] == [(2, 2, 1.0)]


def test_a_dictionary_serves_both_directions_and_identical_words_on_request(data):
    expected, _ = links_of(data, skip_frequent=0)
    assert links_of(data, "de-en=swapped.tsv", skip_frequent=0)[0] == expected
    assert links_of(data, "en-de=words.tsv", skip_frequent=0, identical=True)[1].counts == {
        "words in the dictionary en-de": 6
    }


def test_held_out_pairs_have_links_too(data):
    found, _ = links_of(data, split="heldout", skip_frequent=0)
    assert found == links_of(data, skip_frequent=0)[0][:2]


def test_pairs_without_a_dictionary_have_no_links_and_are_counted(data):
    found, rows = links_of(data, sources=(), skip_frequent=0)
    assert rows.counts["pairs of en-fr without a dictionary"] == 3
    assert found[:5] == links_of(data, skip_frequent=0)[0] and found[5:] == [[]] * 3


def test_wrong_files_say_what_is_needed(data, tmp_path):
    with pytest.raises(ConfigError, match="no source of this stream pairs these languages .*en-de"):
        links_of(data, "en-fr=words.tsv")
    (tmp_path / "ru.tsv").write_text("дом\tкот\n", encoding="utf-8")
    with pytest.raises(ConfigError, match="of its source words occur"):
        links_of(data, f"en-de={tmp_path / 'ru.tsv'}")
    with pytest.raises(ValueError, match="need NAME=PATH, such as en-de=muse"):
        ThesaurusConfig(files=("words.tsv",))
    with pytest.raises(ValueError, match="max_links=0: need 1"):
        ThesaurusConfig(max_links=0)
    cfg = ThesaurusConfig(files=("en-de=words.tsv",))
    with pytest.raises(ValueError, match="lexicons and thesaurus.files both give word links"):
        StreamConfig("joint", rows=1, lexicons="lexicons", thesaurus=cfg)
    with pytest.raises(ValueError, match="has no pairs to link: remove thesaurus.files"):
        StreamConfig("single", rows=1, thesaurus=cfg)


def test_real_words_are_spelled_as_they_were_written(data, shared_data):
    """Only the normal form of the tokenizer is between a word and its spelling."""
    texts = []
    for lang in ("de", "ru", "hi", "ar"):
        lines = read_lines(shared_data / f"bitext/gettext.en-{lang}.tsv.gz")
        texts += [x.data.decode().split("\t")[1] for x in itertools.islice(lines, 200)]
    folder, _ = data
    tokenizer = train_tokenizer(texts, folder / "real", 2000, character_coverage=1.0)
    spelling, num, same = Spelling(load_tokenizer(folder / "real")), 0, 0
    for text, (ids, word) in zip(texts, tokenizer.encode_words(texts), strict=True):
        words, first = spelling.words(ids, word)
        assert len(words) == len(first) == len(text.split())
        for mine, theirs in zip(words, text.split(), strict=True):
            num += 1
            same += mine == "".join(unicodedata.normalize("NFKC", theirs).split())
    assert same > 0.99 * num > 1000
