"""The report of the adjustment study: what it calls confirmed, what it cannot say, its picture."""

from __future__ import annotations

import json

import numpy as np
import pytest

from jalign.cli.main import main
from jalign.errors import BadData, ConfigError
from jalign.report.adjustment import STATES, markdown, read_study
from jalign.report.distance_plot import joined, read_histograms, shared_edges

# related, unrelated, word retrieval, sentence retrieval; then scores of fine-tuning by language
CONFIRMING = {
    "original": ((10.0, 20.0, 0.30, 0.40), {}),
    "adjusted": ((5.0, 19.0, 0.60, 0.60), {}),
    "finetuned": ((4.0, 8.0, 0.20, 0.10), {"en": 0.9, "de": 0.50, "ru": 0.40, "sw": 0.30}),
    "adjusted_finetuned": ((3.0, 8.5, 0.45, 0.3), {"en": 0.8, "de": 0.60, "ru": 0.45, "sw": 0.2}),
    "continual": ((3.5, 9.0, 0.55, 0.35), {"en": 0.8, "de": 0.62, "ru": 0.46, "sw": 0.21}),
}


def write_lines(path, rows, **more):
    lines = [dict(zip(("task", "metric", "lang", "value"), row, strict=True)) for row in rows]
    path.write_text("".join(json.dumps(line | dict(n=9, step=5) | more) + "\n" for line in lines))


def write_state(folder, values, tuned, seed):
    related, unrelated, words, sentences = values
    folder.mkdir(parents=True)
    rows = [("related", related), ("unrelated", unrelated), ("difference", unrelated - related)]
    rows = [("distances/l2", metric, "avg", value) for metric, value in rows]
    rows.append(("word_retrieval/csls", "accuracy", "avg", words))
    write_lines(folder / "distances.jsonl", rows)
    write_lines(folder / "retrieval.jsonl", [("retrieval/cosine", "accuracy", "avg", sentences)])
    if tuned:
        rows = [("udpos", "f1", lang, value) for lang, value in tuned.items()]
        rows += [("udpos", "accuracy", "de", 0.99), ("udpos", "f1", "avg", 0.5)]
        write_lines(folder / "results.jsonl", rows, sd=0.01, seeds=[0, 1])
    rng, counts = np.random.default_rng(seed), {}
    for lang in ("en-de", "en-ru"):
        sides = {"related": rng.normal(related, 1, 500), "unrelated": rng.normal(unrelated, 1, 500)}
        edges = np.histogram_bin_edges(np.concatenate(list(sides.values())), 40)
        difference = np.histogram(sides["unrelated"] - sides["related"], 40)
        kind = {side: np.histogram(x, edges)[0].tolist() for side, x in sides.items()}
        kind |= dict(edges=edges.tolist(), difference=difference[0].tolist())
        counts[lang] = {"relative": kind | dict(difference_edges=difference[1].tolist())}
    (folder / "histograms.json").write_text(json.dumps(counts))


def write_study(folder, changes=None, without=()):
    for seed, (name, (values, tuned)) in enumerate((CONFIRMING | (changes or {})).items()):
        if name not in without:
            write_state(folder / name, values, tuned, seed)
    return folder


def verdicts(folder, **more):
    return {f.statement: f.holds for f in read_study(folder, **more).findings}


def test_what_the_paper_found_is_confirmed_where_it_is_so(tmp_path):
    found = verdicts(write_study(tmp_path), aligned=["de", "ru"])
    assert len(found) == 9 and all(found.values()), found


@pytest.mark.parametrize(
    "state, values, statement",
    [
        ("adjusted", (11.0, 20.0, 0.6, 0.6), "adjustment brings translations closer"),
        ("adjusted", (5.0, 12.0, 0.6, 0.6), "adjustment keeps unrelated words where they were"),
        ("finetuned", (4.0, 21.0, 0.2, 0.1), "fine-tuning shrinks both distances"),
        ("adjusted_finetuned", (3.0, 8.5, 0.65, 0.3), "fine-tuning forgets a part"),
        ("continual", (3.5, 9.0, 0.4, 0.3), "continual adjustment forgets less"),
        ("adjusted", (5.0, 19.0, 0.6, 0.4), "adjustment improves sentence retrieval"),
    ],
)
def test_what_is_not_so_is_not_confirmed(tmp_path, state, values, statement):
    write_study(tmp_path, {state: (values, CONFIRMING[state][1])})
    wrong = [said for said, holds in verdicts(tmp_path).items() if not holds]
    assert any(said.startswith(statement) for said in wrong)


