"""The links are those of SimAlign and awesome-align, with their own code where it is installed, on
real pairs of several scripts; a tie may fall either way, and how many there are is bounded.
"""

from __future__ import annotations

import gzip
from pathlib import Path

import jax
import numpy as np
import pytest

import jalign
from jalign.align.extract import argmax_ties, itermax_ties, softmax_links
from jalign.align.similarity import pair_mask, similarity
from jalign.cli.main import main
from jalign.hf.compare import SENTENCES
from tests.inference.conftest import torch, transformers
from tests.oracles import align as oracle

from tests.hf.torch_models import make_folder  # isort: skip

LAYER = 2
TOLERANCE = 1e-5  # float32 of two libraries: a second best that close may win
SETS = (
    "alignment/hansards.en-fr.src-tgt",
    "alignment/wpt05.ro-en.src-tgt",
    "alignment/tsinghua.zh-en.src-tgt",
    "alignment/ugarit.grc-en.src-tgt",
    "alignment/czenali.en-cs.src-tgt.gz",
    "alignment/xlwa.en-ru.test.tsv",
    "alignment/xlwa.en-bg.test.tsv",
    "bitext/gettext.en-ar.tsv.gz",
    "bitext/gettext.en-hi.tsv.gz",
    "bitext/gettext.en-ja.tsv.gz",
    "bitext/gettext.en-vi.tsv.gz",
    "bitext/tanaka.en-ja.dev.tsv.gz",
)


def own_pairs():
    """Pair sentences of many scripts with each other, and with parts of themselves."""
    half = [" ".join(text.split()[::2]) for text in SENTENCES]
    return [*zip(SENTENCES, SENTENCES[1:] + SENTENCES[:1], strict=True),
            *zip(half, SENTENCES, strict=True)]  # fmt: skip


