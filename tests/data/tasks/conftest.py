"""Real tokenizers of three kinds, trained in a second on twelve sentences in twelve scripts."""

from __future__ import annotations

import pytest

from jalign.data.tokenizer import load_tokenizer, train_tokenizer

SENTENCES = """\
The quick brown fox jumps over the lazy dog, twice and again in 1998.
Der schnelle braune Fuchs springt über den faulen Hund.
Быстрая коричневая лиса прыгает через «ленивую» собаку.
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
KINDS = ("sentencepiece", "wordpiece", "bytes")


def _train(kind, folder):
    from tokenizers import BertWordPieceTokenizer, ByteLevelBPETokenizer
    from transformers import BertTokenizerFast, RobertaTokenizerFast

    if kind == "sentencepiece":
        return train_tokenizer(SENTENCES * 3, folder, 220)
    if kind == "wordpiece":
        trained = BertWordPieceTokenizer()
        trained.train_from_iterator(SENTENCES, vocab_size=300, show_progress=False)
        BertTokenizerFast(tokenizer_object=trained._tokenizer).save_pretrained(folder)
    else:
        trained = ByteLevelBPETokenizer()
        special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
        trained.train_from_iterator(
            SENTENCES, vocab_size=400, special_tokens=special, show_progress=False
        )
        RobertaTokenizerFast(tokenizer_object=trained._tokenizer).save_pretrained(folder)
    return load_tokenizer(folder)


class Tokenizers(dict):
    """Tokenizers by name, which hypothesis would print whole: a megabyte."""

    def __repr__(self):
        return "tokenizers"


@pytest.fixture(scope="session")
def tokenizers(tmp_path_factory):
    """Return a tokenizer of each kind by name."""
    return Tokenizers({kind: _train(kind, tmp_path_factory.mktemp(kind)) for kind in KINDS})


@pytest.fixture(params=KINDS)
def tokenizer(tokenizers, request):
    """Return each tokenizer in turn."""
    return tokenizers[request.param]