def test_gains_count_languages_other_than_english_and_name_them(tmp_path):
    worse = {"en": 0.99, "de": 0.45, "ru": 0.39, "sw": 0.60}
    write_study(tmp_path, {"adjusted_finetuned": (CONFIRMING["adjusted_finetuned"][0], worse)})
    study = read_study(tmp_path, ["de", "ru"])
    by_said = {f.statement: f for f in study.findings}
    found = by_said["udpos: adjustment improves zero-shot transfer"]
    assert found.holds is False
    assert "-3.00 points" in found.numbers and "more in 0 of 2" in found.numbers
    assert "de -5.0, ru -1.0" in found.numbers and "± 1.00" in found.numbers
    hurt = by_said["udpos: languages without parallel text are hurt"]
    assert hurt.holds is False and "sw +30.0" in hurt.numbers


def test_nothing_is_said_of_languages_that_a_task_has_not(tmp_path):
    found = verdicts(write_study(tmp_path), aligned=["de", "ru", "sw"])
    assert not any("without parallel text" in said for said in found) and len(found) == 8
    assert "udpos: adjustment improves zero-shot transfer" in found


def test_states_that_are_missing_are_said(tmp_path):
    write_study(tmp_path, without=("continual", "adjusted_finetuned"))
    found = verdicts(tmp_path)
    assert found["adjustment brings translations closer"] is True
    assert found["continual adjustment forgets less (word retrieval)"] is None
    text = markdown(read_study(tmp_path))
    assert "not tested" in text and "continual |" not in text.splitlines()[0]


def test_the_table_has_a_column_per_state_and_the_scores(tmp_path):
    lines = markdown(read_study(write_study(tmp_path))).splitlines()
    assert lines[0].count("|") == len(STATES) + 2
    rows = {line.split("|")[1].strip(): line.split("|")[2:-1] for line in lines if "|" in line}
    assert [cell.strip() for cell in rows["distance to the translation"]] == [
        "10.00", "5.0000", "4.0000", "3.0000", "3.5000"]  # fmt: skip
    assert [cell.strip() for cell in rows["udpos f1 de"]] == ["", "", "0.5000", "0.6000", "0.6200"]


def test_the_command_writes_table_and_picture(tmp_path, capsys):
    pytest.importorskip("matplotlib", reason="the picture needs the extra 'plots'")
    write_study(tmp_path)
    assert main(["report", f"--input={tmp_path}", "--aligned=de,ru"]) == 0
    assert "**confirmed**" in capsys.readouterr().out
    assert (tmp_path / "study.md").read_text().startswith("| |")
    assert len(json.loads((tmp_path / "study.json").read_text())["findings"]) == 9
    assert (tmp_path / "study.png").read_bytes()[:4] == b"\x89PNG"


def test_densities_of_sets_are_joined_with_equal_weight(tmp_path):
    found = read_histograms(write_study(tmp_path))
    edges = shared_edges(found, "relative", "edges")
    for name, (values, _) in CONFIRMING.items():
        density = joined(found[name], "relative", "related", edges)
        width = np.diff(edges)
        assert (density * width).sum() == pytest.approx(1.0)
        middle = (edges[1:] + edges[:-1]) / 2
        assert (density * width * middle).sum() == pytest.approx(values[0], abs=0.2)


def test_nothing_to_report_says_what_to_run(tmp_path):
    with pytest.raises(ConfigError, match="run launch/adjust_study.sh"):
        read_study(tmp_path)
    (tmp_path / "original").mkdir()
    (tmp_path / "original/distances.jsonl").write_text("{broken\n")
    with pytest.raises(BadData, match=r"distances.jsonl is broken"):
        read_study(tmp_path)


def test_what_was_measured_of_each_seed_is_averaged(tmp_path):
    values = {"seed0": (4.0, 8.0, 0.2, 0.1), "seed1": (6.0, 9.0, 0.3, 0.2)}
    for seed, (name, measured) in enumerate(values.items()):
        write_state(tmp_path / "finetuned" / name, measured, {"de": 0.1}, seed)
    write_lines(tmp_path / "finetuned/results.jsonl", [("udpos", "f1", "de", 0.5)], sd=0.01)
    state = read_study(tmp_path).states["finetuned"]
    assert state.value("distances/l2", "related") == 5.0
    assert state.scores["distances/l2", "related", "avg"][1] == pytest.approx(2**0.5)
    assert state.value("udpos", "f1", "de") == 0.5  # of the study, not of a seed's own file
    found = read_histograms(tmp_path)["finetuned"]
    assert len(found) == 4
    edges = shared_edges({"finetuned": found}, "relative", "edges")
    density, width = joined(found, "relative", "related", edges), np.diff(edges)
    assert (density * width * (edges[1:] + edges[:-1]) / 2).sum() == pytest.approx(5.0, abs=0.2)


def test_a_change_smaller_than_the_spread_between_seeds_is_said(tmp_path):
    tuned = {"en": 0.9, "de": 0.503, "ru": 0.402}
    write_study(tmp_path, {"adjusted_finetuned": (CONFIRMING["adjusted_finetuned"][0], tuned)})
    numbers = [
        f.numbers for f in read_study(tmp_path, ["de", "ru"]).findings if "zero" in f.statement
    ]
    assert len(numbers) == 1 and "which is more than the change" in numbers[0]
