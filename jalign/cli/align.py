"""Align the words of sentence pairs: a line of links i-j for every pair, in order.

In: `--input`, tab-separated or `|||` lines in a file or on standard input, or two files, `--source`
and `--target` (.gz, .xz, .zst too). Out: `--output` or standard output, one line per pair, words
counted from 0: word i of the source stands for word j of the target. A word is what stands between
white space; text without spaces between words is to be segmented first, or linked character by
character (`--unit=char`). A pair without links, or a line that is no pair, has an empty line.
"""

from __future__ import annotations

import sys
import time
from collections import Counter, deque
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from absl import flags

from jalign.cli._flags import parse
from jalign.cli._output import check_output_file
from jalign.cli._pairs import FORMATS, Bitext, Scan, find_bitext, read_pairs, scan
from jalign.errors import BadData, ConfigError

SAY_EVERY_S = 5.0
MOST_SAID = 20  # lines reported one by one
# As in align/methods.py and inference/align_texts.py; here too so that --help needs no jax.
METHODS = (
    *("argmax", "itermax", "match", "softmax", "entmax", "ot", "forward", "reverse"),
    *("intersection", "union", "grow-diag", "grow-diag-final", "grow-diag-final-and"),
)
OPTIONS = ("method", "layer", "similarity", "layout", "level", "threshold")


def define_options(fv: flags.FlagValues) -> None:
    """Define the flags that `align` and `evaluate` share."""

    def choice(name: str, default: str | None, said: str, *values: str) -> None:
        flags.DEFINE_enum(name, default, values, said, flag_values=fv)

    def text(name: str, said: str) -> None:
        flags.DEFINE_string(name, None, said, flag_values=fv)

    text("model", "Hugging Face folder, imported model, or workdir of a run")
    text("step", "checkpoint of a workdir: a step, or best (the newest)")
    choice("similarity", None, "what is compared (the method's own)", "dot", "cosine", "simalign")
    choice("layout", None, "one sentence by itself, or both at once (the method's own)",
           "separate", "joint")  # fmt: skip
    choice("level", None, "link pieces and then their words, or means of pieces (piece)",
           "piece", "word")  # fmt: skip
    choice("dtype", "float32", "of the compute", "float32", "bfloat16")
    flags.DEFINE_float(
        "threshold", None, "of softmax (0.001) and entmax (0)", 0.0, 1.0, flag_values=fv
    )


def read_step(fv: flags.FlagValues) -> int | str | None:
    """Return --step. Raises: ConfigError."""
    if fv.step is not None and fv.step != "best" and not fv.step.isdigit():
        raise ConfigError(f"--step={fv.step}: need a number, or best")
    return int(fv.step) if fv.step and fv.step.isdigit() else fv.step


def _parse(argv: list[str]) -> flags.FlagValues:
    fv = flags.FlagValues()
    define_options(fv)

    def choice(name: str, said: str, *values: str) -> None:
        flags.DEFINE_enum(name, values[0], values, said, flag_values=fv)

    for name, said in (
        ("input", "file of pairs; - is standard input (the default)"),
        ("source", "file of source sentences, one per line"),
        ("target", "file of target sentences, one per line"),
        ("output", "file to write (standard output)"),
    ):
        flags.DEFINE_string(name, None, said, flag_values=fv)
    choice("format", "how --input separates the sides", *FORMATS)
    flags.DEFINE_enum("method", None, METHODS, "how links are found (itermax)", flag_values=fv)
    flags.DEFINE_integer(
        "layer", None, "-1 the last, 0 the embeddings, k after layer k (2/3 of them)", -1,
        flag_values=fv,
    )  # fmt: skip
    choice("on_overflow", "a pair too long for the encoder: windows, stop, no links", "window",
           "error", "skip")  # fmt: skip
    choice("on_error", "a line that is no pair: report it and leave its line empty, or stop",
           "report", "strict")  # fmt: skip
    choice("unit", "char: a character is a word in scripts without spaces", "word", "char")
    for name, said in (
        ("pretokenized", "the text is segmented: its tokens are the words"),
        ("scores", "how sure each link is, as i-j:0.87"),
        ("words", "words instead of numbers: house<sep>maison"),
    ):
        flags.DEFINE_bool(name, False, said, flag_values=fv)
    parse(fv, "align", argv)
    if not fv.model:
        raise ConfigError("--model is missing: type --model=DIR")
    if fv.pretokenized and fv.unit == "char":
        raise ConfigError("--pretokenized has its words already: leave out --unit=char")
    return fv


