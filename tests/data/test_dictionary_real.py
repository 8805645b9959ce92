"""Real dictionaries: read whole, coverage, fit, links against gold; and a huge one."""

from __future__ import annotations

import gzip
import itertools
import re
import subprocess
import sys

import pytest

from jalign.data.dictionary import ReadOptions, read_dictionary
from jalign.data.tokenizer import train_tokenizer
from jalign.errors import ConfigError

NAMES = [
    "muse.en-ar",
    "muse.en-ru",
    "muse.en-zh",
    "freedict.en-hi",
    "freedict.en-sw",
    "cedict.en-zh",
]


def test_real_dictionaries_are_read_whole(shared_data):
    for name in NAMES:
        path = shared_data / f"dictionaries/{name}.txt.gz"
        with gzip.open(path, "rt", encoding="utf-8") as lines:
            rows = [line.rstrip("\n").split(" ") for line in lines]
        got = read_dictionary(path, ReadOptions(form="none"))
        assert got.pairs == tuple(map(tuple, rows)) and got.counts["entries"] == len(rows)


def corpus_words(shared_data, lang, num=4000):
    with gzip.open(shared_data / f"bitext/gettext.en-{lang}.tsv.gz", "rt", encoding="utf-8") as f:
        rows = [line.rstrip("\n").split("\t") for line in itertools.islice(f, num)]
    return tuple({word for row in rows for word in row[side].split()} for side in (0, 1)), rows


def test_real_dictionaries_fit_their_own_languages_only(shared_data):
    (src, trg), _ = corpus_words(shared_data, "ru")
    names = ("muse.en-ru", "muse.en-ar", "freedict.en-hi")
    fits = [read_dictionary(shared_data / f"dictionaries/{name}.txt.gz") for name in names]
    own = fits[0].fit(src, trg)
    assert own.warnings == () and own.scripts[1] == ("CYRILLIC", "CYRILLIC")
    assert "ARABIC script in the dictionary" in fits[1].fit(src, trg).warnings[0]
    with pytest.raises(ConfigError, match="DEVANAGARI"):
        fits[2].fit(src, trg)
    assert "swap=True" in fits[0].fit(trg, src).warnings[0]


def test_coverage_of_real_vocabularies_adds_up(shared_data, tmp_path):
    _, rows = corpus_words(shared_data, "ru", 2000)
    tokenizer = train_tokenizer([text for row in rows for text in row], tmp_path / "t", 3000)
    path = shared_data / "dictionaries/muse.en-ru.txt.gz"
    dictionary = read_dictionary(path, ReadOptions(max_pairs=12_000))  # the frequent words
    single = dictionary.piece_pairs(tokenizer)
    several = dictionary.piece_sequences(tokenizer, max_pieces=6)
    assert 100 < len(single.ids_N2) < len(several.src_NP)
    for counts in (single.counts, several.counts):
        assert sum(counts.values()) == 2 * counts["entries"] == 2 * len(dictionary)
    assert several.counts["single pieces"] == single.counts["single pieces"]
    for src, trg in single.ids_N2[:200]:
        words = [tokenizer.backend.decode([i]).strip() for i in (src, trg)]
        assert tuple(words) in dictionary.pairs
    assert not set(single.ids_N2.ravel().tolist()) & set(tokenizer.special_ids)


def test_word_links_agree_with_gold_alignments(shared_data):
    dictionary = read_dictionary(shared_data / "dictionaries/muse.en-fr.txt.gz")
    texts = (shared_data / "alignment/hansards.en-fr.src-tgt").read_text().splitlines()
    golds = (shared_data / "alignment/hansards.en-fr.gold").read_text().splitlines()
    found = right = 0
    for text, gold in zip(texts, golds, strict=True):
        src, trg = (side.split() for side in text.split("|||"))
        possible = {tuple(int(i) - 1 for i in re.split("[-p]", link)) for link in gold.split()}
        links = dictionary.word_links(src, trg)
        found += len(links)
        right += len(possible.intersection(links))
    # every occurrence is linked with every one, so frequent words cost precision
    assert found > 3500 and right / found > 0.6


@pytest.mark.slow
def test_ten_million_lines_are_read_in_bounded_memory(tmp_path):
    path, num = tmp_path / "large.txt", 10_000_000
    with path.open("w") as file:
        for start in range(0, num, 100_000):
            file.write("".join(
                f"word{i % 3_000_000} wort{i * 7919 % num}\n" for i in range(start, start + 100_000)
            ))  # fmt: skip
    code = f"""
import resource
from jalign.data.dictionary import ReadOptions, read_dictionary
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
got = read_dictionary({str(path)!r}, ReadOptions(max_pairs=200_000))
after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
mebibytes = (after - before) // 1024
print(len(got), got.counts["entries"], got.counts["beyond max_pairs=200000"], mebibytes)
"""
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    kept, entries, beyond, mebibytes = map(int, out.stdout.split())
    assert (kept, entries, beyond) == (200_000, num, num - 200_000)
    assert mebibytes < 150, f"{mebibytes} MiB"
