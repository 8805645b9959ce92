"""A transliterated language as text: cut by the tokenizer of both languages into id + V; and
whole folders of derived files.
"""

from __future__ import annotations

import gzip
import itertools
import json

import numpy as np
import pytest

from jalign.cli.main import main
from jalign.data.id_pairs import read_id_pairs
from jalign.data.synthetic import conllu, script
from jalign.data.tasks import conllu as pos
from jalign.data.tasks import ner, nli, qa
from jalign.data.tokenizer import load_tokenizer, train_tokenizer
from jalign.errors import UserError
from tests.tiny import WORDS, sentences, write_tiny_dataset

LINES = [
    *sentences(4, 60),
    "the house , the cat ; 12 houses . ½ dog…",  # NFKC makes two words of one, three dots of one
    "le ﬁlm ÉTÉ e\u0301te\u0301 𝔘nknown ₿ 😀 \U00020001",
]
TREE = """# sent_id = 1
# text = the big house sleeps.
1\tthe\tthe\tDET\t_\t_\t3\tdet\t_\t_
2\tbig\tbig\tADJ\t_\t_\t3\tamod\t_\t_
3\thouse\thouse\tNOUN\t_\t_\t4\tnsubj\t_\t_
4\tsleeps\tsleep\tVERB\t_\t_\t0\troot\t_\tSpaceAfter=No
5\t.\t.\tPUNCT\t_\t_\t4\tpunct\t_\t_

"""


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("script")
    train_tokenizer(sentences(0, 800), folder / "base", 76)
    script.double_tokenizer(folder / "base", folder / "both")
    return folder


@pytest.fixture(scope="module")
def tokenizers(base):
    return load_tokenizer(base / "base"), load_tokenizer(base / "both")


@pytest.mark.parametrize("overlap", [0.0, 0.4, 1.0])
def test_the_new_text_is_cut_exactly_like_the_old_one(tokenizers, overlap):
    one, both = tokenizers
    writer = script.make_script(one, overlap=overlap, seed=1)
    old = one.encode_words(LINES)
    new = both.encode_words([writer.text(line) for line in LINES])
    assert both.vocab_size == 2 * one.vocab_size and both.special_ids == one.special_ids
    for (ids, word), (new_ids, new_word) in zip(old, new, strict=True):
        np.testing.assert_array_equal(new_ids, writer.transliteration.ids(ids)[0])
        np.testing.assert_array_equal(new_word, word)
    for (ids, _), (same, _) in zip(old, both.encode_words(LINES), strict=True):
        np.testing.assert_array_equal(ids, same)


def test_no_character_is_shared_and_words_stay_words(tokenizers):
    writer = script.make_script(tokenizers[0])
    for line in LINES[:60]:
        new = writer.text(line)
        assert len(new.split()) == len(line.split())
        assert not set(new) & set(line) - {" "}
        assert all(char.isalpha() for char in new.replace(" ", ""))


def test_different_characters_are_written_differently():
    codes = itertools.chain(range(0x21, 0x3000), range(0xA000, 0xB000), range(0x1F300, 0x1F700))
    new = [script.write_char(chr(code)) for code in codes]
    assert len(set(new)) == len(new)
    assert script.write_char("\U0010fffd") == "\U0010fffd"  # beyond what there is room for


def test_real_text_of_four_scripts_is_cut_into_shifted_ids(shared_data, tmp_path):
    lines = []
    for lang in ("en", "ru", "ar", "zh"):
        trees = conllu.read_conllu(shared_data / f"pos/pud.{lang}.test.conllu.gz")
        lines += [" ".join(tree.words) for tree in itertools.islice(trees, 100)]
    one = train_tokenizer(lines[::2], tmp_path / "base", 2000)
    both = script.double_tokenizer(tmp_path / "base", tmp_path / "both")
    writer = script.make_script(one)
    new = both.encode_words([writer.text(line) for line in lines])
    for (ids, _), (new_ids, _) in zip(one.encode_words(lines), new, strict=True):
        np.testing.assert_array_equal(new_ids, writer.transliteration.ids(ids)[0])


