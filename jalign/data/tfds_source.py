"""The TensorFlow-Datasets side of storage: one ArrayRecord dataset per source, no TensorFlow."""

from __future__ import annotations

import contextlib
import itertools
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from absl import logging as absl_logging
from tensorflow_datasets.core.example_serializer import ExampleSerializer

from jalign.data.columns import SIDES, Example, Text

VERSION = "1.0.0"
_EXAMPLES_PER_SHARD = 250_000
_EXAMPLES_PER_WRITE = 1_000  # the metadata is written again after each
_TERMINAL = threading.Lock()


class TextSource(tfds.core.GeneratorBasedBuilder):
    """One source of texts (`mono`) or of sentence pairs (`pair`), in the order given."""

    VERSION = tfds.core.Version(VERSION)

    def __init__(self, *, source: str, num_sides: int, splits: dict[str, Callable], **kwargs: Any):
        self.name = source
        self._num_sides = num_sides
        self._splits = splits
        super().__init__(file_format="array_record", **kwargs)

    def _info(self) -> tfds.core.DatasetInfo:
        features: dict[str, Any] = {"origin": tfds.features.Text()}
        for prefix in field_prefixes(self._num_sides):
            features[prefix + "text"] = tfds.features.Text()
            # Tensor, not Sequence(int32): 5x faster to read, and numpy instead of Python lists
            features[prefix + "ids"] = tfds.features.Tensor(shape=(None,), dtype=np.int32)
            features[prefix + "word"] = tfds.features.Tensor(shape=(None,), dtype=np.int32)
        return _Info(
            builder=self,
            description=f"jalign source {self.name}: texts, token ids and word indices.",
            features=tfds.features.FeaturesDict(features),
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator]:
        return {name: self._generate_examples(examples) for name, examples in self._splits.items()}

    def _generate_examples(self, examples: Callable[[], Iterator[Example]]) -> Iterator:
        for index, example in enumerate(examples()):
            yield index, to_record(example)


class _Info(tfds.core.DatasetInfo):
    def initialize_from_bucket(self) -> None:
        """Do nothing: a source is no dataset of the catalogue, and each look leaves a folder."""


class _SortedSerializer(ExampleSerializer):
    """Serialize the features of a record by name: left alone, their order changes with the process.

    It is that of a protocol buffer's map, which is hashed with a seed.
    """

    def serialize_example(self, example: dict[str, Any]) -> bytes:
        return self.get_tf_example(example).SerializeToString(deterministic=True)


def field_prefixes(num_sides: int) -> Sequence[str]:
    """Return the prefixes of the feature names: none for mono, `src_` and `trg_` for pairs."""
    return ("",) if num_sides == 1 else tuple(side + "_" for side in SIDES)


def to_record(example: Example) -> dict[str, Any]:
    """Turn an example into the dictionary of features that is stored."""
    record: dict[str, Any] = {"origin": example.origin}
    for prefix, side in zip(field_prefixes(len(example.sides)), example.sides, strict=True):
        record[prefix + "text"] = side.text
        record[prefix + "ids"] = np.asarray(side.ids, np.int32)
        record[prefix + "word"] = np.asarray(side.word, np.int32)
    return record


def from_record(record: dict[str, Any], num_sides: int) -> Example:
    """Turn a stored record back into an example: the exact inverse of `to_record`."""
    sides = tuple(
        Text(record[p + "text"].decode(), record[p + "ids"], record[p + "word"])
        for p in field_prefixes(num_sides)
    )
    return Example(sides, record["origin"].decode())


def write_source(
    folder: Path, source: str, *, num_sides: int, splits: dict[str, Callable[[], Iterator[Example]]]
) -> None:
    """Write a source's splits to `folder/<source>/1.0.0` as ArrayRecord, streaming.

    Through SequentialWriter: tfds' `download_and_prepare` holds a gigabyte of records in memory
    even where nothing is shuffled, and needs TensorFlow beyond that (tfds 4.9.10, core/shuffle.py).
    """
    builder = TextSource(source=source, num_sides=num_sides, splits=splits, data_dir=str(folder))
    Path(builder.data_dir).mkdir(parents=True)
    with _quiet():
        writer = tfds.core.SequentialWriter(
            builder.info, _EXAMPLES_PER_SHARD, file_format="array_record"
        )
        # no argument takes it; `test_records_are_serialized_in_one_order` notices a new name
        writer._serializer = _SortedSerializer(builder.info.features.get_serialized_info())
        writer.initialize_splits(list(splits))
        for split, examples in splits.items():
            records = map(to_record, examples())
            while batch := list(itertools.islice(records, _EXAMPLES_PER_WRITE)):
                writer.add_examples({split: batch})
        writer.close_all()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the bars and log lines of tfds off the terminal: prepare shows its own progress.

    One thread at a time: the second to leave would put back what the first had put there.
    """
    with _TERMINAL, contextlib.redirect_stdout(None):
        verbosity = absl_logging.get_verbosity()
        tfds.disable_progress_bar()
        absl_logging.set_verbosity(absl_logging.ERROR)
        try:
            yield
        finally:
            absl_logging.set_verbosity(verbosity)


def open_records(folder: Path, source: str, split: str) -> Sequence[dict[str, Any]]:
    """Open a split of `folder/<source>` for random access."""
    builder = tfds.builder_from_directory(str(folder / source / VERSION))
    return builder.as_data_source(split)
