"""Report the study of cross-lingual adjustment: five states of one encoder, and what holds of them.

In: a folder with a folder per state, each with results.jsonl (task scores), retrieval.jsonl,
distances.jsonl and histograms.json, as launch/adjust_study.sh writes them; of a fine-tuned state
all but the first lie in a folder per seed. Out: one table, and for each finding of Efimov et al.
2022 whether it is confirmed here, with the numbers.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jalign.errors import BadData, ConfigError

STATES = ("original", "adjusted", "finetuned", "adjusted_finetuned", "continual")
TITLES = ("original", "adjusted", "fine-tuned", "adj. + fine-t.", "continual")
RESULTS, MEASURED = "results.jsonl", ("retrieval.jsonl", "distances.jsonl")
MAIN = ("f1", "accuracy")  # of a task's metrics the one that is compared
ROWS = (  # task, metric, title
    ("distances/l2", "related", "distance to the translation"),
    ("distances/l2", "unrelated", "distance to another word"),
    ("distances/l2", "difference", "paired difference"),
    ("distances/relative", "related", "to the translation / mean norm"),
    ("distances/relative", "unrelated", "to another word / mean norm"),
    ("distances/relative", "difference", "paired difference / mean norm"),
    ("distances/cosine", "error_rate", "error rate (cosine)"),
    ("distances/cosine", "auc", "AUC (cosine)"),
    ("word_retrieval/csls", "accuracy", "word retrieval (CSLS)"),
    ("retrieval/cosine", "accuracy", "sentence retrieval (cosine)"),
)
FORGETTING = ("word_retrieval/csls", "accuracy")


class State(NamedTuple):
    """The scores of a state: {(task, metric, lang): (value, standard deviation or None)}."""

    name: str
    scores: Mapping[tuple[str, str, str], tuple[float, float | None]]

    def value(self, task: str, metric: str, lang: str = "avg") -> float | None:
        """Return a score, None where it is missing."""
        found = self.scores.get((task, metric, lang))
        return None if found is None else found[0]


class Finding(NamedTuple):
    """A statement of the paper; `holds` is None where the states that it needs are missing."""

    statement: str
    holds: bool | None
    numbers: str


class Study(NamedTuple):
    """The states that there are, by name, the main metric of each task, and the findings."""

    states: Mapping[str, State]
    tasks: Mapping[str, str]
    findings: Sequence[Finding]


def read_study(folder: Path, aligned: Sequence[str] = ()) -> Study:
    """Read the states of a study; `aligned` are the languages of its parallel text.

    Raises: ConfigError where there is none, BadData for a broken file.
    """
    states = {name: _read_state(folder / name) for name in STATES if (folder / name).is_dir()}
    states = {name: state for name, state in states.items() if state.scores}
    if not states:
        raise ConfigError(
            f"{folder} has no results of any of {', '.join(STATES)}: run launch/adjust_study.sh"
        )
    tuned = [states[name] for name in STATES[2:] if name in states]
    tasks: dict[str, str] = {}
    for task, metric, _ in (key for state in tuned for key in state.scores):
        known = not task.startswith(("distances", "word_retrieval", "retrieval"))
        if known and metric in MAIN and tasks.get(task) != MAIN[0]:
            tasks[task] = metric
    return Study(states, tasks, list(_findings(states, tasks, set(aligned))))


def seed_files(folder: Path, name: str) -> list[Path]:
    """Return a state's file of that name, or those of its seeds, or nothing."""
    path = folder / name
    return [path] if path.is_file() else sorted(folder.glob(f"seed*/{name}"))


