"""Compare sentence vectors of ours with PyTorch's, same weights and sentences: tokens per second.

    python -m benchmarks.embed --rounds 2
    python -m benchmarks.embed --rounds 1 --size base

20,000 real sentences of mixed length in twelve languages and six scripts; a random encoder of
XLM-R's shape that PyTorch saves as a Hugging Face folder. Mean over all tokens; every competitor's
vectors must agree within 1e-4. Each goes through all sentences from the start of Python to the
written file, then once more with everything loaded and compiled.
"""

from __future__ import annotations

import argparse
import glob
import json
import random
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmarks import bitext, race

OURS = "jalign embed"
SIZES = {
    "small": dict(
        hidden_size=384, num_hidden_layers=6, num_attention_heads=6, intermediate_size=1536
    ),
    "base": dict(),
}
POSITIONS, BATCH, TOLERANCE = 512, 32, 1e-4


def write_sentences(path: Path, num: int) -> list[str]:
    """Write `num` sentences, both sides of bitext spread over all its files, shuffled."""
    files = sorted(glob.glob(str(bitext.SHARED / "bitext" / "*.tsv.gz")))
    pairs = bitext.read_lines(files, 1 + num * 3 // 4 // len(files)) if files else read_django()
    texts = [" ".join(side.split("\r")) for pair in pairs for side in pair]
    random.Random(0).shuffle(texts)
    path.write_text("".join(text + "\n" for text in texts[:num]), encoding="utf-8", newline="\n")
    return texts[:num]


def read_django():
    """Yield the translated messages of the installed Django, each on one line."""
    for src, trg in bitext.read_django():
        yield " ".join(src.split()), " ".join(trg.split())


def save_tokenizer(folder: Path, texts: list[str]) -> None:
    """Save XLM-R's layout around a real SentencePiece model, or around one trained here."""
    from transformers import XLMRobertaTokenizer

    from jalign.data.tokenizer import read_sentencepiece, train_tokenizer

    path = bitext.SHARED / "tokenizers" / "use_multilingual_v3.sp.model"
    if not path.exists():
        train_tokenizer(texts, folder, 16_000)
        return
    pieces, charsmap = read_sentencepiece(path.read_bytes())
    specials = [(token, 0.0) for token in ("<s>", "<pad>", "</s>", "<unk>")]
    XLMRobertaTokenizer(
        vocab=[*specials, *pieces[3:], ("<mask>", 0.0)],  # its own <unk>, <s>, </s> go
        _spm_precompiled_charsmap=charsmap,
    ).save_pretrained(str(folder))


def save_model(folder: Path, size: str, texts: list[str]) -> int:
    """Save a random encoder and a tokenizer; return the tokens of the texts, special ones too."""
    import torch
    from transformers import AutoTokenizer, XLMRobertaConfig, XLMRobertaModel

    save_tokenizer(folder, texts)
    tokenizer = AutoTokenizer.from_pretrained(str(folder))
    tokenizer.model_max_length = POSITIONS
    tokenizer.save_pretrained(str(folder))
    torch.manual_seed(0)
    config = XLMRobertaConfig(
        vocab_size=len(tokenizer),
        max_position_embeddings=POSITIONS + 2,
        type_vocab_size=1,
        layer_norm_eps=1e-5,
        initializer_range=0.05,
        **SIZES[size],
    )
    XLMRobertaModel(config).save_pretrained(str(folder))
    return sum(min(len(ids), POSITIONS) for ids in tokenizer(texts)["input_ids"])


# Each competitor: load(folder) -> embed; embed(path of the sentences, output) writes the vectors.
Embed = Callable[[Path, Path], None]


def ours(folder: Path) -> Embed:
    """Load as `jalign embed` does, and run what it runs."""
    import jalign
    from jalign.cli.embed import OPTIONS, embed_file, scan_file

    model = jalign.load(folder)
    options = dict(zip(OPTIONS, ("mean", -1, False, "truncate"), strict=True))

    def embed(source: Path, output: Path) -> None:
        sys.stdout, keep = sys.stderr, sys.stdout  # its result line is not ours
        embed_file(model, str(source), scan_file(str(source)), output, options)
        sys.stdout = keep

    return embed


def plain(folder: Path) -> Embed:
    """Call transformers as its documentation does: batches in file order, padded to the longest."""
    import torch
    from transformers import AutoModel, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(str(folder))
    model = AutoModel.from_pretrained(str(folder), add_pooling_layer=False).eval()

    def embed(source: Path, output: Path) -> None:
        texts, vectors = read_sentences(source), []
        with torch.inference_mode():
            for i in range(0, len(texts), BATCH):
                batch = tokenizer(
                    texts[i : i + BATCH], padding=True, truncation=True, return_tensors="pt"
                )
                h_BLD = model(**batch).last_hidden_state
                mask_BL1 = batch["attention_mask"][..., None]
                vectors.append(((h_BLD * mask_BL1).sum(1) / mask_BL1.sum(1)).numpy())
        np.save(output, np.concatenate(vectors))

    return embed


def sentence_transformers(folder: Path) -> Embed:
    """Call sentence-transformers, which sorts by length."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.models import Pooling, Transformer

    encoder = Transformer(str(folder), max_seq_length=POSITIONS)
    pooling = Pooling(encoder.get_word_embedding_dimension(), pooling_mode="mean")
    model = SentenceTransformer(modules=[encoder, pooling], device="cpu")

    def embed(source: Path, output: Path) -> None:
        np.save(output, model.encode(read_sentences(source), batch_size=BATCH))

    return embed


PARTS = {
    OURS: ours,
    "transformers, file order": plain,
    "sentence-transformers, sorted": sentence_transformers,
}


def read_sentences(path: Path) -> list[str]:
    """Read one sentence per line."""
    return path.read_text(encoding="utf-8").split("\n")[:-1]


def run_part(name: str, folder: Path, tokens: int, threads: int) -> None:
    """Be one competitor: all sentences twice, from nothing and again; print the times."""
    whole, warm = race.Stopwatch(), race.Stopwatch()
    source, output = folder / "sentences.txt", folder / f"{list(PARTS).index(name)}.npy"

    def from_nothing() -> None:
        nonlocal embed
        if name != OURS:
            import torch

            torch.set_num_threads(threads)
        embed = PARTS[name](folder)
        embed(source, output)

    embed = None
    whole.time(tokens, from_nothing)
    if name != "transformers, file order":
        warm.time(tokens, lambda: embed(source, output))
    else:  # nothing is compiled: again, but for a part (it is the slow one)
        part = folder / "part.txt"
        part.write_text("".join(s + "\n" for s in read_sentences(source)[::4]), encoding="utf-8")
        from transformers import AutoTokenizer

        ids = AutoTokenizer.from_pretrained(str(folder))(read_sentences(part))["input_ids"]
        share = sum(min(len(x), POSITIONS) for x in ids)
        warm.time(share, lambda: embed(part, folder / "part.npy"))
    warm.finish(whole=whole.steps)


def race_all(names: list[str], rounds: int, shared: tuple[str, ...]) -> tuple[dict, dict]:
    """Run everyone in turn; return the results of the second passes and of the first ones."""

    def take(name: str) -> dict:
        command = ("-m", "benchmarks.embed", "--part", name, *shared)
        return race.run_turn(race.Competitor(name, command))

    turns = race.take_turns(names, rounds, take)
    return race.joined(turns), race.joined(turns, "whole")


def check_vectors(folder: Path, names: list[str]) -> dict[str, float]:
    """Return each one's largest difference from ours; refuse one above the tolerance."""
    ours = np.load(folder / "0.npy")
    found = {n: np.load(folder / f"{list(PARTS).index(n)}.npy") for n in names if n != OURS}
    differences = {name: float(np.abs(theirs - ours).max()) for name, theirs in found.items()}
    if max(differences.values(), default=0.0) > TOLERANCE:
        raise SystemExit(f"the vectors differ: {differences}, tolerance {TOLERANCE}")
    return differences


def main() -> None:
    """Run the race and write its tables and JSON; or be one competitor."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--size", choices=SIZES, default="small")
    parser.add_argument("--sentences", type=int, default=20_000)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", default="", help="ours, and names with one of these, by commas")
    parser.add_argument("--name", default="", help="name of the JSON file")
    parser.add_argument("--part", choices=PARTS, help="be this one, with what the race gives")
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--tokens", type=int)
    args = parser.parse_args()
    if args.part:
        run_part(args.part, args.folder, args.tokens, args.threads)
        return
    race.use_cores(args.threads)
    names = [n for n in PARTS if n == OURS or any(x in n for x in args.only.split(","))]
    with tempfile.TemporaryDirectory() as path:
        folder = Path(path)
        texts = write_sentences(folder / "sentences.txt", args.sentences)
        tokens = save_model(folder, args.size, texts)
        shared = ("--folder", path, "--tokens", str(tokens), "--threads", str(args.threads))
        warm, whole = race_all(names, args.rounds, shared)
        differences = check_vectors(folder, names)
    settings = {"size": args.size, "sentences": len(texts), "tokens": tokens, "rounds": args.rounds}
    settings |= {"threads": args.threads, "differences": differences}
    results = {**warm, **{f"{name}, from the start of Python": r for name, r in whole.items()}}
    path = race.write_result(args.name or f"embed_{args.size}", settings, results)
    sys.stdout.write(f"{len(texts):,} sentences, {tokens:,} tokens, largest difference of vectors ")
    sys.stdout.write(json.dumps(differences) + "\n\nloaded and compiled before:\n\n")
    sys.stdout.write(race.table(warm, "tokens/s", OURS) + "\n\nfrom the start of Python:\n\n")
    sys.stdout.write(race.table(whole, "tokens/s", OURS) + f"\n\nwritten to {path}\n")


if __name__ == "__main__":
    main()
