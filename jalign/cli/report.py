"""Report a study: one table, one picture, and which findings of the paper are confirmed.

In: `--study` and `--input`, the folder that launch/adjust_study.sh or launch/align_mlm_study.sh
fills. Out: the table on standard output, and study.md, study.json and study.png in that folder.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from absl import flags

from jalign.cli._flags import parse
from jalign.errors import ConfigError, UserError

STUDIES = ("adjustment", "align_mlm")


def main(argv: list[str]) -> int:
    """Run the command; return its exit code."""
    fv = flags.FlagValues()
    flags.DEFINE_enum("study", STUDIES[0], STUDIES, "what was studied", flag_values=fv)
    flags.DEFINE_string("input", None, "folder with a folder per state", flag_values=fv)
    flags.DEFINE_list(
        "aligned", [], "languages of the parallel text; the others are told apart", flag_values=fv
    )
    flags.DEFINE_enum(
        "kind", "relative", ("l2", "cosine", "relative"), "distance in the picture", flag_values=fv
    )
    parse(fv, "report", argv)
    if not fv.input:
        raise ConfigError("--input is missing: type --input=DIR")
    folder = Path(fv.input).expanduser()
    if fv.study == "align_mlm":
        return _align_mlm(folder)
    from jalign.report.adjustment import markdown, read_study, to_json
    from jalign.report.distance_plot import draw

    study = read_study(folder, fv.aligned)
    text = markdown(study)
    (folder / "study.md").write_text(text, encoding="utf-8")
    (folder / "study.json").write_text(json.dumps(to_json(study), indent=1), encoding="utf-8")
    sys.stdout.write(text)
    try:
        draw(study, folder, folder / "study.png", kind=fv.kind)
    except UserError as error:  # the table does not need the picture
        sys.stderr.write(f"report: {error}\n")
    return 0


def _align_mlm(folder: Path) -> int:
    from jalign.report.align_mlm import markdown, read_study, to_json
    from jalign.report.alignment_plot import draw

    study = read_study(folder)
    text = markdown(study)
    (folder / "study.md").write_text(text, encoding="utf-8")
    (folder / "study.json").write_text(json.dumps(to_json(study), indent=1), encoding="utf-8")
    sys.stdout.write(text)
    try:
        draw(study, folder / "study.png")
    except UserError as error:  # the table does not need the picture
        sys.stderr.write(f"report: {error}\n")
    return 0