def real_pairs(folder: Path, per_set: int, most_chars: int = 400):
    """Read pairs spread over each file, both sides of some length."""
    pairs = []
    for name in SETS:
        opener = gzip.open if name.endswith(".gz") else open
        with opener(folder / name, "rt", encoding="utf-8") as file:
            lines = [line for line in file.read().split("\n") if line]
        split = [line.split("\t" if "\t" in line else " ||| ")[:2] for line in lines]
        fit = [(a, b) for a, b in split if a.split() and b.split() and len(a + b) < most_chars]
        pairs += fit[:: max(1, len(fit) // per_set)][:per_set]
    return pairs


class Peers:
    """One random model, opened by us and by PyTorch."""

    def __init__(self, folder: Path, kind: str):
        self.folder = folder
        self.torch = make_folder(folder, kind, 1, max_position_embeddings=514).eval()
        self.tokenizer = transformers.AutoTokenizer.from_pretrained(str(folder))
        self.model = jalign.load(folder, devices=jax.devices()[:1])

    def states(self, text: str):
        """Return the states of a text's pieces, and the word of each, word by word as the peers."""
        pieces = [self.tokenizer.tokenize(word) for word in text.split()]
        ids = [self.tokenizer.convert_tokens_to_ids(p) for p in pieces]
        flat = [i for word in ids for i in word]
        framed = [self.tokenizer.cls_token_id, *flat, self.tokenizer.sep_token_id]
        with torch.no_grad():
            out = self.torch(torch.tensor([framed]), output_hidden_states=True)
        words = np.repeat(np.arange(len(ids)), [len(word) for word in ids])
        return out.hidden_states[LAYER][0, 1:-1].numpy(), words


@pytest.fixture(scope="module")
def xlmr(tmp_path_factory):
    return Peers(tmp_path_factory.mktemp("peers") / "xlmr", "xlm-roberta")


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    peers = Peers(tmp_path_factory.mktemp("peers") / "bert", "bert")
    vocab = sorted(peers.tokenizer.get_vocab().items(), key=lambda item: item[1])
    (peers.folder / "vocab.txt").write_text("".join(f"{t}\n" for t, _ in vocab), encoding="utf-8")
    return peers


def means(h, words):
    return np.stack([h[words == w].mean(axis=0) for w in range(words.max() + 1)])


def has_near_tie(peers: Peers, pair, method: str, level: str) -> bool:
    """Say whether some item of the pair has two partners that rounding may exchange."""
    (src, src_word), (trg, trg_word) = map(peers.states, pair)
    if level == "word":
        src, trg = means(src, src_word), means(trg, trg_word)
    mask = pair_mask(np.ones((1, len(src)), bool), np.ones((1, len(trg)), bool))
    kind = "dot" if method == "softmax" else "simalign"
    sim = similarity(src[None], trg[None], kind=kind)
    if method == "softmax":
        edges = [softmax_links(sim, mask, threshold=1e-3 * (1 + e)) for e in (1e-3, -1e-3)]
        return bool((edges[0] != edges[1]).any())
    ties = itermax_ties if method == "itermax" else argmax_ties
    return any(bool(side.any()) for side in ties(sim, mask, tolerance=TOLERANCE))


def own_links(peers: Peers, pairs, **options) -> list[set[tuple[int, int]]]:
    """Align in Python."""
    found = peers.model.align(pairs, layer=LAYER, **options)
    return [set(map(tuple, links.pairs_A2.tolist())) for links in found]


def command_links(peers: Peers, pairs, **options) -> list[set[tuple[int, int]]]:
    """Align with `jalign align`, from a file of pairs to a file of links."""
    source, output = peers.folder / "pairs.tsv", peers.folder / "links"
    source.write_text("".join(f"{a}\t{b}\n" for a, b in pairs), encoding="utf-8", newline="\n")
    flags = [f"--{name}={value}" for name, value in {"layer": LAYER, **options}.items()]
    files = [f"--model={peers.folder}", f"--input={source}", f"--output={output}"]
    assert main(["align", *files, "--format=tsv", "--pretokenized", *flags]) == 0
    lines = output.read_text(encoding="utf-8").split("\n")[:-1]
    return [{tuple(map(int, link.split("-"))) for link in line.split()} for line in lines]


def check_same(
    peers: Peers, pairs, theirs, most_ties: float = 0.02, align=own_links, **options
) -> int:
    """Compare links pair by pair; return in how many pairs a near tie fell another way."""
    ties = 0
    for pair, mine, other in zip(pairs, align(peers, pairs, **options), theirs, strict=True):
        if mine != set(other):
            tied = has_near_tie(peers, pair, options["method"], options.get("level", "piece"))
            assert tied, (pair, sorted(mine), other)
            ties += 1
    assert ties <= most_ties * len(pairs)
    return ties


def simalign_links(peers: Peers, pairs, methods: str, level: str):
    """Align with SimAlign's own class, one pair per call as it offers."""
    simalign = pytest.importorskip("simalign", reason="simalign is not installed")
    kind = {"piece": "bpe", "word": "word"}[level]
    aligner = simalign.SentenceAligner(
        str(peers.folder), token_type=kind, matching_methods=methods, layer=LAYER
    )
    found = [aligner.get_word_aligns(*pair) for pair in pairs]
    return {name: [links[name] for links in found] for name in found[0]}


def awesome_links(peers: Peers, pairs, folder: Path, extraction: str):
    """Align with awesome-align's own model, tokenizer, loader and extraction; its probabilities
    too.
    """
    run = pytest.importorskip("awesome_align.run_align", reason="awesome-align is not installed")
    from awesome_align import modeling

    torch.save(peers.torch.state_dict(), peers.folder / "pytorch_model.bin")
    config = run.BertConfig.from_pretrained(str(peers.folder))
    tokenizer = run.BertTokenizer(str(peers.folder / "vocab.txt"), do_lower_case=False)
    model = run.BertForMaskedLM.from_pretrained(str(peers.folder), config=config).eval()
    (folder / "pairs").write_text("".join(f"{a} ||| {b}\n" for a, b in pairs), encoding="utf-8")
    names = ("PAD_ID", "CLS_ID", "SEP_ID")
    kept = {name: getattr(modeling, name) for name in names}
    ids = (tokenizer.pad_token_id, tokenizer.cls_token_id, tokenizer.sep_token_id)
    for name, value in zip(names, ids, strict=True):
        setattr(modeling, name, value)

    class Args:
        data_file, output_file = str(folder / "pairs"), str(folder / "links")
        output_prob_file, output_word_file = str(folder / "probs"), None
        num_workers, batch_size, align_layer, softmax_threshold = 0, 32, LAYER, 0.001
        device = torch.device("cpu")

    Args.extraction = extraction
    try:
        run.word_align(Args, model, tokenizer)
    finally:
        for name, value in kept.items():
            setattr(modeling, name, value)
    lines, probs = ((folder / n).read_text().split("\n")[:-1] for n in ("links", "probs"))
    links = [[tuple(map(int, x.split("-"))) for x in line.split()] for line in lines]
    return links, [
        dict(
            zip(
                found, map(float, line.replace("tensor(", "").replace(")", "").split()), strict=True
            )
        )
        for found, line in zip(links, probs, strict=True)
    ]


def oracle_links(peers: Peers, pairs, method: str):
    """Align with states of PyTorch and loops of float64."""
    every = []
    for pair in pairs:
        (src, src_word), (trg, trg_word) = map(peers.states, pair)
        src, trg = src.astype(np.float64), trg.astype(np.float64)
        dot = src @ trg.T
        unit = [h / np.linalg.norm(h, axis=1, keepdims=True) for h in (src, trg)]
        sim = (unit[0] @ unit[1].T + 1) / 2
        links = {
            "argmax": lambda sim=sim: oracle.mutual(sim),
            "itermax": lambda sim=sim: oracle.itermax(sim),
            "forward": lambda sim=sim: oracle.forward(sim),
            "reverse": lambda sim=sim: oracle.reverse(sim),
            "softmax": lambda dot=dot: oracle.softmax_links(dot, 1e-3),
        }[method]()
        every.append(list(oracle.word_links(links, src_word, trg_word)))
    return every


@pytest.mark.parametrize("method", ["argmax", "itermax", "forward", "reverse", "softmax"])
def test_links_are_those_of_torch_states_and_loops(xlmr, method):
    pairs = own_pairs()
    check_same(xlmr, pairs, oracle_links(xlmr, pairs, method), method=method, most_ties=0.1)


@pytest.mark.parametrize("level", ["piece", "word"])
def test_links_are_those_of_simalign(xlmr, shared_data, level):
    pairs = real_pairs(shared_data, 5)
    assert len(pairs) == 60
    compare_with_simalign(xlmr, pairs, level)


def compare_with_simalign(peers: Peers, pairs, level: str, align=own_links) -> dict[str, int]:
    theirs = simalign_links(peers, pairs, "aifr", level)
    names = {"inter": "argmax", "itermax": "itermax", "fwd": "forward", "rev": "reverse"}
    return {
        name: check_same(peers, pairs, theirs[name], align=align, method=names[name], level=level)
        for name in theirs
    }


def test_matching_has_the_weight_of_simaligns(xlmr, shared_data):
    """Optima may tie: the links may differ where their sums do not."""
    pairs = real_pairs(shared_data, 2)
    theirs = simalign_links(xlmr, pairs, "m", "word")["mwmf"]
    ours = xlmr.model.align(pairs, layer=LAYER, method="match", level="word", scores=True)
    for pair, mine, other in zip(pairs, ours, theirs, strict=True):
        src, trg = (means(*xlmr.states(side)) for side in pair)
        sim = np.asarray(similarity(src[None], trg[None], kind="simalign"))[0].astype(float)
        total = sum(sim[link] for link in other)
        assert len(mine.pairs_A2) == len(other) == min(sim.shape)
        np.testing.assert_allclose(mine.score_A.astype(float).sum(), total, rtol=1e-5)


@pytest.mark.parametrize(("extraction", "method"), [("softmax", "softmax"), ("entmax15", "entmax")])
def test_links_are_those_of_awesome_align(bert, shared_data, tmp_path, extraction, method):
    pairs = real_pairs(shared_data, 5)
    theirs, probs = awesome_links(bert, pairs, tmp_path, extraction)
    if method == "softmax":
        check_same(bert, pairs, theirs, method=method)
    else:
        compare_entmax(bert, pairs, theirs)
    ours = bert.model.align(pairs, layer=LAYER, method=method, scores=True)
    for mine, other in zip(ours, probs, strict=True):
        for link, score in zip(mine.pairs_A2.tolist(), mine.score_A, strict=True):
            if (
                tuple(link) in other
            ):  # a cell at the threshold, or with its words' best score, may not
                assert score == pytest.approx(other[tuple(link)], abs=1e-4)


def compare_entmax(peers: Peers, pairs, theirs) -> None:
    """Entmax asks for more than 0, which rounding decides at the edge of the support."""
    ours = peers.model.align(pairs, layer=LAYER, method="entmax")
    sets = [
        (set(map(tuple, a.pairs_A2.tolist())), set(b)) for a, b in zip(ours, theirs, strict=True)
    ]
    assert sum(a != b for a, b in sets) <= 0.02 * len(pairs)
    assert sum(len(a ^ b) for a, b in sets) <= 0.001 * sum(len(b) for _, b in sets)


@pytest.mark.slow
def test_the_command_links_as_the_peers_on_six_hundred_real_pairs(
    xlmr, bert, shared_data, tmp_path
):
    pairs = real_pairs(shared_data, 50)
    assert len(pairs) >= 500
    ties = {
        level: compare_with_simalign(xlmr, pairs, level, command_links)
        for level in ("piece", "word")
    }
    theirs, _ = awesome_links(bert, pairs, tmp_path, "softmax")
    ties["awesome-align"] = check_same(bert, pairs, theirs, align=command_links, method="softmax")
    compare_entmax(bert, pairs, awesome_links(bert, pairs, tmp_path, "entmax15")[0])
    print(f"pairs {len(pairs)}, decided by ties: {ties}")
