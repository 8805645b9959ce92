"""The stages of `jalign prepare` as jobs of Apache Beam: reading and encoding spread over workers.

Beam carries file names, 16-byte digests and counts; records stay in files that all workers see
(`prepare_chunks`). One job reads, checks and finds repeats; one chooses texts for the tokenizer,
which this process then trains; one encodes every chunk and writes every source.
"""

from __future__ import annotations

import contextlib
import io
import pickle
import shlex
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.options.pipeline_options_validator import PipelineOptionsValidator
from apache_beam.runners.runner import PipelineState, create_runner

from jalign import plugin
from jalign.data import prepare_chunks as chunks
from jalign.data import prepare_steps as steps
from jalign.data import records
from jalign.data.corpora import Part
from jalign.data.prepare_chunks import Chunk, Job
from jalign.data.prepare_steps import Options, Progress, Report
from jalign.data.tokenizer import Tokenizer, load_tokenizer
from jalign.errors import ConfigError

# FnApiRunner is what DirectRunner falls back to; DirectRunner itself would first download another
# one, Prism, if the pipeline suits it (Beam 2.77, direct_runner.py).
RUNNERS = {
    "direct": "FnApiRunner",
    "portable": "PortableRunner",
    "flink": "FlinkRunner",
    "spark": "SparkRunner",
    "dataflow": "DataflowRunner",
}
_ASKS_SERVER = ("portable", "flink", "spark")  # a job server has options of its own
ROWS_PER_CHUNK = 1 << 16
ChunkId = tuple[int, int, int]


class _Read(beam.DoFn):
    def __init__(self, job: Job):
        self._job = job

    def process(self, unit: tuple[int, int, bytes]) -> Iterator[Any]:
        source, number, part = unit
        read = chunks.read_part(self._job, source, number, pickle.loads(part))
        for chunk, length, blocks in read:
            yield tuple(chunk), length
            for bucket, keys in blocks:
                yield beam.pvalue.TaggedOutput("keys", ((source, bucket), keys))


class _FindRepeats(beam.DoFn):
    def __init__(self, job: Job):
        self._job = job

    def process(self, keys: tuple[tuple[int, int], Iterable[bytes]]) -> Iterator[Any]:
        (source, _), blocks = keys
        for chunk, repeats in chunks.find_repeats_of_bucket(self._job, source, blocks):
            yield tuple(chunk), repeats


class _Settle(beam.DoFn):
    def __init__(self, job: Job):
        self._job = job

    def process(self, joined: tuple[ChunkId, dict[str, Iterable[Any]]]) -> None:
        chunk, found = joined
        for length in found["lengths"]:
            chunks.settle(self._job, Chunk(*chunk), length, found["repeats"])


class _Sample(beam.DoFn):
    def __init__(self, job: Job, rates: dict[str, float]):
        self._job = job
        self._rates = rates

    def process(self, chunk: ChunkId) -> None:
        chunks.sample(self._job, Chunk(*chunk), self._rates)


class _Encode(beam.DoFn):
    def __init__(self, job: Job, tokenizer: Path):
        self._job = job
        self._folder = tokenizer

    def setup(self) -> None:
        self._tokenizer = load_tokenizer(self._folder)

    def process(self, chunk: ChunkId) -> Iterator[Any]:
        yield chunk[0], chunks.encode(self._job, Chunk(*chunk), self._tokenizer)


class _Write(beam.DoFn):
    def __init__(self, job: Job, vocab_size: int):
        self._job = job
        self._vocab_size = vocab_size

    def process(self, joined: tuple[int, dict[str, Iterable[Any]]]) -> None:
        source, found = joined
        chunks.write_source(self._job, source, found["counts"], self._vocab_size)


