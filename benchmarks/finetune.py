"""Compare fine-tuning with Hugging Face's Trainer, same model and sentences: examples per second.

    python -m benchmarks.finetune --rounds 2

Parts of speech of real sentences (English UD EWT, or `--treebank`), one epoch from the same random
encoder and head of XLM-R's shape, saved as a Hugging Face folder. Ours is the step and the loader
of `jalign finetune` with configs/finetune_pos.py; the Trainer pads to the longest of a batch, which
holds as many sentences as ours in the mean. Same ids and labels (checked), learning rate, schedule,
clipping, AdamW and dropout. Each round is a seed. Time is that of whole steps, the loader's work
included; compiling is not. Loss curves are compared in tenths of the epoch.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks import bitext, race

OURS, TRAINER, GROUPED = "jalign finetune", "HF Trainer", "HF Trainer, grouped by length"
SHAPES = {  # hidden, layers
    "small": (256, 4),
    "medium": (384, 6),
    "base": (768, 12),
}
TREEBANK = bitext.SHARED / "pos" / "ewt.en.train.conllu.gz"
DEV = bitext.SHARED / "pos" / "ewt.en.dev.conllu.gz"
WARM = 3  # steps that are not timed: allocators and caches fill
BINS = 10
MAX_PIECES = 128  # of a sentence with its special tokens


@dataclass(frozen=True)
class Settings:
    """What all competitors share."""

    size: str = "small"
    vocab: int = 8_000
    sentences: int = 4_000
    dev: int = 500
    lr: float = 5e-4
    dropout: float = 0.1
    rows: int = 8
    threads: int = 2
    treebank: str = str(TREEBANK)
    dev_treebank: str = str(DEV)


def read_sentences(path: str, limit: int, tokenizer) -> list:
    """Read the first sentences that fit a row whole, so that nobody cuts or windows any."""
    from jalign.data.tasks import conllu
    from jalign.data.tasks.encode import encode_given_words

    whole = list(itertools.islice(conllu.read(path), 2 * limit))
    pieces = encode_given_words(tokenizer, [s.words for s in whole])
    kept = [s for s, (ids, _) in zip(whole, pieces, strict=True) if ids.size + 2 <= MAX_PIECES]
    return kept[:limit]


def write_tree(path: Path, sentences: Sequence) -> None:
    """Write words and tags as CoNLL-U."""
    lines = []
    for sentence in sentences:
        for i, (word, tag) in enumerate(zip(sentence.words, sentence.tags, strict=True), 1):
            lines.append(f"{i}\t{word}\t_\t{tag}" + "\t_" * 6)
        lines.append("")
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def prepare(folder: Path, settings: Settings) -> dict:
    """Save model, tokenizer and sentences; return facts about them."""
    import torch
    from transformers import XLMRobertaConfig, XLMRobertaForTokenClassification

    from jalign.data.tasks import LABELS, conllu
    from jalign.data.tokenizer import train_tokenizer

    texts = (" ".join(s.words) for s in conllu.read(settings.treebank))
    tokenizer = train_tokenizer(texts, folder, settings.vocab)
    hidden, layers = SHAPES[settings.size]
    torch.manual_seed(0)
    config = XLMRobertaConfig(
        vocab_size=tokenizer.vocab_size,
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=hidden // 64,
        intermediate_size=4 * hidden,
        max_position_embeddings=514,
        type_vocab_size=1,
        layer_norm_eps=1e-5,
        hidden_dropout_prob=settings.dropout,
        attention_probs_dropout_prob=settings.dropout,
        id2label=dict(enumerate(LABELS["udpos"])),
    )
    XLMRobertaForTokenClassification(config).save_pretrained(str(folder))
    sizes = {}
    for name, path, limit in (
        ("train", settings.treebank, settings.sentences),
        ("dev", settings.dev_treebank, settings.dev),
    ):
        sentences = read_sentences(path, limit, tokenizer)
        write_tree(folder / f"{name}.conllu", sentences)
        check_same_ids(folder, sentences, tokenizer)
        sizes[name] = len(sentences)
    return sizes


def encode_for_trainer(folder: Path, sentences: Sequence) -> list[dict]:
    """Tokenise as transformers' examples do: labels on first pieces, -100 elsewhere."""
    from transformers import AutoTokenizer

    from jalign.data.tasks import LABELS

    tokenizer = AutoTokenizer.from_pretrained(str(folder))
    encoded = tokenizer([list(s.words) for s in sentences], is_split_into_words=True)
    table, examples = {tag: i for i, tag in enumerate(LABELS["udpos"])}, []
    for i, sentence in enumerate(sentences):
        words = encoded.word_ids(i)
        firsts = [w is not None and w != b for w, b in zip(words, [None, *words], strict=False)]
        labels = [
            table[sentence.tags[w]] if first else -100
            for w, first in zip(words, firsts, strict=True)
        ]
        ids = encoded["input_ids"][i]
        examples.append({"input_ids": ids, "attention_mask": [1] * len(ids), "labels": labels})
    return examples


def check_same_ids(folder: Path, sentences: Sequence, tokenizer) -> None:
    """Stop where transformers makes other ids or labels of the sentences than we do."""
    from jalign.data.tasks import LABELS
    from jalign.data.tasks.encode import encode_tags

    windows = list(encode_tags(tokenizer, sentences, LABELS["udpos"], max_unit=MAX_PIECES))
    theirs = encode_for_trainer(folder, sentences)
    for sentence, window, example in zip(sentences, windows, theirs, strict=True):
        labels = np.where(window.label < 0, -100, window.label).tolist()
        same = example["input_ids"][1:-1] == window.ids.tolist()
        if not same or example["labels"][1:-1] != labels:
            raise SystemExit(f"other ids or labels for {' '.join(sentence.words)!r}")


