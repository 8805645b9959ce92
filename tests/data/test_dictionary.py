"""Dictionaries: every format and option by hand, errors, coverage, and the real ones."""

from __future__ import annotations

import gzip
import re
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from jalign.data.dictionary import Dictionary, ReadOptions, read_dictionary
from jalign.data.tokenizer import load_tokenizer
from jalign.errors import BadData, ConfigError

TEI = """<?xml version="1.0" encoding="UTF-8"?>
<!-- made for this test -->
<TEI xmlns="http://www.tei-c.org/ns/1.0"><teiHeader><p>entry</p></teiHeader><text><body>
<entry><form><orth>Haus</orth><pron>haʊs</pron></form><sense>
  <cit type="trans"><quote>house</quote></cit>
  <cit type="trans"><quote>home (fig.)</quote></cit>
  <cit type="example"><quote>zu Hause</quote><cit type="trans"><quote>at home</quote></cit></cit>
</sense></entry>
<entry><form><orth>10c piece</orth></form><sense><def>coin, dime; bit</def></sense></entry>
<entry><form><orth>leer</orth></form><sense/></entry>
<entry><form><orth>alt</orth></form><trans><tr>old</tr></trans></entry>
</body></text></TEI>
"""
ARTICLES = [
    ("00databaseinfo", "00-database-info\nof the dictionary\n"),
    ("allah", "Allah /ˈallah/ <n>\n\nGod\n"),
    ("akiba", "akiba /akˈiba/ <n> [sg=pl]\n\nreserve, savings (old)\n; hoard\n an indented note\n"),
    ("haus", "Haus /haʊs/ <n>\n1.\nhouse <b>\n2.\n [Am.] home\n   Synonym: {Heim}\n see: {x}\n"),
]  # fmt: skip


def write(path, text):
    data = text if isinstance(text, bytes) else text.encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


def read(tmp_path, text, name="d.txt", **options):
    return read_dictionary(write(tmp_path / name, text), ReadOptions(**options))


def pairs_of(text):
    return tuple(tuple(pair.split("=")) for pair in text.split())


@pytest.mark.parametrize("name", ["d.txt", "d.txt.gz"])
def test_two_columns_with_spaces_or_tabs(tmp_path, name):
    spaces = read(tmp_path, "\ufeffthe die\r\nthe der\r\n\r\ncat  Katze\n# a comment\n#x #y", name)
    assert spaces.pairs == pairs_of("the=die the=der cat=Katze #x=#y")
    assert spaces.weights.tolist() == [0.5, 0.5, 1, 1]
    assert spaces.counts == {"entries": 4, "comment or empty line": 2, "kept": 4}
    tabs = read(tmp_path, "New York\tNeu Yorck\t0.5\t\ncat\tKatze\n", name)
    assert tabs.pairs == (("New York", "Neu Yorck"), ("cat", "Katze"))


def test_weights_of_the_file_are_added_up_and_divided_by_their_sum(tmp_path):
    got = read(tmp_path, "a x 3\na y 1\na x 2\nb z 0.1\nc w 0\nc w -1\nc w nan\nd v\n")
    assert got.pairs == pairs_of("a=x a=y b=z d=v")
    np.testing.assert_allclose(got.weights, [5 / 6, 1 / 6, 1, 1], rtol=1e-6)
    assert got.counts["weight is not positive"] == 3 and got.counts["repeated"] == 1


@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from("xyz"), st.floats(0.01, 9))))
def test_weights_sum_to_one_for_every_source_word_in_both_directions(tmp_path_factory, rows):
    lines = "".join(f"{a}\t{b}\t{w}\n" for a, b, w in [*rows, ("a", "x", 1.0)])
    path = write(tmp_path_factory.getbasetemp() / "weights.txt", lines)
    one = read_dictionary(path)
    for dictionary in (one, one.swapped()):
        for src in {s for s, _ in dictionary.pairs}:
            mine = [w for (s, _), w in zip(*dictionary_rows(dictionary), strict=True) if s == src]
            assert sum(mine) == pytest.approx(1, rel=1e-5)
    assert set(one.swapped().pairs) == {(b, a) for a, b in one.pairs}
    assert one.counts["kept"] + one.counts.get("repeated", 0) == one.counts["entries"]


def dictionary_rows(dictionary):
    return dictionary.pairs, dictionary.weights