class BeamStages:
    """Validate, choose the tokenizer's texts, encode and write, each as a job of a runner.

    Raises: ConfigError for a runner, option or path that cannot do.
    """

    def __init__(
        self,
        options: Options,
        sources: dict[tuple[str, str], list[Part]],
        progress: Progress,
        *,
        runner: str,
        beam_options: str,
    ):
        self._runner = runner
        self._beam_text = beam_options
        self._beam_options = make_pipeline_options(runner, beam_options)
        self._parts = sorted(sources.items())
        self._options = options
        self._progress = progress
        if runner != "direct":
            check_absolute(self._parts, runner)

    def validate(self, scratch: Path) -> list[Report]:
        """Read and check all sources; records and reports are left in `scratch`.

        Raises: UserError or BadData, the one that a single process would have met first.
        """
        about = [
            chunks.Source(stream, name, parts[0].langs, len(parts))
            for (stream, name), parts in self._parts
        ]
        self._job = Job(self._options, scratch.absolute(), tuple(about), ROWS_PER_CHUNK)
        units = [
            (source, number, pickle.dumps(part))
            for source, (_, parts) in enumerate(self._parts)
            for number, part in enumerate(parts)
        ]
        self._run(f"reading {len(units):,} files", lambda p: self._build_reading(p, units))
        self._reports, self._chars = chunks.gather(self._job)
        return self._reports

    def _build_reading(self, pipeline: beam.Pipeline, units: list[tuple[int, int, bytes]]) -> None:
        read = (
            pipeline
            | "Parts" >> beam.Create(units)
            | "SpreadParts" >> beam.Reshuffle()
            | "Read" >> beam.ParDo(_Read(self._job)).with_outputs("keys", main="lengths")
        )
        repeats = (
            read.keys
            | "ByBucket" >> beam.GroupByKey()
            | "FindRepeats" >> beam.ParDo(_FindRepeats(self._job))
        )
        joined = {"lengths": read.lengths, "repeats": repeats} | beam.CoGroupByKey()
        _ = joined | "Settle" >> beam.ParDo(_Settle(self._job))

    def sample(self) -> Iterator[str]:
        """Yield the train texts for the tokenizer, in the order of a single process."""
        options = self._options
        rates = steps.sampling_rates(self._chars, options.tokenizer_chars, options.tokenizer_alpha)

        def build(pipeline: beam.Pipeline) -> None:
            _ = self._spread_chunks(pipeline) | "Sample" >> beam.ParDo(_Sample(self._job, rates))

        self._run("choosing texts for the tokenizer", build)
        return chunks.read_sample(self._job)

    def write(self, writer: records.DatasetWriter, tokenizer: Tokenizer) -> Counter:
        """Encode every chunk and write every source; return the number of ids by language."""
        folder, size = (writer.partial / "tokenizer").absolute(), tokenizer.vocab_size

        def build(pipeline: beam.Pipeline) -> None:
            counts = self._spread_chunks(pipeline) | "Encode" >> beam.ParDo(
                _Encode(self._job, folder)
            )
            # all sources: one without a valid record still has its quarantine to write
            every = [(source, 0) for source in range(len(self._job.sources))]
            sources = pipeline | "Sources" >> beam.Create(every)
            joined = {"sources": sources, "counts": counts} | beam.CoGroupByKey()
            _ = joined | "Write" >> beam.ParDo(_Write(self._job, size))

        self._run(f"encoding and writing {len(self._job.sources):,} sources", build)
        tokens, unk = chunks.collect(self._job, writer, self._reports)
        tokenizer.counts.update(unk)
        return tokens

    def _spread_chunks(self, pipeline: beam.Pipeline) -> beam.PCollection:
        ids = [tuple(c) for i in range(len(self._job.sources)) for c in self._job.chunks(i)]
        return pipeline | "Chunks" >> beam.Create(ids) | "SpreadChunks" >> beam.Reshuffle()

    def _run(self, what: str, build: Callable[[beam.Pipeline], None]) -> None:
        self._progress(f"{what} (runner {self._runner})")
        pipeline = beam.Pipeline(RUNNERS[self._runner], options=self._beam_options)
        build(pipeline)
        result = self._submit(pipeline)
        try:
            state = result.wait_until_finish()
        except BaseException:
            with contextlib.suppress(Exception):
                result.cancel()
            raise
        if state != PipelineState.DONE:
            raise RuntimeError(f"{what}: the job on {self._runner} ended as {state}; see its log")

    def _submit(self, pipeline: beam.Pipeline) -> Any:
        """Hand a job over; that no server takes it is the user's to mend, not a crash."""
        if self._runner == "direct":  # runs it here and now
            return pipeline.run()
        try:
            return pipeline.run()
        except Exception as error:  # of gRPC, of Java that is not there, of Google's libraries
            why = f"no job server took the job ({type(error).__name__}: {error})"
            raise _refused(self._runner, self._beam_text, why) from error


def make_pipeline_options(runner: str, text: str) -> PipelineOptions:
    """Read `--beam_options` as Beam's pipeline options.

    Raises: ConfigError for a runner that cannot be had, and for options it refuses.
    """
    if runner not in RUNNERS:
        hint = plugin.did_you_mean(runner, list(RUNNERS))
        raise ConfigError(f"no --runner={runner}.{hint} There are: {', '.join(RUNNERS)}.")
    said = io.StringIO()
    try:
        given = shlex.split(text)
        with contextlib.redirect_stderr(said):
            options = PipelineOptions(given)
            asked = options.get_all_options(retain_unknown_options=True)
            known = PipelineOptions([]).get_all_options()
            faults = PipelineOptionsValidator(options, create_runner(RUNNERS[runner])).validate()
    except SystemExit as error:  # of argparse, which has written why
        last = said.getvalue().strip().rpartition("error: ")[2]
        raise _refused(runner, text, last) from error
    except (ValueError, ImportError) as error:
        raise _refused(runner, text, str(error)) from error
    faults += [f"{word!r} is no option." for word in given if not word.startswith("--")]
    unknown = sorted(asked.keys() - known.keys())
    if unknown and runner not in _ASKS_SERVER:
        hint = plugin.did_you_mean(unknown[0], list(known))
        faults.append(f"Beam has no option {unknown[0]!r}.{hint}")
    if asked["runner"]:
        faults.append("the runner is a flag of its own")
    if faults:
        raise _refused(runner, text, " ".join(faults))
    return options


def _refused(runner: str, text: str, why: str) -> ConfigError:
    return ConfigError(
        f"--runner={runner} --beam_options={text!r}: {why.strip()}; type --runner=NAME "
        "--beam_options='--option=value ...', with options of Beam and of that runner."
    )


def check_absolute(sources: list[tuple[Any, list[Part]]], runner: str) -> None:
    """Check that workers on other machines find the files where they are said to be.

    Raises: ConfigError for a relative path.
    """
    for _, parts in sources:
        for file in (file for part in parts for file in part.files):
            if not Path(file).is_absolute():
                raise ConfigError(
                    f"--runner={runner}: workers have other current folders, and {file} is a "
                    "relative path; type absolute paths in --corpus."
                )
