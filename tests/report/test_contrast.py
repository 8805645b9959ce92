"""The report of the contrast study: means over languages, and what it says of AMBER's losses."""

from __future__ import annotations

import json

import pytest

from jalign.cli.main import main
from jalign.errors import BadData, ConfigError
from jalign.report.contrast import markdown, read_study


def write(path, *results, **more):
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [dict(zip(("task", "lang", "metric", "value"), r, strict=True)) | more for r in results]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def write_system(folder, mean, trained, tagged, aer):
    for name, value in (("retrieval", mean), ("retrieval_trained", trained)):
        rows = [("retrieval/cosine", lang, "accuracy", v) for lang, v in value.items()]
        rows.append(("retrieval/csls", "de-en", "accuracy", 0.99))
        rows.append(("retrieval/cosine", "avg", "accuracy", 0.5))
        write(folder / f"{name}.jsonl", *rows)
    rows = [("udpos", lang, "f1", v) for lang, v in tagged.items()]
    write(folder / "pos" / "results.jsonl", *rows, ("udpos", "avg", "f1", 0.9), test="tagging")
    rows = [("itermax@1", "en-fr", "aer", aer), ("itermax@1", "avg", "aer", 0.9)]
    write(folder / "alignment.jsonl", *rows)


@pytest.fixture
def study(tmp_path):
    tagged = {"en": 0.9, "de": 0.4, "ru": 0.2}
    write_system(tmp_path / "base", {"de-en": 0.1, "ru-en": 0.2}, {"de-en": 0.05}, tagged, 0.6)
    write_system(tmp_path / "sa", {"de-en": 0.1}, {"de-en": 0.3, "ru-en": 0.4}, tagged, 0.6)
    write_system(tmp_path / "wa", {"de-en": 0.1}, {"de-en": 0.1}, tagged | {"ru": 0.4}, 0.65)
    peer = ("retrieval/cosine", "de-en", "accuracy", 0.9)
    write(tmp_path / "peer" / "retrieval_trained.jsonl", peer)
    return tmp_path


def test_means_leave_out_english_other_scorings_and_the_average_itself(study):
    base = read_study(study)[0]
    assert base.name == "base"
    assert base.means == pytest.approx(
        {"retrieval": 15.0, "retrieval_trained": 5.0, "source": 90.0, "zero": 30.0, "aer": 60.0}
    )


def test_systems_stand_in_the_order_of_the_study_and_a_reference_last(study):
    assert [s.name for s in read_study(study)] == ["base", "wa", "sa", "peer"]
    row = next(line for line in markdown(read_study(study)).splitlines() if "peer" in line)
    assert row == "| peer |  | 90.0 |  |  |  |"


def test_held_out_pairs_count_as_they_were_found_last_and_other_tagged_files_as_treebanks(study):
    for name, value in (("base", 0.2), ("sa", 0.5)):
        first, last = (("retrieval", "en-de", "accuracy", v) for v in (0.9, value))
        write(
            study / name / "run" / "results.jsonl",
            first,
            last,
            ("retrieval", "avg", "accuracy", 1.0),
        )
    rows = [("udpos", "de", "f1", 0.4), ("columns", "sw", "f1", 0.2)]
    write(study / "base" / "pos" / "results.jsonl", *rows, test="tagging")
    base = read_study(study)[0].means
    assert base["retrieval_heldout"] == pytest.approx(20) and base["zero"] == pytest.approx(30)
    assert "retrieval of held-out pairs by at least 15 points: yes, +30.0" in markdown(
        read_study(study)
    )


def test_sentences_are_compared_with_the_better_vector_of_the_base(study):
    assert "at least 15 points: yes, +20.0" in markdown(read_study(study))
    write(study / "base" / "retrieval.jsonl", ("retrieval/cosine", "de-en", "accuracy", 0.21))
    assert "at least 15 points: no, +14.0" in markdown(read_study(study))


def test_a_lower_error_rate_is_the_better_one(study):
    text = markdown(read_study(study))
    assert "lifts zero-shot tagging: yes, POS F1 zero-shot +10.0" in text
    assert "lifts word alignment: no, AER +5.0" in text


def test_the_command_writes_the_table(study, capsys):
    assert main(["report", "--study=contrast", f"--input={study}"]) == 0
    assert capsys.readouterr().out == (study / "study.md").read_text()
    assert len(json.loads((study / "study.json").read_text())) == 4


def test_a_folder_without_results_and_a_broken_file_say_what_to_do(study, tmp_path):
    with pytest.raises(ConfigError, match="contrast_study.sh"):
        read_study(tmp_path / "base" / "pos")
    (study / "sa" / "alignment.jsonl").write_text("{")
    with pytest.raises(BadData, match="make it again"):
        read_study(study)
