"""Report a study: one table, one picture, and which findings of the paper are confirmed.

In: `--study` and `--input`, the folder that launch/adjust_study.sh, align_mlm_study.sh or
contrast_study.sh fills. Out: the table on standard output, and study.md, study.json and, of the
first two, study.png in that folder.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from absl import flags

from jalign.cli._flags import parse
from jalign.errors import ConfigError, UserError

STUDIES = ("adjustment", "align_mlm", "contrast")


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
    return {"adjustment": _adjustment, "align_mlm": _align_mlm, "contrast": _contrast}[fv.study](fv)


def _adjustment(fv: flags.FlagValues) -> int:
    from jalign.report.adjustment import markdown, read_study, to_json
    from jalign.report.distance_plot import draw

    folder = Path(fv.input).expanduser()
    study = read_study(folder, fv.aligned)
    _write(folder, markdown(study), to_json(study))
    return _picture(lambda: draw(study, folder, folder / "study.png", kind=fv.kind))


def _align_mlm(fv: flags.FlagValues) -> int:
    from jalign.report.align_mlm import markdown, read_study, to_json
    from jalign.report.alignment_plot import draw

    folder = Path(fv.input).expanduser()
    study = read_study(folder)
    _write(folder, markdown(study), to_json(study))
    return _picture(lambda: draw(study, folder / "study.png"))


def _contrast(fv: flags.FlagValues) -> int:
    from jalign.report.contrast import markdown, read_study, to_json

    folder = Path(fv.input).expanduser()
    systems = read_study(folder)
    _write(folder, markdown(systems), to_json(systems))
    return 0


def _write(folder: Path, text: str, study: Any) -> None:
    (folder / "study.md").write_text(text, encoding="utf-8")
    (folder / "study.json").write_text(json.dumps(study, indent=1), encoding="utf-8")
    sys.stdout.write(text)


def _picture(draw: Callable[[], object]) -> int:
    try:
        draw()
    except UserError as error:  # the table does not need the picture
        sys.stderr.write(f"report: {error}\n")
    return 0