def _read_state(folder: Path) -> State:
    scores: dict[tuple[str, str, str], tuple[float, float | None]] = {}
    results = folder / RESULTS
    for r in _read_lines(results) if results.is_file() else ():
        scores[r["task"], r["metric"], r["lang"]] = r["value"], r.get("sd")
    values: dict[tuple[str, str, str], list[float]] = {}
    for path in (path for name in MEASURED for path in seed_files(folder, name)):
        for r in _read_lines(path):
            values.setdefault((r["task"], r["metric"], r["lang"]), []).append(r["value"])
    for key, found in values.items():
        spread = statistics.stdev(found) if len(found) > 1 else None
        scores[key] = statistics.fmean(found), spread
    return State(folder.name, scores)


def _read_lines(path: Path) -> list[dict[str, Any]]:
    """Read records; of a run that was tested, those of the last test. Raises: BadData."""
    try:
        records = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        tests = [r for r in records if "test" in r]
        if tests:
            records = [r for r in tests if r["step"] == tests[-1]["step"]]
        for r in records:
            if not {"task", "metric", "lang", "value"} <= set(r):
                raise ValueError(f"no result: {r}")
    except (ValueError, KeyError, TypeError) as error:
        raise BadData(f"{path} is broken ({error!r}): make it again") from error
    return records


Values = Callable[[str], float | None]


def _findings(
    states: Mapping[str, State], tasks: Mapping[str, str], aligned: set[str]
) -> Iterator[Finding]:
    """Go through the statements of methods.md 5.4 and 5.5, the distances first."""

    def values_of(task: str, metric: str) -> Values:
        return lambda name: states[name].value(task, metric) if name in states else None

    near, far = (values_of("distances/l2", m) for m in ("related", "unrelated"))
    yield _order("adjustment brings translations closer", near, "adjusted", "original")
    yield _kept("adjustment keeps unrelated words where they were", near, far)
    yield _both(
        "fine-tuning shrinks both distances",
        _order("", near, "finetuned", "original"),
        _order("", far, "finetuned", "original"),
    )
    words = values_of(*FORGETTING)
    yield _order(
        "fine-tuning forgets a part of the adjustment (word retrieval)",
        words,
        *("finetuned", "adjusted_finetuned", "adjusted"),
    )
    yield _order(
        "continual adjustment forgets less (word retrieval)",
        words,
        *("adjusted_finetuned", "continual"),
    )
    sentences = values_of("retrieval/cosine", "accuracy")
    yield _order("adjustment improves sentence retrieval", sentences, "original", "adjusted")
    for task, metric in tasks.items():
        yield from _of_task(states, task, metric, aligned)


def _of_task(
    states: Mapping[str, State], task: str, metric: str, aligned: set[str]
) -> Iterator[Finding]:
    """Go through what is said of a task, but for languages that it has not."""
    pairs = [
        ("adjustment improves zero-shot transfer", "finetuned", "adjusted_finetuned", True),
        ("continual adjustment improves it further", "adjusted_finetuned", "continual", True),
        ("languages without parallel text are hurt", "finetuned", "adjusted_finetuned", False),
    ]
    for said, before, after, of in pairs if aligned else pairs[:2]:
        names = (before, after)
        found = _gain(f"{task}: {said}", states, names, (task, metric), aligned, of=of)
        if found is not None:
            is_loss = not of and found.holds is not None
            yield found._replace(holds=not found.holds) if is_loss else found


def _number(value: float) -> str:
    return f"{value:.4f}" if abs(value) < 10 else f"{value:.2f}"


def _order(said: str, values: Values, *names: str) -> Finding:
    """State that the values of the states rise in this order."""
    found = [values(name) for name in names]
    numbers = ", ".join(
        f"{name} {'missing' if value is None else _number(value)}"
        for name, value in zip(names, found, strict=True)
    )
    if None in found:
        return Finding(said, None, numbers)
    return Finding(said, all(a < b for a, b in zip(found, found[1:], strict=False)), numbers)


def _both(said: str, *parts: Finding) -> Finding:
    numbers = f"to the translation: {parts[0].numbers}; to another word: {parts[1].numbers}"
    if any(part.holds is None for part in parts):
        return Finding(said, None, numbers)
    return Finding(said, all(part.holds for part in parts), numbers)


