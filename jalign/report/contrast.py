"""Report the contrast study: what each objective does to retrieval, tagging and word alignment.

In: the folder of launch/contrast_study.sh, a folder per system with retrieval.jsonl (vectors that
all systems have), retrieval_trained.jsonl (the vectors that the system trains), alignment.jsonl,
run/results.jsonl (retrieval of held-out pairs during training, of which the last counts) and
pos/results.jsonl; a system may lack any of them, as a pretrained reference does. Out: one table of
means over languages, and Hu et al.'s two statements with our numbers.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from jalign.errors import BadData, ConfigError

TITLES = {
    "base": "MLM + TLM",
    "wa": "+ words (AMBER)",
    "sa": "+ sentences (AMBER)",
    "amber": "+ words + sentences (AMBER)",
    "veco2": "+ VECO 2.0",
    "infoxlm": "+ InfoXLM",
    "labse": "+ LaBSE",
    "dap": "+ DAP",
}
COLUMNS = {  # column -> its title
    "retrieval": "retrieval, mean of layer 2/3",
    "retrieval_trained": "retrieval, trained vector",
    "retrieval_heldout": "retrieval, held-out pairs",
    "source": "POS F1 en",
    "zero": "POS F1 zero-shot",
    "aer": "AER",
}
LEAST_GAIN = 15.0  # points of retrieval that the sentences should give (Hu et al.: 68.8 to 87.9)


class System(NamedTuple):
    """A system's mean over languages per column, per cent, and the scores of each language."""

    name: str
    means: Mapping[str, float]
    by_lang: Mapping[str, Mapping[str, float]]


def read_study(folder: Path) -> list[System]:
    """Read the systems of a study, those of TITLES first.

    Raises: ConfigError where there is none, BadData for a broken file.
    """
    found = [_read_system(path) for path in sorted(folder.glob("*")) if path.is_dir()]
    found = [system for system in found if system.means]
    if not found:
        raise ConfigError(f"{folder} has no results: run launch/contrast_study.sh")
    known = list(TITLES)
    return sorted(found, key=lambda s: known.index(s.name) if s.name in known else len(known))


def _read_system(folder: Path) -> System:
    retrieval = {
        name: _scores(folder / f"{name}.jsonl", "retrieval/cosine", "accuracy")
        for name in ("retrieval", "retrieval_trained")
    }
    held_out = _scores(folder / "run" / "results.jsonl", "retrieval", "accuracy")
    tests = ("udpos", "columns")  # treebanks, and other files of words and tags
    tagged = {
        lang: value
        for task in tests
        for lang, value in _scores(folder / "pos" / "results.jsonl", task, "f1").items()
    }
    by_lang = retrieval | {
        "retrieval_heldout": held_out,
        "source": {lang: value for lang, value in tagged.items() if lang == "en"},
        "zero": {lang: value for lang, value in tagged.items() if lang != "en"},
        "aer": _scores(folder / "alignment.jsonl", "", "aer"),
    }
    by_lang = {column: scores for column, scores in by_lang.items() if scores}
    means = {column: statistics.fmean(scores.values()) for column, scores in by_lang.items()}
    return System(folder.name, means, by_lang)


def _scores(path: Path, task: str, metric: str) -> dict[str, float]:
    """Return the scores of a file by language, per cent: the last ones, and of a tested run those
    of its test.
    """
    if not path.is_file():
        return {}
    try:
        lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        lines = [r for r in lines if "test" in r] or lines
        return {
            r["lang"]: 100 * r["value"]
            for r in lines
            if r["metric"] == metric and task in ("", r["task"]) and r["lang"] != "avg"
        }
    except (ValueError, KeyError, TypeError) as error:
        raise BadData(f"{path} is broken ({error!r}): delete it, and make it again") from error


def markdown(systems: list[System]) -> str:
    """Write the table and the statements as Markdown."""
    columns = [column for column in COLUMNS if any(column in s.means for s in systems)]
    text = "| trained with | " + " | ".join(COLUMNS[column] for column in columns) + " |\n"
    text += "| --- |" + " ---: |" * len(columns) + "\n"
    for system in systems:
        cells = [f"{system.means[c]:.1f}" if c in system.means else "" for c in columns]
        text += f"| {TITLES.get(system.name, system.name)} | {' | '.join(cells)} |\n"
    text += "\nPer cent, means over languages: "
    text += "; ".join(f"{COLUMNS[c]}: {', '.join(_langs(systems, c))}" for c in columns) + ".\n"
    return text + "".join(f"\n- {statement}" for statement in _statements(systems)) + "\n"


def _langs(systems: list[System], column: str) -> list[str]:
    return list(dict.fromkeys(lang for s in systems for lang in s.by_lang.get(column, {})))


def _statements(systems: list[System]) -> Iterator[str]:
    """Compare AMBER's sentences and words with MLM + TLM, as the paper does."""
    of = {system.name: system.means for system in systems}
    base = of.get("base", {})
    vectors = {
        "retrieval_trained": (
            "retrieval",
            "the better vector of ",
            ("retrieval", "retrieval_trained"),
        ),
        "retrieval_heldout": ("retrieval of held-out pairs", "", ("retrieval_heldout",)),
    }
    for column, (what, which, before) in vectors.items():
        if column in base and column in of.get("sa", {}):
            gain = of["sa"][column] - max(base[name] for name in before)
            verdict = "yes" if gain >= LEAST_GAIN else "no"
            yield (
                f"Sentence alignment lifts {what} by at least {LEAST_GAIN:.0f} points: {verdict}, "
                f"{gain:+.1f} over {which}MLM + TLM (published: 68.8 to 87.9)."
            )
    for column, said, sign in (("zero", "zero-shot tagging", 1), ("aer", "word alignment", -1)):
        if column in base and column in of.get("wa", {}):
            change = of["wa"][column] - base[column]
            verdict = "yes" if sign * change > 0 else "no"
            yield f"Word alignment lifts {said}: {verdict}, {COLUMNS[column]} {change:+.1f}."


def to_json(systems: list[System]) -> list[dict[str, Any]]:
    """Return the study as JSON."""
    return [system._asdict() for system in systems]