def test_lines_that_are_no_entry_are_counted_by_reason(tmp_path):
    text = b"cat Katze\nalone\na b c d\na b c\nbad\xff x\nnul\0 x\n" + b"x" * (1 << 20) + b" y\n"
    got = read(tmp_path, text)
    assert got.pairs == pairs_of("cat=Katze")
    assert got.counts == {
        "entries": 7, "needs two columns": 3, "not UTF-8": 1, "control character": 1,
        "line too long": 1, "kept": 1,
    }  # fmt: skip
    tabs = read(tmp_path, "a b\tc\nno tab\n\tx\nx\ty\tnoun\n")
    assert tabs.pairs == (("a b", "c"), ("x", "y"))
    assert tabs.counts["needs two columns"] == 2
    assert tabs.counts["with more columns than used"] == 1
    assert tabs.report()[0] == "d.txt: 2 pairs of 2 source and 2 target words, from 4 entries"
    assert "  2 needs two columns" in tabs.report()


def test_case_and_unicode_forms_merge_entries(tmp_path):
    text = "Cafe\u0301 x\ncafé x\nCafé x\nﬁn y\nStraße z\n"
    assert read(tmp_path, text).pairs == pairs_of("Café=x café=x ﬁn=y Straße=z")
    folded = read(tmp_path, text, case="fold", form="NFKC")
    assert folded.pairs == pairs_of("café=x fin=y strasse=z") and folded.counts["repeated"] == 2
    assert read(tmp_path, text, case="lower").pairs == pairs_of("café=x ﬁn=y straße=z")
    assert len(read(tmp_path, text, form="none")) == 5


def test_options_leave_out_phrases_identical_sides_and_what_is_beyond_the_limit(tmp_path):
    text = "New York\tNeu\nOslo\tOslo\ncat\tKatze\ncat\tKater\ncat\tKatze\ndog\tHund\ncat\tTier\n"
    got = read(tmp_path, text, phrases=False, identical=False, max_pairs=2, swap=True)
    assert got.pairs == pairs_of("Katze=cat Kater=cat")
    assert got.counts == {
        "entries": 7, "of several words": 1, "of identical sides": 1, "repeated": 1,
        "beyond max_pairs=2": 2, "kept": 2,
    }  # fmt: skip
    path = write(tmp_path / "v.txt", text)
    got = read_dictionary(path, vocabularies=({"cat", "New", "York"}, {"Katze", "Neu"}))
    assert got.pairs == (("New York", "Neu"), ("cat", "Katze"))
    assert got.counts["not in the source vocabulary"] == 2  # Oslo, dog
    assert got.counts["not in the target vocabulary"] == 2  # Kater, Tier


def test_freedict_tei_gives_translations_and_not_those_of_examples(tmp_path):
    for name, text in (
        ("d.tei", TEI),
        ("d.tei.gz", TEI),
        ("d.xml", re.sub(' xmlns="[^"]*"', "", TEI)),
    ):
        got = read(tmp_path, text, name)
        assert got.pairs == (
            ("Haus", "house"), ("Haus", "home"), ("10c piece", "coin"), ("10c piece", "dime"),
            ("10c piece", "bit"), ("alt", "old"),
        )  # fmt: skip
        assert got.counts == {"entries": 7, "no translation": 1, "kept": 6}