def _kept(said: str, near: Values, far: Values) -> Finding:
    """State that unrelated words moved, relatively, less than half as much as related ones."""
    found = [values(name) for values in (near, far) for name in ("original", "adjusted")]
    if None in found:
        return Finding(said, None, "missing")
    change = [found[1] / found[0] - 1, found[3] / found[2] - 1]
    numbers = (
        f"{100 * change[1]:+.1f} %, that to translations {100 * change[0]:+.1f} %; confirmed where "
        "it is less than half as much"
    )
    return Finding(said, abs(change[1]) < 0.5 * abs(change[0]), numbers)


def _gain(
    said: str,
    states: Mapping[str, State],
    names: tuple[str, str],
    score: tuple[str, str],
    aligned: set[str],
    *,
    of: bool = True,
) -> Finding | None:
    """State that the mean over languages rises, and that it does in most of them.

    With `aligned`, over those languages, or the others where `of` is False; None where there are no
    such languages. English, which the task is trained on, does not count.
    """
    if not set(names) <= set(states):
        return Finding(said, None, "missing: " + ", ".join(n for n in names if n not in states))
    before, after = ({k[2]: v for k, v in states[n].scores.items() if k[:2] == score}
                     for n in names)  # fmt: skip
    langs = [lang for lang in before if lang in after and lang not in ("avg", "en")]
    if aligned:
        langs = [lang for lang in langs if (lang.partition("-")[0] in aligned) == of]
    if not langs:
        return None
    gains = {lang: 100 * (after[lang][0] - before[lang][0]) for lang in langs}
    mean, more = statistics.fmean(gains.values()), sum(g > 0 for g in gains.values())
    spread = [v[lang][1] for v in (before, after) for lang in langs if v[lang][1] is not None]
    numbers = (
        f"{mean:+.2f} points in the mean, more in {more} of {len(langs)} languages ("
        + ", ".join(f"{lang} {gain:+.1f}" for lang, gain in gains.items())
        + ")"
    )
    if spread:
        wide = 100 * statistics.fmean(spread)
        numbers += f"; between seeds ± {wide:.2f} per language"
        numbers += ", which is more than the change" * (wide > abs(mean))
    return Finding(said, mean > 0 and 2 * more > len(langs), numbers)


def markdown(study: Study) -> str:
    """Write the table and the findings as Markdown."""
    shown = [(name, title) for name, title in zip(STATES, TITLES, strict=True)
             if name in study.states]  # fmt: skip
    head = "| | " + " | ".join(title for _, title in shown) + " |\n"
    text = head + "| --- |" + " ---: |" * len(shown) + "\n"
    states = [study.states[name] for name, _ in shown]
    for task, metric, title in ROWS:
        text += _row(title, [state.value(task, metric) for state in states])
    for task, metric in study.tasks.items():
        langs = dict.fromkeys(k[2] for s in states for k in s.scores if k[:2] == (task, metric))
        for lang in langs:
            text += _row(f"{task} {metric} {lang}", [s.value(task, metric, lang) for s in states])
    text += "\n"
    for finding in study.findings:
        word = {True: "confirmed", False: "not confirmed", None: "not tested"}[finding.holds]
        text += f"- **{word}**: {finding.statement}. {finding.numbers}.\n"
    return text


def _row(title: str, values: Sequence[float | None]) -> str:
    if all(value is None for value in values):
        return ""
    cells = ("" if value is None else _number(value) for value in values)
    return f"| {title} | " + " | ".join(cells) + " |\n"


def to_json(study: Study) -> dict[str, Any]:
    """Return the study as JSON: scores by state, and the findings."""
    return {
        "states": {
            name: [[*key, *value] for key, value in state.scores.items()]
            for name, state in study.states.items()
        },
        "findings": [finding._asdict() for finding in study.findings],
    }