def _say(line: str) -> None:
    sys.stderr.write(f"align: {line}\n")
    sys.stderr.flush()


def main(argv: list[str]) -> int:
    """Run the command; return its exit code."""
    fv = _parse(argv)
    step, strict = read_step(fv), fv.on_error == "strict"
    bitext = find_bitext(fv.input, fv.source, fv.target, fv.format)
    output = check_output_file("output", fv.output, bitext.paths) if fv.output else None
    if bitext.paths == ("-",) and sys.stdin.isatty():
        _say("one pair per line, from the keyboard: source, tab, target; Ctrl-D ends")
    found = scan(bitext, strict)
    # Heavy imports wait until the arguments and the input are known to be good.
    from jalign.inference.align import Aligner, choose, read_stored
    from jalign.inference.model import load

    given = {name: fv[name].value for name in OPTIONS}
    stored = read_stored(Path(fv.model).expanduser())
    model = load(fv.model, dtype=fv.dtype, step=step)
    setting = choose(
        model.cfg.layers, stored, on_overflow=fv.on_overflow, scores=fv.scores, **given
    )
    rule = setting.rules[0]
    _say(
        f"{rule.method} of {rule.similarity} similarities between {rule.level}s, layer "
        f"{setting.layers[0]} of {model.cfg.layers}, {setting.layout} sentences"
        + (", as the model folder stores it" if stored and not any(given.values()) else "")
    )
    work = Input(bitext, strict, fv.unit, fv.words, notice=not fv.pretokenized)
    align_file(Aligner(model, setting), work, found, output)
    return 0


class Input:
    """The pairs of a bitext on their way to the aligner, and what is to be said about them."""

    def __init__(
        self, bitext: Bitext, strict: bool, unit: str, words: bool, *, notice: bool
    ) -> None:
        self.bitext, self.strict, self.unit, self.words = bitext, strict, unit, words
        self.notice = notice and unit == "word"
        self.flawed: deque[int] = deque()  # numbers of lines, not yet counted
        self.said: Counter = Counter()
        self.kept: deque[tuple[str, str]] = deque()

    @property
    def made_of(self) -> dict[str, Any]:
        """Return what decides the lines of the output, beside the aligner's setting."""
        return {"format": self.bitext.format, "unit": self.unit, "words": self.words}

    def pairs(self, first: int) -> Iterator[tuple[str, str]]:
        """Yield the pairs behind the first so many, as the aligner wants them."""
        from jalign.inference.align_texts import characters, looks_unspaced

        lines = islice(read_pairs(self.bitext, self.strict), first, None)
        for number, line in enumerate(lines, first + 1):
            if line.flaw:
                self.flawed.append(number)
                self.report("flaw", number, f"{line.flaw}; its line is left empty", line.file)
            pair = line.src, line.trg
            if self.notice and any(map(looks_unspaced, pair)):
                self.notice = False
                _say(
                    f"{self.bitext.place(number)}: a script without spaces between words, in one "
                    "piece, counts as one word; segment the text, or type --unit=char to link its "
                    "characters (--pretokenized: it is segmented)"
                )
            if self.unit == "char":
                pair = characters(pair[0]), characters(pair[1])
            if self.words:
                self.kept.append(pair)
            yield pair

    def num_flawed(self, last: int) -> int:
        """Count the flawed lines up to line `last` that were not counted before: lines are read
        ahead of their links.
        """
        num = 0
        while self.flawed and self.flawed[0] <= last:
            self.flawed.popleft()
            num += 1
        return num

    def report(self, kind: str, number: int, what: str, file: int = 0) -> None:
        """Say what happened to a line, unless enough of that kind were named."""
        self.said[kind] += 1
        if self.said[kind] <= MOST_SAID:
            _say(f"{self.bitext.place(number, file)}: {what}")
        elif self.said[kind] == MOST_SAID + 1:
            _say("and more of these: they are counted at the end")


