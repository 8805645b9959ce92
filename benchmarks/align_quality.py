"""Compare word alignment learned from one bitext on real gold links: AER of ours and of eflomal.

    python -m benchmarks.align_quality --bitext=hansards.en-fr.tsv.gz --gold=GOLD
      --run=with=runs/xlm_align_scratch --run=without=runs/xlm_align_self --lexicon=data/hansards

GOLD as in `jalign evaluate --gold`. Every aligner sees the bitext only, eflomal the gold sentences
too (without links), as people use it. The first `--dev` gold sentences choose layer and method of a
run, and the symmetrisation of the others; the rest is the test. A run brings its AER by step from
its results.jsonl, where its config evaluates the gold sets `dev` and `test`; `--split=FOLDER`
writes these. `--teach=data/hansards` only writes eflomal's links of the prepared text into
data/hansards/links, which `config.streams.pair.links` takes. eflomal is no part of the extra
`bench`, because it is GPL and compiles on installation: `pip install eflomal`.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from jalign.align.symmetrize import METHODS, symmetrize
from jalign.data.files import read_lines
from jalign.evals._gold import GoldSet, read_gold
from jalign.metrics.aer import corpus_counts, link_scores

Links = list[tuple[int, int]]


def read_bitext(path: str) -> list[tuple[str, str]]:
    """Read tab-separated pairs, tokenised at spaces; flawed lines and empty sides are left out."""
    rows = (line.data.decode().split("\t") for line in read_lines(path))
    return [(row[0], row[1]) for row in rows if len(row) == 2 and all(x.strip() for x in row)]


def eflomal_links(pairs: Sequence[tuple[str, str]], num: int) -> tuple[list, list, float]:
    """Train eflomal on the pairs, lower-cased; return the links of the first `num` in both
    directions, and the seconds it took.
    """
    import eflomal

    with tempfile.TemporaryDirectory() as folder:
        out = [str(Path(folder) / name) for name in ("fwd", "rev")]
        sides = [[pair[s].lower() + "\n" for pair in pairs] for s in (0, 1)]
        begin = time.perf_counter()
        eflomal.Aligner(model=3, n_samplers=3).align(
            *sides, links_filename_fwd=out[0], links_filename_rev=out[1]
        )
        taken = time.perf_counter() - begin
        found = [Path(name).read_text().splitlines()[:num] for name in out]
    # both files write source-target
    ways = [[[tuple(map(int, x.split("-"))) for x in line.split()] for line in f] for f in found]
    return ways[0], ways[1], taken


def write_links(data: Path) -> None:
    """Write eflomal's links, intersected, of every pair source of a prepared dataset."""
    from jalign.data.records import read_examples, read_manifest

    manifest, folder = read_manifest(data), data / "links"
    folder.mkdir(exist_ok=True)
    for info in manifest.sources:
        if info.stream != "pair":
            continue
        examples = read_examples(manifest, info.name, "pair", "train")
        pairs = [tuple(" ".join(side.text.split()) for side in e.sides) for e in examples]
        forward, reverse, taken = eflomal_links(pairs, len(pairs))
        with (folder / f"{info.name}.links").open("w") as file:
            for f, r in zip(forward, reverse, strict=True):
                file.write(" ".join(f"{i}-{j}" for i, j in sorted(set(f) & set(r))) + "\n")
        print(f"{info.name}: {len(pairs):,} pairs in {taken:.0f} s")


def lexicon_links(data: Path, gold: GoldSet) -> tuple[list[Links], list[Links]]:
    """Align the gold with `data`'s lexicon, piece by piece, and map pieces to words."""
    from jalign.data.lexicon import load_lexicon
    from jalign.data.lexicon_cells import Pairs
    from jalign.data.tokenizer import load_tokenizer

    tokenizer = load_tokenizer(data / "tokenizer")
    lexicon = load_lexicon(next((data / "lexicons").glob("*.npz")))
    sides = [tokenizer.encode_words([pair[s] for pair in gold.pairs]) for s in (0, 1)]
    pairs = Pairs.of(*([ids for ids, _ in side] for side in sides))
    ways: tuple[list[Links], list[Links]] = ([], [])
    for number, both in enumerate(lexicon.align(pairs)):
        src, trg = (side[number][1] for side in sides)
        for way, links in zip(ways, both, strict=True):
            way.append(sorted({(int(src[i]), int(trg[j])) for i, j in links}))
    return ways


def scores(found: Sequence[Links], gold: GoldSet, part: slice) -> dict[str, float]:
    """Return precision, recall, F1 and AER of a part of the gold set."""
    links = [(g.sure, g.possible) for g in gold.gold[part]]
    counts = corpus_counts(found[part], links)
    return link_scores(counts)._asdict()


