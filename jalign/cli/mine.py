"""Mine translations from two monolingual files by margin; goes on after a kill.

In: `--src` and `--trg`, one sentence per line (.gz, .xz, .zst too), or `id<TAB>sentence` with
`--ids`. Out: `--output`, lines of score, source, target (or their ids), best first. Vectors and the
state of the search lie on disk in `OUTPUT.work/` until it is done, and stay with `--keep`: another
margin or threshold is then a matter of seconds.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from absl import flags

from jalign.cli._flags import parse
from jalign.cli._output import check_output_file, check_output_folder, is_same
from jalign.cli.align import read_step
from jalign.cli.embed import OVERFLOW, POOLING
from jalign.data.text_store import TextStore, store_texts
from jalign.errors import ConfigError, UserError
from jalign.metrics.retrieval import MARGINS, RETRIEVALS

SAY_EVERY_S = 5.0
FILES = ("src.txt", "trg.txt", *(f"{s}.{x}" for s in ("src", "trg") for x in ("npy", "json")))
FILES += tuple(f"{s}.npy.{x}" for s in ("src", "trg") for x in ("part", "part.json"))
FILES += ("search.npz", "new-search.npz")


def _parse(argv: list[str]) -> flags.FlagValues:
    fv = flags.FlagValues()
    for name, said in (
        ("model", "Hugging Face folder, imported model, or workdir of a run"),
        ("src", "file of sentences (.gz, .xz, .zst too)"),
        ("trg", "file of sentences in the other language"),
        ("output", "file of score, source, target to write"),
        ("step", "checkpoint of a workdir: a step, or best (the newest)"),
    ):
        flags.DEFINE_string(name, None, said, flag_values=fv)
    for name, said, values in (
        ("margin", "cosine over, or less, that of the neighbours; or the cosine itself", MARGINS),
        ("retrieval", "both directions compete, agree, or one of them alone", RETRIEVALS),
        ("pooling", "mean of all tokens, first one's state, BERT's pooler", POOLING),
        ("on_overflow", "a sentence too long for the encoder: windows, stop, cut", OVERFLOW),
        ("dtype", "of the compute", ("float32", "bfloat16")),
    ):
        flags.DEFINE_enum(name, values[0], values, said, flag_values=fv)
    flags.DEFINE_integer("layer", None, "-1 the last, 0 the embeddings, k after layer k (2/3 of "
                         "them)", -1, flag_values=fv)  # fmt: skip
    flags.DEFINE_integer("neighbours", 4, "of each sentence", 1, flag_values=fv)
    flags.DEFINE_float(
        "threshold", None, "lowest score, exclusive (0 with max, else none)", flag_values=fv
    )
    flags.DEFINE_bool("dedup", True, "take a repeated sentence once", flag_values=fv)
    flags.DEFINE_bool("ids", False, "lines are id, tab, sentence; write ids", flag_values=fv)
    flags.DEFINE_bool("keep", False, "keep vectors and search for another run", flag_values=fv)
    parse(fv, "mine", argv)
    for name, what in (("model", "DIR"), ("src", "FILE"), ("trg", "FILE"), ("output", "FILE.tsv")):
        if not fv[name].value:
            raise ConfigError(f"--{name} is missing: type --{name}={what}")
    return fv


def _places(fv: flags.FlagValues) -> tuple[Path, Path]:
    """Return the file to write and the folder of the work. Raises: ConfigError."""
    inputs = [fv.src, fv.trg]
    output = check_output_file("output", fv.output, inputs)
    folder = check_output_folder("output", f"{output}.work")
    for path in inputs:
        if is_same(Path(path).expanduser().parent, folder):
            raise ConfigError(f"--output={fv.output}: {path} lies in {folder}; type another name")
    return output, folder


def _say(line: str) -> None:
    sys.stderr.write(f"mine: {line}\n")
    sys.stderr.flush()


class _Progress:
    """Say every few seconds how far each part is."""

    def __init__(self) -> None:
        self.said = time.monotonic()

    def __call__(self, part: str, share: float) -> None:
        if time.monotonic() - self.said >= SAY_EVERY_S:
            self.said = time.monotonic()
            _say(f"{part}: {100 * share:.1f} %")


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(
            f"cannot write {folder}: {error.strerror}; mend that and type the same command again."
        ) from error


def main(argv: list[str]) -> int:
    """Run the command; return its exit code."""
    fv, start = _parse(argv), time.monotonic()
    step = read_step(fv)
    output, folder = _places(fv)
    stores = _store(fv, folder)
    for store in stores:
        for reason, num in store.counts.items():
            _say(f"{store.source}: {num:,} x {reason}")
    # Heavy imports wait until the arguments and the input are known to be good.
    from jalign.inference.align import default_layer
    from jalign.inference.mine import Mining, mine_texts
    from jalign.inference.model import load

    model = load(fv.model, dtype=fv.dtype, step=step)
    names = ("pooling", "on_overflow", "neighbours", "margin", "retrieval", "threshold")
    layer = default_layer(model.cfg.layers) if fv.layer is None else fv.layer
    cfg = Mining(layer=layer, **{name: fv[name].value for name in names})
    mined = mine_texts(model, stores, folder, cfg, _Progress(), _say)
    with _writing(output):
        _write(output, mined, stores)
        if not fv.keep:
            _clear(folder, FILES)
    sys.stdout.write(
        f"{output}: {len(mined.score):,} pairs of {len(stores[0]):,} and {len(stores[1]):,} "
        f"sentences in {time.monotonic() - start:.1f} s\n"
    )
    return 0


def _store(fv: flags.FlagValues, folder: Path) -> tuple[TextStore, TextStore]:
    """Read both files before any work. Raises: UserError, and leaves nothing behind."""
    try:
        with _writing(folder):
            folder.mkdir(exist_ok=True)
            src, trg = (
                store_texts(
                    Path(fv[side].value).expanduser(),
                    folder / f"{side}.txt",
                    named=fv.ids,
                    distinct=fv.dedup,
                )
                for side in ("src", "trg")
            )
    except UserError:
        if folder.is_dir():
            _clear(folder, FILES[:2])
        raise
    return src, trg


def _clear(folder: Path, names: tuple[str, ...]) -> None:
    """Delete our files, and the folder if nothing else is in it."""
    for name in names:
        (folder / name).unlink(missing_ok=True)
    if not any(folder.iterdir()):
        folder.rmdir()


def _write(output: Path, mined: Any, stores: tuple[TextStore, TextStore]) -> None:
    """Write a line per pair: score, source, target; the file appears when it is whole."""
    part = output.with_name(output.name + ".part")
    src, trg = (store.names(rows) for store, rows in zip(stores, mined[1:], strict=True))
    with part.open("w", encoding="utf-8", newline="\n") as file:
        for score, one, other in zip(mined.score.tolist(), src, trg, strict=True):
            file.write(f"{score:.6f}\t{one}\t{other}\n")
    part.replace(output)