def test_a_tokenizer_of_another_kind_or_doubled_already_is_refused(base, tmp_path):
    with pytest.raises(UserError, match="second script already"):
        script.double_tokenizer(base / "both", tmp_path / "a")
    content = json.loads((base / "base/tokenizer.json").read_text())
    assert content["model"]["type"] == "Unigram"
    folder = tmp_path / "hf"
    from tests.hf.torch_models import TRAINERS

    folder.mkdir()
    TRAINERS["bert"](folder)
    with pytest.raises(UserError, match="only a SentencePiece Unigram"):
        script.double_tokenizer(folder, tmp_path / "b")


def test_the_dictionary_holds_every_word_and_half_of_them_for_training(tokenizers):
    one, both = tokenizers
    writer = script.make_script(one)
    pairs = script.dictionary_of(writer, both, 0.5, langs=("en", "xx"))
    ids = pairs.src_NP[:, 0]
    np.testing.assert_array_equal(pairs.trg_NP[:, 0], ids + one.vocab_size)
    assert set(ids) == set(range(one.vocab_size)) - set(one.special_ids)
    expected = writer.transliteration.dictionary(0.5)[:, 0]
    np.testing.assert_array_equal(ids[pairs.train_N], expected)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    (folder / "text.txt").write_text("the cat . le chat dort !\n\nder Hund schläft\n")
    (folder / "words.conllu").write_text(TREE * 12)
    (folder / "ner.tsv").write_text("cat\tB-PER\nhouse\tI-PER\nis\tO\n\nbed\tO\n\n")
    (folder / "nli.tsv").write_text("premise\thypothesis\tlabel\nthe cat.\tbig dog.\tneutral\n")
    context = "the big cat sleeps. the (dog) is big."
    questions = [("1", "cat sleeps ?", 8, "cat sleeps"), ("2", "who ?", 25, "dog")]
    qas = [
        {"id": i, "question": q, "answers": [{"answer_start": at, "text": text}]}
        for i, q, at, text in questions
    ]
    assert all(context[at : at + len(text)] == text for _, _, at, text in questions)
    data = {"data": [{"title": "t", "paragraphs": [{"context": context, "qas": qas}]}]}
    (folder / "qa.json").write_text(json.dumps(data))
    return folder


def run(files, output, name, *more):
    argv = ["synthetic", f"--transformation={name}", f"--output={output}", *more]
    return main(argv)


def kinds(files):
    return [
        f"--text=t={files}/text.txt", f"--ner=t={files}/ner.tsv", f"--nli=t={files}/nli.tsv",
        f"--qa=t={files}/qa.json",
    ]  # fmt: skip


def test_a_folder_of_inverted_and_transliterated_files_is_parallel(base, files, tmp_path, capsys):
    more = [*kinds(files), f"--conllu=t={files}/words.conllu", f"--tokenizer={base}/base"]
    assert run(files, tmp_path / "o", "trans+inv", *more) == 0
    assert "dictionary.npz" in capsys.readouterr().out
    one, both = load_tokenizer(base / "base"), load_tokenizer(tmp_path / "o/tokenizer")
    pairs = read_id_pairs(tmp_path / "o/dictionary.npz", both.sha256)
    assert pairs.langs == ("en", "en-x-trans-inv")
    writer = script.make_script(one)

    def both_of(kind, ending):
        return [tmp_path / "o" / kind / f"t.{lang}.{ending}" for lang in pairs.langs]

    src, trg = (path.read_text().splitlines() for path in both_of("text", "txt"))
    assert src == ["the cat .", "le chat dort !", "der Hund schläft"]
    assert trg == list(map(writer.text, ["cat the .", "dort chat le !", "schläft Hund der"]))
    src, trg = (list(pos.read(path)) for path in both_of("conllu", "conllu"))
    assert len(src) == len(trg) == 12
    assert trg[0].words == tuple(map(writer.word, "sleeps house big the .".split()))
    assert trg[0].tags == ("VERB", "NOUN", "ADJ", "DET", "PUNCT")
    src, trg = (list(ner.read(path)) for path in both_of("ner", "tsv"))
    assert trg[0].words == tuple(map(writer.word, ("is", "house", "cat")))
    assert trg[0].tags == ("O", "B-PER", "I-PER") and len(src) == len(trg) == 2
    src, trg = (list(nli.read(path)) for path in both_of("nli", "tsv"))
    assert src[0] == ("the cat.", "big dog.", "neutral")
    assert trg[0] == (writer.text("cat the."), writer.text("dog big."), "neutral")
    src, trg = (list(qa.read(path)) for path in both_of("qa", "json"))
    assert [q.id for q in src] == [q.id for q in trg]
    for question in trg:
        [answer] = question.answers
        assert question.context[answer.start :].startswith(answer.text)


