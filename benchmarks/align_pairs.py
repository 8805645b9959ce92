"""Make what the race of aligners needs: real pairs, one random model for all, its ties."""

from __future__ import annotations

import glob
import random
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from benchmarks import bitext

# Size: the layer to read, and the shape.
SHAPES = {
    "base": (
        8,
        dict(hidden_size=768, num_hidden_layers=12, num_attention_heads=12, intermediate_size=3072),
    ),
    "small": (
        4,
        dict(hidden_size=384, num_hidden_layers=6, num_attention_heads=6, intermediate_size=1536),
    ),
    "tiny": (
        2,
        dict(hidden_size=32, num_hidden_layers=3, num_attention_heads=2, intermediate_size=64),
    ),
}
POSITIONS, VOCAB = 512, 16_000
MOST_CHARS = 800  # of both sides: a pair fits every competitor whole
TOLERANCE = 1e-5  # float32 of two libraries: a second best so close may win


def read_pairs(patterns: list[str], num: int) -> list[tuple[str, str]]:
    """Read `num` pairs spread over all files and shuffled, words apart; again from the start where
    there are too few.
    """
    files = [path for pattern in patterns for path in sorted(glob.glob(pattern))]
    if patterns and not files:
        raise SystemExit(f"no file {patterns}; type --data=FILE.tsv.gz")
    rows = bitext.read_lines(files, 1 + num * 2 // len(files)) if files else bitext.read_django()
    pairs = list(_usable(rows))
    random.Random(0).shuffle(pairs)
    return [pairs[i % len(pairs)] for i in range(num)]


def _usable(rows: Iterator[tuple[str, str]]) -> Iterator[tuple[str, str]]:
    from jalign.inference.align_texts import characters

    for row in rows:
        src, trg = (" ".join(characters(side).split()) for side in row)
        if src and trg and len(src) + len(trg) <= MOST_CHARS and "|||" not in src + trg:
            yield src, trg


def write_pairs(path: Path, pairs: list[tuple[str, str]]) -> None:
    """Write the lines that all of them read: `source ||| target`."""
    text = "".join(f"{src} ||| {trg}\n" for src, trg in pairs)
    path.write_text(text, encoding="utf-8", newline="\n")


def save_model(folder: Path, size: str, pairs: list[tuple[str, str]]) -> None:
    """Save a random BERT in the forms that all of them read, with a WordPiece tokenizer."""
    import torch
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
    from transformers import BertConfig, BertForMaskedLM, BertTokenizer

    specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=False)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(
        vocab_size=VOCAB, special_tokens=specials, show_progress=False
    )
    tokenizer.train_from_iterator((side for pair in pairs for side in pair), trainer)
    vocab = sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])
    hf = BertTokenizer(vocab=dict(vocab), do_lower_case=False, model_max_length=POSITIONS)
    hf.save_pretrained(str(folder))
    (folder / "vocab.txt").write_text("".join(f"{t}\n" for t, _ in vocab), encoding="utf-8")
    torch.manual_seed(0)
    entries = dict(SHAPES[size][1], vocab_size=len(vocab), max_position_embeddings=POSITIONS)
    model = BertForMaskedLM(BertConfig(**entries, initializer_range=0.05))
    model.save_pretrained(str(folder))
    torch.save(model.state_dict(), folder / "pytorch_model.bin")


def agreeing(folder: Path, pairs: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """Leave out pairs on which the three tokenizers disagree (odd characters), or that are long."""
    from awesome_align.tokenization_bert import BertTokenizer
    from transformers import AutoTokenizer

    from jalign.data.tokenizer import load_tokenizer

    ours, hf = load_tokenizer(folder), AutoTokenizer.from_pretrained(str(folder))
    theirs = BertTokenizer(str(folder / "vocab.txt"), do_lower_case=False)
    words = sorted({word for pair in pairs for side in pair for word in side.split()})
    good = set()
    for word, (ids, _) in zip(words, ours.encode_words(words), strict=True):
        pieces = [t.convert_tokens_to_ids(t.tokenize(word)) for t in (hf, theirs)]
        if ids.tolist() == pieces[0] == pieces[1]:
            good.add(word)
    sizes = [[ids.size for ids, _ in ours.encode_words(pair)] for pair in pairs]
    return [
        pair
        for pair, size in zip(pairs, sizes, strict=True)
        if max(size) <= POSITIONS - 2 and good.issuperset(" ".join(pair).split())
    ]


def forward_flops(folder: Path, size: str, pairs: list[tuple[str, str]]) -> tuple[int, float]:
    """Return the real tokens of the pairs and the FLOPs of their forward up to the layer."""
    from jalign.data.tokenizer import load_tokenizer

    layers, shape = SHAPES[size]
    hidden, mlp = shape["hidden_size"], shape["intermediate_size"]
    sides = load_tokenizer(folder).encode_words([side for pair in pairs for side in pair])
    num = np.array([ids.size + 2 for ids, _ in sides], float)
    per_layer = num * (8 * hidden**2 + 4 * hidden * mlp) + 4 * hidden * num**2
    return int(num.sum()), float(layers * per_layer.sum())


def near_ties(folder: Path, layer: int, method: str, pairs: list) -> list[bool]:
    """Say for each pair whether PyTorch's states leave some link to rounding."""
    if not pairs:
        return []
    import torch
    from transformers import AutoModel, AutoTokenizer

    from jalign.align import extract
    from jalign.align.similarity import pair_mask, similarity

    tokenizer = AutoTokenizer.from_pretrained(str(folder))
    model = AutoModel.from_pretrained(str(folder), output_hidden_states=True).eval()

    def states(text: str) -> np.ndarray:
        batch = tokenizer(text.split(), is_split_into_words=True, return_tensors="pt")
        with torch.inference_mode():
            return model(**batch).hidden_states[layer][:, 1:-1].numpy()

    found = []
    for pair in pairs:
        src, trg = map(states, pair)
        mask = pair_mask(np.ones(src.shape[:2], bool), np.ones(trg.shape[:2], bool))
        sim = similarity(src, trg, kind="dot" if method == "softmax" else "simalign")
        if method == "softmax":
            edges = [
                extract.softmax_links(sim, mask, threshold=1e-3 * (1 + e)) for e in (1e-3, -1e-3)
            ]
            found.append(bool((edges[0] != edges[1]).any()))
            continue
        ties = extract.itermax_ties if method == "itermax" else extract.argmax_ties
        found.append(any(bool(x.any()) for x in ties(sim, mask, tolerance=TOLERANCE)))
    return found