def best_symmetrisation(
    forward: Sequence[Links], reverse: Sequence[Links], gold: GoldSet, dev: int
) -> tuple[str, dict[str, float]]:
    """Choose how to combine two directions on the dev part, and score it on the rest."""
    found = {
        name: [sorted(symmetrize(f, r, name)) for f, r in zip(forward, reverse, strict=True)]
        for name in METHODS
    }
    best = min(found, key=lambda name: scores(found[name], gold, slice(dev))["aer"])
    return best, scores(found[best], gold, slice(dev, None))


def run_scores(run: Path) -> tuple[str, dict[str, float], dict[int, float]]:
    """Choose (method, layer) by the last step's AER on dev; return its test scores and the test AER
    of every step.
    """
    lines = [json.loads(x) for x in (run / "results.jsonl").read_text().splitlines()]
    lines = [x for x in lines if x["task"].startswith("word_alignment/")]
    last = max(x["step"] for x in lines)
    dev = {x["task"]: x["value"] for x in lines if _is(x, "dev", "aer") and x["step"] == last}
    best = min(dev, key=dev.get)
    mine = [x for x in lines if x["task"] == best and x["lang"] == "test"]
    final = {x["metric"]: x["value"] for x in mine if x["step"] == last}
    return best, final, {x["step"]: x["value"] for x in mine if x["metric"] == "aer"}


def _is(line: dict, lang: str, metric: str) -> bool:
    return (line["lang"], line["metric"]) == (lang, metric)


def write_split(spec: str, dev: int, folder: Path) -> None:
    """Write dev and test parts of a gold set, as three columns that count from 0."""
    gold = read_gold(spec)
    folder.mkdir(parents=True, exist_ok=True)
    for name, part in (("dev", slice(dev)), ("test", slice(dev, None))):
        with (folder / f"{name}.tsv").open("w", encoding="utf-8") as file:
            for (src, trg), g in zip(gold.pairs[part], gold.gold[part], strict=True):
                links = [f"{i}-{j}" if (i, j) in g.sure else f"{i}p{j}" for i, j in
                         sorted(g.possible)]  # fmt: skip
                file.write(f"{src.strip()}\t{trg.strip()}\t{' '.join(links)}\n")


def compare(args: argparse.Namespace) -> Iterator[dict]:
    """Yield a row of scores for every aligner."""
    gold = read_gold(args.gold)
    bitext = read_bitext(args.bitext)
    forward, reverse, taken = eflomal_links([*gold.pairs, *bitext], len(gold.pairs))
    name, found = best_symmetrisation(forward, reverse, gold, args.dev)
    yield {"aligner": "eflomal", "how": name, **found, "seconds": taken, "pairs": len(bitext)}
    if args.lexicon:
        ways = lexicon_links(Path(args.lexicon), gold)
        name, found = best_symmetrisation(*ways, gold, args.dev)
        yield {"aligner": "jalign lexicon", "how": name, **found}
    for spec in args.run:
        name, folder = spec.split("=", 1)
        how, found, curve = run_scores(Path(folder))
        how = how.removeprefix("word_alignment/")
        yield {"aligner": name, "how": how, **found, "aer_by_step": curve}


def show(rows: Sequence[dict], say: Callable[[str], object] = print) -> None:
    """Print the table, and the curves of the runs."""
    say(f"{'aligner':24}{'how':28}{'precision':>10}{'recall':>8}{'F1':>8}{'AER':>8}")
    for row in rows:
        cells = (row[m] for m in ("precision", "recall", "f1", "aer"))
        numbers = "".join(f"{100 * x:{w}.2f}" for x, w in zip(cells, (10, 8, 8, 8), strict=True))
        say(f"{row['aligner']:24}{row['how']:28}{numbers}")
    for row in rows:
        if "aer_by_step" in row:
            curve = ", ".join(f"{s}: {100 * v:.2f}" for s, v in row["aer_by_step"].items())
            say(f"AER of {row['aligner']} by step: {curve}")


def main() -> None:
    """Run the comparison."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gold")
    parser.add_argument("--dev", type=int, default=100)
    parser.add_argument("--split", help="write dev.tsv and test.tsv into this folder, and end")
    parser.add_argument("--teach", help="prepared dataset that gets eflomal's links, and end")
    parser.add_argument("--bitext")
    parser.add_argument("--lexicon", help="prepared dataset with lexicons/ inside")
    parser.add_argument("--run", action="append", default=[], help="NAME=WORKDIR")
    parser.add_argument("--output", default="benchmarks/results/align_quality.json")
    args = parser.parse_args()
    if args.teach:
        write_links(Path(args.teach))
        return
    if args.split:
        write_split(args.gold, args.dev, Path(args.split))
        return
    rows = list(compare(args))
    show(rows)
    Path(args.output).write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
