"""Retrieve and mine translations with sentence vectors: Tatoeba accuracy and BUCC F1.

In: pairs of files and a function from texts to vectors. Out: results, and with `--predictions`
files in XTREME's submission layout. Source: XTREME's evaluate_retrieval.py.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags

from jalign.align.search import nearest_both
from jalign.cli._evaluate import say
from jalign.cli._evaluate_tasks import PREDICTED
from jalign.data.tasks.pairs import Bucc, read, read_bucc
from jalign.errors import AbsentFiles, BadData, ConfigError
from jalign.evals._averages import average
from jalign.metrics.bitext_f1 import above, best_threshold, bitext_f1, distinct_rows, scores_by_id
from jalign.metrics.retrieval import SCORINGS, mine, retrieve_both
from jalign.types import Result

Embed = Callable[[Sequence[str]], np.ndarray]


def split_set(spec: str, num: int) -> tuple[tuple[str, str], list[str]]:
    """Split SRC-TRG=FILE,FILE... into the languages and the files. Raises: ConfigError."""
    name, _, paths = spec.partition("=")
    langs, files = tuple(name.split("-")), paths.split(",")
    if len(langs) != 2 or not all(langs) or len(files) != num or not all(files):
        raise ConfigError(
            f"{spec!r}: need SRC-TRG={','.join(['FILE', 'FILE', 'GOLD'][:num])}, such as "
            f"de-en={','.join(['de.txt', 'en.txt', 'gold.txt'][:num])}"
        )
    return langs, files


def present_sets(specs: Sequence[str], num: int) -> list[str]:
    """Return the sets whose files are there; say which are not.

    Raises: AbsentFiles where none is.
    """
    missing = {}
    for spec in specs:
        if absent := [p for p in split_set(spec, num)[1] if not Path(p).expanduser().is_file()]:
            missing[spec] = ", ".join(absent)
    if len(missing) == len(specs):
        raise AbsentFiles(f"--files: no such files: {', '.join(missing.values())}")
    for spec, absent in missing.items():
        say(f"{spec.partition('=')[0]}: absent, so not scored: {absent}")
    return [spec for spec in specs if spec not in missing]


def _say_counts(name: str, counts: Counter) -> None:
    for reason, num in counts.items():
        say(f"{name}: {num:,} x {reason}")


def _write(fv: flags.FlagValues, lang: str, lines: Sequence[str]) -> None:
    if fv.predictions:
        folder = Path(fv.predictions).expanduser() / PREDICTED[fv.task]
        folder.mkdir(parents=True, exist_ok=True)
        text = "".join(line + "\n" for line in lines)
        (folder / f"test-{lang}.tsv").write_text(text, encoding="utf-8")


def check_sets(fv: flags.FlagValues) -> None:
    """Check the flags before a model is opened. Raises: ConfigError."""
    if fv.task == "bucc":
        tests, devs = ([split_set(spec, 3)[0] for spec in specs] for specs in (fv.files, fv.dev))
        if lacking := [langs for langs in tests if devs and langs not in devs]:
            raise ConfigError(f"--dev has no set for {'-'.join(lacking[0])}: type one, or no --dev")
        return
    for spec in fv.files:
        split_set(spec, 2)
    if not fv.scorings or not set(fv.scorings) <= set(SCORINGS):
        raise ConfigError(f"--scorings={','.join(fv.scorings)}: need some of {', '.join(SCORINGS)}")


def retrieve_sets(fv: flags.FlagValues, embed: Embed) -> list[Result]:
    """Score how often a sentence's nearest neighbour is its translation, both ways.

    The prediction files name for each target sentence the number of its source sentence, by the
    first of `--scorings`.
    """
    results = []
    for (src, trg), files in (split_set(spec, 2) for spec in present_sets(fv.files, 2)):
        counts: Counter = Counter()
        pairs = list(read(*files, counts=counts))
        if not pairs:
            raise BadData(f"{files[0]}: no line in it; need a sentence per line")
        _say_counts(f"{src}-{trg}", counts)
        src_ND, trg_ND = (embed([pair[side] for pair in pairs]) for side in (0, 1))
        right = np.arange(len(pairs))
        for scoring in fv.scorings:
            there, back = retrieve_both(src_ND, trg_ND, scoring=scoring, search=nearest_both)
            for name, found in ((f"{src}-{trg}", there), (f"{trg}-{src}", back)):
                accuracy = float((found == right).mean())
                results.append(
                    Result(f"retrieval/{scoring}", name, "accuracy", accuracy, len(pairs))
                )
            if scoring == fv.scorings[0]:
                _write(fv, src, [str(i) for i in back.tolist()])
    return [*results, *average(results, min)]


def mine_sets(fv: flags.FlagValues, embed: Embed) -> list[Result]:
    """Score mined pairs against the gold ones; the threshold comes from `--dev`, where it is
    given.
    """
    tests = [split_set(spec, 3) for spec in present_sets(fv.files, 3)]
    devs = dict(split_set(spec, 3) for spec in fv.dev)
    results = []
    for langs, files in tests:
        test = _mine(langs, files, fv, embed)
        on, where = (
            (_mine(langs, devs[langs], fv, embed), "its --dev")
            if devs
            else (test, "the set itself")
        )
        threshold = best_threshold(on[1], on[0].gold)
        say(f"{'-'.join(langs)}: threshold {threshold:.4f} of {where}")
        found = above(test[1], threshold)
        score, name = bitext_f1(found, test[0].gold), "-".join(langs)
        for metric in ("precision", "recall", "f1"):
            results.append(Result("bucc", name, metric, getattr(score, metric), score.support))
        _write(fv, langs[0], ["\t".join(pair) for pair in sorted(found)])
    return [*results, *average(results, min)] if len(tests) > 1 else results


def _mine(
    langs: tuple[str, str], files: Sequence[str], fv: flags.FlagValues, embed: Embed
) -> tuple[Bucc, dict[Any, float]]:
    counts: Counter = Counter()
    data = read_bucc(*files, counts=counts)
    for path, found in zip(files, (data.src.ids, data.trg.ids, data.gold), strict=True):
        if not found:
            raise BadData(f"{path}: no line in it; need lines of id, tab, and a sentence or an id")
    vectors = [
        embed([side.texts[row] for row in distinct_rows(side.texts).tolist()])
        for side in (data.src, data.trg)
    ]
    mined = mine(*vectors, margin=fv.margin, search=nearest_both)
    scores = scores_by_id(mined, data.src, data.trg, counts)
    _say_counts("-".join(langs), counts)
    return data, scores
