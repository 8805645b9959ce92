"""Link the words of every pair of a prepared dataset, with any model or with its lexicons.

In: `--data`, and either `--model`, aligned as `jalign align` does, or `--lexicons`, a folder of
`jalign lexicon`: the links that are best in both directions. Out: `--output`, a file SOURCE.links
per source of pairs, a line of links i-j per training pair, which `config.streams.pair.links` takes.
A file that is there is not made again: remove it to have it anew.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from absl import flags

from jalign.cli._flags import parse
from jalign.cli._output import check_output_folder
from jalign.cli.align import METHODS, OPTIONS, define_options, read_step
from jalign.errors import ConfigError

CHUNK = 2048  # pairs whose lexicon links are found at once


def _parse(argv: list[str]) -> flags.FlagValues:
    fv = flags.FlagValues()
    define_options(fv)
    for name, said in (
        ("data", "prepared dataset"),
        ("lexicons", "folder of jalign lexicon, in place of --model"),
        ("output", "folder to write"),
    ):
        flags.DEFINE_string(name, None, said, flag_values=fv)
    flags.DEFINE_enum("method", None, METHODS, "how a model's links are found", flag_values=fv)
    flags.DEFINE_integer(
        "layer", None, "-1 the last, 0 the embeddings, k after layer k (2/3 of them)", -1,
        flag_values=fv,
    )  # fmt: skip
    parse(fv, "links", argv)
    for name in ("data", "output"):
        if not fv[name].value:
            raise ConfigError(f"--{name} is missing: type --{name}=DIR")
    if (fv.model is None) == (fv.lexicons is None):
        raise ConfigError("type either --model=DIR or --lexicons=DIR")
    given = [name for name in OPTIONS if fv[name].value is not None]
    if fv.lexicons and given:
        raise ConfigError(f"--{given[0]} is for --model: lexicons have no such choice")
    return fv


def main(argv: list[str]) -> int:
    """Run the command; return its exit code."""
    fv = _parse(argv)
    step = read_step(fv)
    output = check_output_folder("output", fv.output, [fv.data])
    # Heavy imports wait until the arguments are known to be good.
    from jalign.data.records import read_manifest

    manifest = read_manifest(fv.data)
    sources = [s for s in manifest.sources if s.stream == "pair" and "train" in s.splits]
    if not sources:
        raise ConfigError(f"{fv.data} has no pairs to link")
    names = [info.name for info in sources]
    lines_of = _lexicon_lines(fv, manifest, names) if fv.lexicons else _model_lines(fv, step)
    output.mkdir(parents=True, exist_ok=True)
    for name in names:
        path = output / f"{name}.links"
        if path.exists():
            sys.stderr.write(f"links: {path} is there\n")
            continue
        partial, num_links, num_pairs = path.with_suffix(".partial"), 0, 0
        with partial.open("w", encoding="ascii") as file:
            for line in lines_of(manifest, name):
                file.write(line + "\n")
                num_links, num_pairs = num_links + line.count("-"), num_pairs + 1
        partial.replace(path)
        sys.stdout.write(f"{name}: {num_links:,} links in {num_pairs:,} pairs\n")
    return 0


def _model_lines(fv: flags.FlagValues, step: int | str | None) -> Any:
    """Return the function from a source to the lines of its pairs, by a model."""
    from jalign.data.records import read_examples
    from jalign.inference.align import Aligner, choose, read_stored
    from jalign.inference.align_output import format_lines
    from jalign.inference.model import load

    stored = read_stored(Path(fv.model).expanduser())
    model = load(fv.model, dtype=fv.dtype, step=step)
    given = {name: fv[name].value for name in OPTIONS}
    aligner = Aligner(model, choose(model.cfg.layers, stored, **given))

    def lines(manifest: Any, name: str) -> Iterator[str]:
        examples = read_examples(manifest, name, "pair", "train")
        pairs = (tuple(side.text for side in example.sides) for example in examples)
        for window in aligner.stream(pairs):
            yield from format_lines(window.one, None).split("\n")[:-1]

    return lines


def _lexicon_lines(fv: flags.FlagValues, manifest: Any, names: list[str]) -> Any:
    """Return the function from a source to the lines of its pairs, by lexicons."""
    from jalign.data.lexicon_cells import Pairs
    from jalign.data.links import open_lexicons
    from jalign.data.records import open_source

    lexicons = open_lexicons(Path(fv.lexicons).expanduser(), names, manifest.tokenizer_sha256)

    def lines(manifest: Any, name: str) -> Iterator[str]:
        sides = open_source(manifest, name, "pair", "train").sides
        num = len(sides[0].offsets) - 1
        for first in range(0, num, CHUNK):
            some = range(first, min(first + CHUNK, num))
            pieces = [[_cut(side, i) for i in some] for side in sides]
            pairs = Pairs.of(*([ids for ids, _ in one] for one in pieces))
            for k, directions in enumerate(lexicons[name].align(pairs)):
                words = [one[k][1] for one in pieces]
                both = [
                    {(int(words[0][i]), int(words[1][j])) for i, j in links} for links in directions
                ]
                yield " ".join(f"{i}-{j}" for i, j in sorted(both[0] & both[1]))

    return lines


def _cut(side: Any, index: int) -> tuple[Any, Any]:
    at = slice(int(side.offsets[index]), int(side.offsets[index + 1]))
    return side.ids[at], side.word[at]