def align_file(aligner: Any, work: Input, found: Scan | None, output: Path | None) -> None:
    """Write the links of every pair to `output`, or to standard output."""
    from jalign.inference.align import PairCounts
    from jalign.inference.align_output import LineFile, Stdout, format_lines
    from jalign.inference.align_texts import PairTooLong

    setting, made_of = aligner.setting, None
    if found is not None and output is not None:
        made_of = {"model": aligner.model.sha256, "input": found.sha256, "lines": found.lines}
        made_of |= work.made_of | {"setting": str(setting)}
    with LineFile(output, made_of) if output else Stdout() as file:
        first, before = file.num_lines, Counter(file.counts)
        if first:
            _say(f"going on after line {first:,} of {found.lines:,}")
        counts = PairCounts(on_batch=_Progress(first, found and found.lines))
        done, total, flaws = first, before, 0
        try:
            for window in aligner.stream(work.pairs(first), counts):
                links = window.one
                for index in window.long if setting.on_overflow == "skip" else ():
                    what = "longer than the encoder; its line is left empty (--on-overflow=window)"
                    work.report("long", done + int(index) + 1, what)
                pairs = [work.kept.popleft() for _ in range(links.num_pairs if work.words else 0)]
                text = format_lines(links, pairs if work.words else None)
                done += links.num_pairs
                flaws += work.num_flawed(done)
                total = before + _counted(counts, flaws)
                file.append(text, links.num_pairs, total)
        except PairTooLong as error:
            raise error.at(work.bitext.place(first + error.number)) from error
        if found is not None and done != found.lines:
            raise BadData(
                f"{work.bitext.paths[0]} had {found.lines:,} lines, and now {done:,}: it changed; "
                "type the same command again."
            )
        file.finish()
    _summary(counts, total, setting.on_overflow)


def _counted(counts: Any, flaws: int) -> Counter:
    """Count what the summary names; flawed lines are no pairs with an empty side."""
    empty = counts.empty - flaws
    return Counter({"flaws": flaws, "empty": empty, "long": counts.long, "links": counts.links})


def _summary(counts: Any, total: Counter, on_overflow: str) -> None:
    taken = counts.on_batch.taken
    fill = counts.tokens / max(counts.slots, 1)
    notes = [
        (total["flaws"], "lines that are no pairs"),
        (total["empty"], "pairs with an empty side"),
        (total["long"], "pairs longer than the encoder, "
         + ("in windows" if on_overflow == "window" else "left out")),
    ]  # fmt: skip
    said = "".join(f"; {what}: {number:,}" for number, what in notes if number)
    _say(
        f"{counts.pairs:,} pairs, {counts.links:,} links, {counts.tokens:,} tokens in {taken:.1f} "
        f"s: {_rates(counts, taken)}, {fill:.3f} of the slots used{said}"
    )


class _Progress:
    """Say every few seconds how far it is."""

    def __init__(self, before: int, total: int | None) -> None:
        self.before, self.total, self.done = before, total, 0
        self.start = self.said = time.monotonic()

    @property
    def taken(self) -> float:
        """Return the seconds since the start."""
        return time.monotonic() - self.start

    def __call__(self, counts: Any) -> None:
        now = time.monotonic()
        if now - self.said < SAY_EVERY_S:
            return
        self.said, done = now, self.before + counts.pairs
        if not counts.pairs:  # pairs count when their window is whole
            _say(f"{counts.tokens:,} tokens, {counts.tokens / self.taken:,.0f} tokens/s")
            return
        of = f" of {self.total:,}" if self.total is not None else ""
        line = f"{done:,}{of} pairs, {_rates(counts, self.taken)}"
        if self.total:
            left = int((self.total - done) * self.taken / counts.pairs)
            line += f", {left // 3600}:{left // 60 % 60:02}:{left % 60:02} left"
        _say(line)


def _rates(counts: Any, taken: float) -> str:
    return f"{counts.pairs / taken:,.1f} pairs/s, {counts.tokens / taken:,.0f} tokens/s"