def test_answers_are_found_again_in_the_new_script(base, files, tmp_path):
    """Without a new order an answer is the transliteration of itself, its bracket cut off."""
    more = [f"--qa=t={files}/qa.json", f"--tokenizer={base}/base"]
    assert run(files, tmp_path / "o", "trans", *more) == 0
    writer = script.make_script(load_tokenizer(base / "base"))
    [first, second] = qa.read(tmp_path / "o/qa/t.en-x-trans.json")
    assert first.answers[0].text == writer.text("cat") + " " + writer.text("sleeps.")[:-1]
    whole = writer.text("(dog)")
    assert second.answers[0].text == whole[2:-1]  # after the start of the word and the bracket


def test_syn_takes_the_order_of_a_treebank_and_refuses_text_without_trees(
    base, files, tmp_path, capsys
):
    trees = [f"--source-trees={files}/words.conllu", f"--target-trees={files}/words.conllu"]
    more = [f"--tokenizer={base}/base", f"--conllu=t={files}/words.conllu", *trees]
    text = [f"--text=words={files}/words.conllu"]
    assert run(files, tmp_path / "o", "trans+syn", *more, *text) == 0
    lines = (tmp_path / "o/text/words.en.txt").read_text().splitlines()
    assert lines == ["the big house sleeps ."] * 12
    capsys.readouterr()
    assert run(files, tmp_path / "o", "trans+syn", *more, f"--text=t={files}/text.txt") == 2
    assert "needs the dependency tree" in capsys.readouterr().err


def test_a_tokenizer_can_be_trained_on_the_text(files, tmp_path):
    text = tmp_path / "text.txt"
    text.write_text("\n".join(sentences(0, 800)))
    more = [f"--text=t={text}", "--vocab-size=76", "--rate=1"]
    assert run(files, tmp_path / "o", "trans", *more) == 0
    assert load_tokenizer(tmp_path / "o/tokenizer").vocab_size == 152
    assert load_tokenizer(tmp_path / "o/base_tokenizer").vocab_size == 76