def binned(curve: Sequence[tuple[int, float]]) -> np.ndarray:
    """Average a loss curve over tenths of the sentences seen."""
    sizes, losses = np.array(curve, float).T
    middle = (np.cumsum(sizes) - sizes / 2) / sizes.sum()
    at = np.minimum((middle * BINS).astype(int), BINS - 1)
    return np.bincount(at, losses * sizes, BINS) / np.bincount(at, sizes, BINS)


def compare_curves(runs: dict[str, list[dict]]) -> str:
    """Write the curves, and how far those of two competitors and of two seeds lie apart."""
    curves = {n: np.array([binned(r["curve"]) for r in found]) for n, found in runs.items()}
    text = "| share of the epoch | " + " | ".join(curves) + " |\n| --- " + "| ---: " * len(curves)
    text += "|\n"
    for k in range(BINS):
        cells = (" ".join(f"{x:.3f}" for x in c[:, k]) for c in curves.values())
        text += f"| {(k + 1) / BINS:.1f} | " + " | ".join(cells) + " |\n"
    for when in ("before", "after"):
        for what in ("loss", "accuracy"):
            cells = (
                " ".join(f"{r['dev'][when][what]:.4f}" for r in found) for found in runs.values()
            )
            text += f"| dev {what} {when} | " + " | ".join(cells) + " |\n"

    def apart(pairs) -> float:
        return float(np.mean([np.sqrt(np.mean((x - y) ** 2)) for x, y in pairs] or [np.nan]))

    ours, theirs = curves[OURS], curves[TRAINER]
    text += (
        "\nroot mean square distance of curves: ours and the Trainer's "
        f"{apart(itertools.product(ours, theirs)):.4f}; of their means "
        f"{apart([(ours.mean(0), theirs.mean(0))]):.4f}; two seeds of ours "
        f"{apart(itertools.combinations(ours, 2)):.4f}, of the Trainer's "
        f"{apart(itertools.combinations(theirs, 2)):.4f}\n"
    )
    return text


def run_part(name: str, folder: Path, settings: Settings, seed: int, batch: int) -> None:
    """Be one competitor."""
    from benchmarks import finetune_steps

    if name == OURS:
        finetune_steps.run_ours(folder, settings, seed)
    else:
        grouped = name == GROUPED
        finetune_steps.run_trainer(folder, settings, seed, batch, grouped=grouped)


def race_all(names: list[str], rounds: int, shared: tuple[str, ...]) -> dict[str, list[dict]]:
    """Run everyone in turn, a seed a round; the Trainer's batch is our mean."""
    runs: dict[str, list[dict]] = {name: [] for name in names}
    batch = 0
    for seed in range(rounds):
        for name in names:
            more = ("--part", name, "--seed", str(seed), "--batch", str(batch))
            turn = race.run_turn(
                race.Competitor(name, ("-m", "benchmarks.finetune", *more, *shared))
            )
            if "error" in turn:
                raise SystemExit(f"{name}: {turn['error']}")
            if name == OURS:
                batch = round(np.mean([size for size, _ in turn["curve"]]))
            runs[name].append(turn)
            rate = race.rate(turn["steps"])
            sys.stderr.write(f"seed {seed}  {name}: {rate['rate']:,.1f}/s, ")
            sys.stderr.write(f"{rate['quiet']} of {rate['steps']} steps undisturbed\n")
    return runs


def main() -> None:
    """Run the race and write its tables and JSON; or be one competitor."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--grouped", action="store_true", help="also group_by_length")
    parser.add_argument("--name", default="", help="name of the JSON file")
    for field in dataclasses.fields(Settings):
        choices = SHAPES if field.name == "size" else None
        kind = type(field.default)
        parser.add_argument(f"--{field.name}", type=kind, default=field.default, choices=choices)
    parser.add_argument("--part", choices=(OURS, TRAINER, GROUPED), help="be this one")
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--batch", type=int, default=0)
    args = parser.parse_args()
    settings = Settings(**{f.name: getattr(args, f.name) for f in dataclasses.fields(Settings)})
    if args.part:
        run_part(args.part, args.folder, settings, args.seed, args.batch)
        return
    race.use_cores(settings.threads)
    names = [OURS, TRAINER, *([GROUPED] if args.grouped else [])]
    with tempfile.TemporaryDirectory() as path:
        facts = prepare(Path(path), settings)
        shared = ("--folder", path)
        for name, value in dataclasses.asdict(settings).items():
            shared += (f"--{name}", str(value))
        runs = race_all(names, args.rounds, shared)
    results = {}
    for name, found in runs.items():
        steps = [step for run in found for step in run["steps"]]
        kept = {"fill": found[0]["fill"], "peak_gib": max(r["peak_gib"] for r in found)}
        kept |= {"curves": [binned(r["curve"]).tolist() for r in found]}
        kept |= {"dev": [r["dev"] for r in found], "samples": steps}
        results[name] = race.rate(steps) | kept
    said = dataclasses.asdict(settings) | facts | {"rounds": args.rounds}
    said |= {"batch": runs[TRAINER][0]["batch"]}
    said |= {name: Path(said[name]).name for name in ("treebank", "dev_treebank")}
    path = race.write_result(args.name or f"finetune_{settings.size}", said, results)
    sys.stdout.write(f"{json.dumps(facts)}, {said['batch']} sentences a step\n\n")
    sys.stdout.write(race.table(results, "sentences/s", OURS) + "\n\n" + compare_curves(runs))
    sys.stdout.write(f"\nwritten to {path}\n")


if __name__ == "__main__":
    main()
