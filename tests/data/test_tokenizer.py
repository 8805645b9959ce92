"""The tokenizer: XLM-R's layout, SentencePiece's own ids, a piece for every word and script."""

import gzip
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jalign.data import tokenizer as tok
from jalign.errors import UserError

DATA = Path(__file__).parents[2].parent / "shared" / "data"

TEXTS = """\
The quick brown fox jumps over the lazy dog, twice and again.
Der schnelle braune Fuchs springt über den faulen Hund.
Быстрая коричневая лиса прыгает через ленивую собаку.
敏捷的棕色狐狸跳过了懒狗。
素早い茶色の狐がのろまな犬を飛び越える。
الثعلب البني السريع يقفز فوق الكلب الكسول
תפוח אדום נופל מהעץ
तेज़ भूरी लोमड़ी आलसी कुत्ते के ऊपर कूदती है क्षत्रिय
สุนัขจิ้งจอกสีน้ำตาลกระโดดข้ามสุนัขขี้เกียจ
Con cáo nâu nhanh nhẹn nhảy qua con chó lười
Hızlı kahverengi tilki tembel köpeğin üstünden atlar
빠른 갈색 여우가 게으른 개를 뛰어넘는다
""".splitlines()
HARD = [
    "ﷺ قال ﷺ",  # U+FDFA becomes four words
    "a\u200bb \u200bc d\u200b \u200b e",  # ZWSP is no space for split() and one for the normaliser
    "क्\u200dष \u200d न\u200c",  # ZWJ, ZWNJ
    "e\u0301 \u0301 o\u0308\u0323 x\u0336",  # combining marks, one alone
    "😀 👨\u200d👩\u200d👧 🇩🇪 ☎\ufe0f",
    "\u202bعربي\u202c \u200e \u200f",  # marks of direction
    "ﬁn ² ½ Ⅷ ㈱ ｶﾞ ㍿ ¨ x¨y",
    "\ufeff zero \u2060 width",
    "\U000e0041 𝔘𝔫𝔦 𐍈",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    tok.train_tokenizer(TEXTS * 3, folder, 220)
    return folder


@pytest.fixture(scope="module")
def tokenizer(folder):
    return tok.load_tokenizer(folder)


def plain(tokenizer, text):
    return tokenizer.backend.encode(text, add_special_tokens=False).ids


def check_words(tokenizer, text, ids, word):
    assert ids.dtype == word.dtype == np.int32
    assert len(ids) == len(word)
    assert sorted(set(word.tolist())) == list(range(len(text.split())))
    assert (np.diff(word) >= 0).all()
    assert not set(ids.tolist()) & (set(tokenizer.special_ids) - {tokenizer.unk_id})


def test_layout_is_that_of_xlm_r(tokenizer):
    layout = (tokenizer.bos_id, tokenizer.pad_id, tokenizer.eos_id, tokenizer.unk_id)
    assert layout == (0, 1, 2, 3)
    assert tokenizer.mask_id == tokenizer.vocab_size - 1 == 219
    assert tokenizer.special_ids == (0, 1, 2, 3, 219)


def test_ids_equal_plain_encoding_and_sentencepiece_in_every_script(folder, tokenizer):
    import sentencepiece

    sp = sentencepiece.SentencePieceProcessor(model_file=str(folder / "sentencepiece.bpe.model"))
    # HARD[5] has words that get unk from us alone; of HARD[3], tokenizers normalises o + two marks
    # otherwise than SentencePiece
    texts = [*TEXTS, HARD[0], HARD[4], HARD[6]]
    for text, (ids, word) in zip(texts, tokenizer.encode_words(texts), strict=True):
        assert ids.tolist() == plain(tokenizer, text) == sp.encode(text), text
        check_words(tokenizer, text, ids, word)


@pytest.mark.parametrize("text", HARD)
def test_every_word_gets_a_piece_in_hard_texts(tokenizer, text):
    [(ids, word)] = tokenizer.encode_words([text])
    check_words(tokenizer, text, ids, word)


def test_words_that_normalise_away_become_unk_and_are_counted(folder):
    tokenizer = tok.load_tokenizer(folder)
    text = "fox \u200b dog \ufeff"
    [(ids, word)] = tokenizer.encode_words([text])
    check_words(tokenizer, text, ids, word)
    assert [int(ids[word == i][0]) for i in (1, 3)] == [3, 3]
    assert tokenizer.counts == {"word without a piece": 2}


def test_special_tokens_spelt_out_in_a_text_do_not_become_special(folder):
    tokenizer = tok.load_tokenizer(folder)
    text = "fox <mask> dog</s> <s> <pad>"
    [(ids, word)] = tokenizer.encode_words([text])
    check_words(tokenizer, text, ids, word)
    assert tokenizer.counts == {"special token spelt out in a text": 4}


LETTERS = (
    "aZ é ñ ß ж Щ 漢 字 か ガ ｶ ﾞ 한 ᄀ ᅡ ا ل ﷺ ﻻ ש ְ ก ำ ้ न ् ष ़ த ம ் ក ្ ខ 😀 👩 🇩 🇪 ﬁ ² Ⅷ ½ ㈱ ー"
)
FORMATS = "\u0301\u0308\u200b\u200c\u200d\u200e\u200f\u2060\ufeff\ufe0f\u00ad\u180e \u00a0\u3000"
scripts = st.sampled_from(LETTERS.split()) | st.sampled_from(FORMATS)


@settings(max_examples=150, deadline=None)
@given(st.lists(scripts, max_size=30).map("".join) | st.text(max_size=30))
def test_every_word_gets_a_piece_in_any_text(tokenizer, text):
    [(ids, word)] = tokenizer.encode_words([text])
    check_words(tokenizer, text, ids, word)


@settings(max_examples=50, deadline=None)
@given(st.permutations(TEXTS).map(" ".join))
def test_joined_texts_encode_as_their_words_do(tokenizer, text):
    [(ids, word)] = tokenizer.encode_words([text])
    assert ids.tolist() == plain(tokenizer, text)
    parts = [tokenizer.encode_words([w])[0][0] for w in text.split()]
    np.testing.assert_array_equal(ids, np.concatenate(parts))


def test_hash_ignores_file_formatting_and_sees_the_table(folder, tokenizer, tmp_path):
    same, other = tmp_path / "same", tmp_path / "other"
    for copy in (same, other):
        shutil.copytree(folder, copy)
    data = json.loads((folder / "tokenizer.json").read_text())
    (same / "tokenizer.json").write_text(json.dumps(data, indent=4, sort_keys=True))
    assert tok.load_tokenizer(same).sha256 == tokenizer.sha256
    vocab = data["model"]["vocab"]
    vocab[10], vocab[11] = vocab[11], vocab[10]
    (other / "tokenizer.json").write_text(json.dumps(data))
    assert tok.load_tokenizer(other).sha256 != tokenizer.sha256
    assert tok.copy_tokenizer(folder, tmp_path / "copy").sha256 == tokenizer.sha256


def test_training_twice_gives_the_same_tokenizer(tokenizer, tmp_path):
    assert tok.train_tokenizer(iter(TEXTS * 3), tmp_path / "again", 220).sha256 == tokenizer.sha256


def test_bert_and_byte_level_tokenizers_keep_words_too(tmp_path):
    from tokenizers import BertWordPieceTokenizer, ByteLevelBPETokenizer
    from transformers import BertTokenizerFast, RobertaTokenizerFast

    wordpiece = BertWordPieceTokenizer()
    wordpiece.train_from_iterator(TEXTS, vocab_size=300, show_progress=False)
    BertTokenizerFast(tokenizer_object=wordpiece._tokenizer).save_pretrained(tmp_path / "bert")
    for name, space in (("roberta", False), ("prefix", True)):
        bpe = ByteLevelBPETokenizer(add_prefix_space=space)
        special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
        bpe.train_from_iterator(TEXTS, vocab_size=400, special_tokens=special, show_progress=False)
        hf = RobertaTokenizerFast(tokenizer_object=bpe._tokenizer, add_prefix_space=space)
        hf.save_pretrained(tmp_path / name)
    for name in ("bert", "roberta", "prefix"):
        tokenizer = tok.load_tokenizer(tmp_path / name)
        for text, (ids, word) in zip(
            TEXTS + HARD, tokenizer.encode_words(TEXTS + HARD), strict=True
        ):
            check_words(tokenizer, text, ids, word)
            if text in TEXTS:
                assert ids.tolist() == plain(tokenizer, text), (name, text)


@pytest.mark.parametrize(
    ("size", "message"),
    [(5000, r"more than these texts can fill; .* type --vocab_size=\d+ or less"),
     (60, r"too small for the characters of these texts; type --vocab_size=\d+ or more")],
)  # fmt: skip
def test_an_impossible_vocabulary_says_which_is_possible(tmp_path, size, message):
    with pytest.raises(UserError, match=message) as error:
        tok.train_tokenizer(TEXTS, tmp_path / "t", size)
    advised = int(str(error.value).split("--vocab_size=")[-1].split()[0])
    assert tok.train_tokenizer(TEXTS, tmp_path / "t", advised).vocab_size == advised


def test_a_folder_without_tokenizer_is_refused(tmp_path):
    with pytest.raises(UserError, match="is no Hugging Face tokenizer folder"):
        tok.load_tokenizer(tmp_path)
    with pytest.raises(UserError, match="is no folder"):
        tok.load_tokenizer(tmp_path / "absent")


@pytest.mark.skipif(not (DATA / "bitext").is_dir(), reason="no shared data beside the checkout")
@pytest.mark.parametrize("lang", ["ar", "hi", "ja", "vi"])
def test_ids_equal_sentencepiece_on_real_text(tmp_path, lang):
    import sentencepiece

    with gzip.open(DATA / "bitext" / f"gettext.en-{lang}.tsv.gz", "rt", newline="\n") as file:
        lines = [
            side for _, line in zip(range(1500), file, strict=False) for side in line.split("\t")
        ]
    tokenizer = tok.train_tokenizer(lines, tmp_path, 2000)
    sp = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "sentencepiece.bpe.model"))
    for text, (ids, _) in zip(lines, tokenizer.encode_words(lines), strict=True):
        assert ids.tolist() == plain(tokenizer, text)
        # "..." may be "..", "." or ".", "..": where scores tie, either is the best segmentation
        scores = [sum(map(sp.get_score, i)) for i in (ids.tolist(), sp.encode(text))]
        assert ids.tolist() == sp.encode(text) or abs(scores[0] - scores[1]) < 1e-4, text