def test_a_failure_leaves_the_folder_as_it_was(base, files, tmp_path, capsys):
    more = [f"--text=t={files}/text.txt", f"--tokenizer={base}/base"]
    assert run(files, tmp_path / "o", "trans", *more) == 0
    held = {p: p.read_bytes() for p in (tmp_path / "o").rglob("*") if p.is_file()}
    wrong = f"--qa=t={files}/text.txt"  # found when the text was derived
    for flags, said in (
        ([more[0], f"--tokenizer={tmp_path}/o/base_tokenizer"], "would be replaced; type another"),
        ([more[0], "--vocab-size=90000"], "is more than these texts can fill"),
        ([*more, wrong], "is no SQuAD file"),
        ([*more[1:], f"--text=t={tmp_path}/o/text/t.en.txt"], "t.en.txt would be replaced"),
    ):
        assert run(files, tmp_path / "o", "trans", *flags) in (2, 3)
        assert said in capsys.readouterr().err
        assert {p: p.read_bytes() for p in (tmp_path / "o").rglob("*") if p.is_file()} == held
    assert not (tmp_path / "o/.partial").exists() and len(held) > 6
    assert run(files, tmp_path / "o", "trans", *more, "--seed=3") == 0  # another dictionary
    changed = [p for p, content in held.items() if p.read_bytes() != content]
    assert [p.name for p in changed] == ["dictionary.npz"]


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--text=t=none.txt", "--tokenizer=x"], "there is no file none.txt"),
        (["--text=none.txt", "--tokenizer=x"], "need NAME=FILE"),
        ([], "no files"),
        (["--text=t=none.txt"], "trans needs a tokenizer"),
        (["--text=t=none.txt", "--tokenizer=x", "--derived=en"], "--derived=en is --lang"),
    ],
)
def test_wrong_arguments_are_exit_code_2(more, said, tmp_path, capsys):
    assert run(None, tmp_path / "o", "trans+inv", *more) == 2
    assert said in capsys.readouterr().err


def write_dictionary(path, num=30):
    path.write_text(
        "".join(f"{a} {b}\n" for a, b in itertools.islice(zip(WORDS, WORDS[1:], strict=False), num))
    )
    return path


def dictionary(base, *more):
    return main(["dictionary", f"--tokenizer={base}/base", "--langs=en,de", *more])


def test_a_real_dictionary_becomes_ids_with_its_coverage(base, tmp_path, capsys):
    path = write_dictionary(tmp_path / "en-de.txt")
    out = tmp_path / "d.npz"
    assert (
        dictionary(base, f"--input={path}", f"--output={out}", "--max-pieces=4", "--rate=0.5") == 0
    )
    said = capsys.readouterr().out
    assert "pairs in this vocabulary" in said and "for training" in said
    pairs = read_id_pairs(out, load_tokenizer(base / "base").sha256)
    assert 0 < pairs.train_N.sum() < len(pairs) and pairs.langs == ("en", "de")


@pytest.mark.parametrize(
    ("content", "code", "said"),
    [
        (b"", 2, "no pair of words"),
        (b"\xff\xfe\x00\x01\n" * 20, 3, "no UTF-8 text"),
        (gzip.compress(b"the le\n" * 99, mtime=0)[:30], 3, "cut short or damaged"),
        (b"qqq www\nzzz yyy\n", 2, "none of the 2 entries"),
    ],
)
def test_an_unreadable_empty_or_useless_dictionary_is_told(
    base, tmp_path, capsys, content, code, said
):
    path = tmp_path / ("d.txt.gz" if content[:2] == b"\x1f\x8b" else "d.txt")
    path.write_bytes(content)
    assert dictionary(base, f"--input={path}", f"--output={tmp_path}/d.npz") == code
    assert said in capsys.readouterr().err
    assert not (tmp_path / "d.npz").exists()


def test_a_dictionary_is_compared_with_the_texts_of_a_dataset(tmp_path, capsys):
    data = write_tiny_dataset(tmp_path / "data")
    argv = ["dictionary", f"--data={data}", f"--output={tmp_path}/d.npz", "--max-pieces=9"]
    path = write_dictionary(tmp_path / "en-de.txt")
    assert main([*argv, "--langs=en,de", f"--input={path}"]) == 0
    assert "% of its" not in capsys.readouterr().out  # it fits: no warning
    path.write_text("дерево arbre\nокно fenêtre\n")
    assert main([*argv, "--langs=en,de", f"--input={path}"]) == 2
    assert "0.0% of its source words occur in the source corpus" in capsys.readouterr().err
    assert main([*argv, "--langs=en,sw", f"--input={path}"]) == 2
    assert "has no text in sw; it has de, en, ru" in capsys.readouterr().err