def test_a_large_tei_file_is_not_held_in_memory(tmp_path):
    entry = TEI[TEI.index("<entry>") : TEI.index("<entry><form><orth>10c")]
    head, tail = TEI[: TEI.index("<entry>")], "</body></text></TEI>"
    path = write(tmp_path / "large.tei", head + entry * 3_000 + tail)
    tracemalloc.start()
    got = read_dictionary(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert got.counts["repeated"] == 5_998 and peak < 1.5e6, f"{peak / 1e6:.1f} MB"


def base64(number):
    digits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    return (base64(number // 64) if number > 63 else "") + digits[number % 64]


@pytest.mark.parametrize("name", ["d.dict.dz", "d.dict"])
def test_freedict_dictd_articles_are_taken_apart(tmp_path, name):
    text, index = b"", []
    for head, article in ARTICLES:
        data = article.encode()
        index.append(f"{head}\t{base64(len(text))}\t{base64(len(data))}\n")
        text += data
    index.append(index[-1].replace("haus", "heim"))  # two headwords of one article
    (tmp_path / "d.index").write_text("".join(sorted(index)), encoding="utf-8")
    (tmp_path / name).write_bytes(gzip.compress(text) if name.endswith("dz") else text)
    for given_name in ("d.index", name):
        got = read_dictionary(tmp_path / given_name)
        assert sorted(got.pairs) == sorted(pairs_of(
            "Allah=God akiba=reserve akiba=savings akiba=hoard Haus=house Haus=home "
            "heim=house heim=home"
        ))  # fmt: skip
    (tmp_path / name).unlink()
    with pytest.raises(ConfigError, match="the text is missing"):
        read_dictionary(tmp_path / "d.index")


@pytest.mark.parametrize(
    ("name", "data", "error", "said"),
    [
        ("empty.txt", b"", ConfigError, "it is empty.*Need lines 'source target'"),
        ("only.txt", b"# a\n\n", ConfigError, "no entries.*2 comment or empty line"),
        ("one.txt", b"cat\ndog\n", ConfigError, "no pair of words: 2 needs two columns"),
        (
            "utf16.txt",
            "cat Katze\n".encode("utf-16"),
            BadData,
            "1 of 1 lines|2 of 2 lines are no UTF-8 text.*iconv",
        ),
        ("latin.txt", "é ü\nö ä\ncat x\n".encode("latin-1"), BadData, "2 of 3 lines"),
        (
            "cut.txt.gz",
            gzip.compress(b"a b\n" * 9999, mtime=0)[:30],
            BadData,
            "cut short or damaged",
        ),
        ("cut.tei", TEI[:600].encode(), BadData, "no whole XML"),
        ("cut.tei.gz", gzip.compress(TEI.encode(), mtime=0)[:99], BadData, "no whole XML"),
        ("text.tei", b"cat Katze\n", BadData, "no whole XML"),
    ],
)
def test_what_is_no_dictionary_gets_a_clear_error(tmp_path, name, data, error, said):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(error, match=said) as caught:
        read_dictionary(tmp_path / name)
    assert name in str(caught.value) and caught.value.exit_code == (
        2 if error is ConfigError else 3
    )


def test_missing_files_and_unknown_options_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="nothing.txt does not exist"):
        read_dictionary(tmp_path / "nothing.txt")
    with pytest.raises(ConfigError, match="is a folder"):
        read_dictionary(tmp_path)
    write(tmp_path / "d.txt", "a b\n")
    with pytest.raises(ConfigError, match="columns, tei, dictd"):
        read_dictionary(tmp_path / "d.txt", ReadOptions(format="stardict"))
    for options in ({"case": "upper"}, {"form": "NFD"}, {"max_pairs": 0}):
        with pytest.raises(ConfigError, match=next(iter(options))):
            ReadOptions(**options)
    with pytest.raises(ConfigError, match="1 of identical sides"):
        read(tmp_path, "a a\n", identical=False)
    (tmp_path / "x.index").write_text("head only\n")
    (tmp_path / "x.dict").write_text("head\n")
    with pytest.raises(BadData, match="x.index:1"):
        read_dictionary(tmp_path / "x.index")


@pytest.fixture(scope="module")
def byte_level(tmp_path_factory):
    """A byte-level tokenizer in which a word has other pieces at the head of a text."""
    pieces = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", "a", "Ġcat", "cat", "ĠKat", "ze", "Ġhund"]
    pieces += ["ĠHaus", "Ġhouse", "Ġdog", "Ġh", "Ġ", "A", "b", "Ġd"]
    letters = sorted({c for piece in pieces if piece[0] != "<" for c in piece} - set(pieces))
    vocab = {piece: i for i, piece in enumerate([*pieces, *letters])}
    merges = [("Ġ", "h"), ("Ġ", "d")]
    for piece in ("Ġcat", "cat", "ĠKat", "ze", "Ġhund", "ĠHaus", "Ġhouse", "Ġdog"):
        for i in range(1, len(piece)):
            if (piece[:i], piece[i]) not in merges:
                merges.append((piece[:i], piece[i]))
                vocab.setdefault(piece[: i + 1], len(vocab))
    for piece in [*letters, "Ġ"]:
        vocab.setdefault(piece, len(vocab))
    backend = Backend(models.BPE(vocab=vocab, merges=merges, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.post_processor = processors.RobertaProcessing(
        ("</s>", 2), ("<s>", 0), trim_offsets=False
    )
    folder = tmp_path_factory.mktemp("byte_level")
    PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<s>", eos_token="</s>", pad_token="<pad>",
        unk_token="<unk>", mask_token="<mask>", cls_token="<s>", sep_token="</s>",
    ).save_pretrained(folder)  # fmt: skip
    return load_tokenizer(folder)


def pieces(tokenizer, ids):
    return tokenizer.backend.decode(ids.tolist(), skip_special_tokens=False)


def test_words_are_looked_up_as_within_a_sentence_and_merged_by_pieces(byte_level):
    entries = pairs_of("cat=hund dog=hund dog=Haus cat=cat cat=Katze Ж=dog house=haus")
    weights = np.array([0.5, 0.5, 0.5, 0.25, 0.25, 1, 1], np.float32)
    got = Dictionary("d", entries, weights).piece_pairs(byte_level)
    names = [tuple(pieces(byte_level, one) for one in pair[:, None]) for pair in got.ids_N2]
    assert names == [(" cat", " hund"), (" dog", " hund"), (" dog", " Haus")]
    assert got.ids_N2.dtype == np.int32 and got.weights_N.tolist() == [1, 0.5, 0.5]
    assert got.counts == {
        "entries": 7, "single pieces": 3, "the same pieces on both sides": 1,
        "of more than 1 piece": 2, "with characters the tokenizer does not know": 1,
    }  # fmt: skip
    assert got.report()[0] == "3 of 7 entries are pairs of single pieces"
    assert sum(v for k, v in got.counts.items() if k != "entries") == 7
    byte_level.counts["word without a piece"] = 2  # as of a text; a dictionary leaves them alone
    Dictionary("d", entries, weights).piece_pairs(byte_level)
    assert byte_level.counts == {"word without a piece": 2}
    titled = Dictionary("d", entries, weights).piece_pairs(byte_level, try_title=True)
    assert len(titled.ids_N2) == 4 and pieces(byte_level, titled.ids_N2[3]) == " house Haus"


def test_entries_that_become_equal_in_pieces_add_their_weights(byte_level):
    entries, weights = pairs_of("dog=Haus dog=haus dog=hund"), np.array([0.25, 0.25, 0.5])
    got = Dictionary("d", entries, weights).piece_pairs(byte_level, try_title=True)
    assert got.weights_N.tolist() == [0.5, 0.5]
    assert got.counts["the same pieces as another entry"] == 1


def test_entries_of_several_pieces_are_padded_and_limited(byte_level):
    entries = (("cat", "Katze"), ("cat dog", "hund"), ("dog", "Katze Katze Katze"), ("cat", "hund"))
    got = Dictionary("d", entries, np.ones(4, np.float32)).piece_sequences(byte_level, max_pieces=3)
    assert [pieces(byte_level, row[row >= 0]) for row in got.src_NP] == [" cat", " cat dog", " cat"]
    assert [pieces(byte_level, row[row >= 0]) for row in got.trg_NP] == [" Katze", " hund", " hund"]
    assert got.src_NP.shape == (3, 3) and (got.src_NP[0, 1:] == -1).all()
    assert got.weights_N.tolist() == [0.5, 1, 0.5]
    assert got.counts == {
        "entries": 4, "several pieces": 2, "of more than 3 pieces": 1, "single pieces": 1,
    }  # fmt: skip


def test_no_usable_pair_is_an_error_that_says_why(byte_level):
    with pytest.raises(ConfigError, match="none of the 2 entries.*1 of more than 1 piece.*case="):
        Dictionary("d", pairs_of("cat=Katze Ж=Ж"), np.ones(2)).piece_pairs(byte_level)


def test_word_links_are_all_pairs_that_translate_each_other():
    entries = (("the", "das"), ("house", "Haus"), ("New York", "Neu"), ("dog", "der Hund"),
               ("house", "das Haus"), ("a b c d e f g", "x"))  # fmt: skip
    dictionary = Dictionary("d", entries, np.ones(6))
    assert dictionary.word_links("The house, the".split(), "Das Haus .".split()) == [
        (0, 0), (1, 0), (1, 1), (2, 0),
    ]  # fmt: skip
    assert dictionary.word_links("in New York !".split(), "in Neu Hund".split()) == [(1, 1), (2, 1)]
    assert dictionary.word_links(["dog"], "ein der Hund".split()) == [(0, 1), (0, 2)]
    assert dictionary.word_links([], ["x"]) == dictionary.word_links(["cat"], ["Katze"]) == []
    assert Dictionary("d", pairs_of("«=»"), np.ones(1)).word_links(["«"], ["»"]) == [(0, 0)]


def test_a_dictionary_of_other_languages_is_noticed():
    dictionary = Dictionary("d", pairs_of("cat=кот dog=пёс house=дом"), np.ones(3))
    fit = dictionary.fit(["Cat", "dog."], ["кот", "и", "дом", "все"])
    assert fit.entries_found == (2 / 3, 2 / 3) and fit.words_covered == (1.0, 0.5)
    assert fit.scripts == (("LATIN", "LATIN"), ("CYRILLIC", "CYRILLIC")) and fit.warnings == ()
    with pytest.raises(ConfigError, match="0.0% of its source words.*swap=True"):
        dictionary.fit(["кот", "дом"], ["cat", "house"])
    with pytest.raises(ConfigError, match="target corpus .CYRILLIC.* CJK.*these languages"):
        dictionary.fit(["cat"], ["猫", "家"])
    rare = dictionary.fit(["cat", *(f"w{i}" for i in range(99))], ["кот", "и"], min_frac=0.5)
    assert len(rare.warnings) == 1 and "33.3% of its source words" in rare.warnings[0]
    other = dictionary.fit(["cat", "dog"], ["кот", *(f"word{i}" for i in range(99))])
    assert (
        len(other.warnings) == 1 and "CYRILLIC script in the dictionary, LATIN" in other.warnings[0]
    )
