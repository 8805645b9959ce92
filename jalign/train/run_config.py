"""Hold a run's configuration as frozen dataclasses: what a config file says, checked on its own.

The command line has turned the config file into a `RunConfig`; `run.py` builds the run from it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from jalign.data.pipeline import StreamConfig
from jalign.train.mesh import MeshConfig
from jalign.train.optim import OptimConfig


@dataclass(frozen=True)
class EvalConfig:
    """Evaluate every `every` steps (0: never), at step 0 if `at_start`; `best` names the score that
    keeps the best.

    `patience`: stop after so many evaluations in a row without a new best (0: never). `tasks`: name
    -> the entries of an evaluation, and optionally `kind`, its file.
    """

    every: int = 0
    at_start: bool = False
    best: str = ""
    patience: int = 0
    tasks: Mapping[str, Mapping] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check the numbers. Raises: ValueError naming the entry."""
        if self.patience < 0:
            raise ValueError(f"evaluate.patience={self.patience}: need 0 (no early stop) or more")
        if self.patience and not (self.best and self.every and self.tasks):
            raise ValueError(
                f"evaluate.patience={self.patience} counts evaluations without a new best: set "
                "evaluate.best, evaluate.every and evaluate.tasks too"
            )


@dataclass(frozen=True)
class DivergenceConfig:
    """Stop where the mean loss of `window` steps exceeds the lowest such mean by `factor` (0:
    never).

    `rollbacks`: so many times in a run, rather than stop, go back to the checkpoint before those
    steps and leave out their batches; that of a loss or gradient that is not finite alone.
    """

    factor: float = 1.5
    window: int = 50
    rollbacks: int = 0


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """One run.

    `data`: a prepared dataset; "" where every stream has labelled files of its own and `init` gives
    the tokenizer. `steps`, or `epochs`: passes over the labelled stream (where none is labelled,
    over the stream that takes most steps). `init`: a Hugging Face folder, an imported model or a
    workdir whose encoder is continued; the encoder section then holds only what is the run's
    choice. `objectives`: name -> its entries, `weight` (a number or a schedule) and optionally
    `kind`, its file. `count_rows`: start the output bias at the log frequency of the words in so
    many rows of each stream (0: at zero), so that a short run need not learn frequencies first.
    `test`: evaluations as in `evaluate.tasks`, done once at the end, with the best checkpoint.
    `hang_s`: exit with code 42 when nothing has happened for so many seconds (0: never).
    """

    data: str = ""
    steps: int = 0
    epochs: float = 0.0
    encoder: Mapping[str, Any]
    streams: Mapping[str, StreamConfig]
    objectives: Mapping[str, Mapping]
    name: str = "run"
    seed: int = 0
    init: str = ""
    norm: str = "per_loss_mean"
    accumulate: int = 1
    log_every: int = 50
    checkpoint_every: int = 1000
    keep: int = 3
    count_rows: int = 0
    optimizer: OptimConfig = OptimConfig()
    mesh: MeshConfig = MeshConfig()
    evaluate: EvalConfig = EvalConfig()
    test: Mapping[str, Mapping] = field(default_factory=dict)
    divergence: DivergenceConfig = DivergenceConfig()
    hang_s: float = 1800.0

    def __post_init__(self) -> None:
        """Check the numbers. Raises: ValueError naming the entry."""
        if self.epochs < 0:
            raise ValueError(f"epochs={self.epochs}: need 0 (steps says how long) or more")
        needed = ("accumulate", "log_every", "checkpoint_every", "keep")
        for name in needed if self.epochs else ("steps", *needed):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}: need at least 1")
        if not self.objectives:
            raise ValueError("objectives is empty: name at least one, such as objectives.mlm")
        if self.init and self.count_rows:
            raise ValueError(
                f"count_rows={self.count_rows} would overwrite the output bias of "
                f"init={self.init!r}: set one of them only"
            )

    @property
    def labelled(self) -> tuple[str, ...]:
        """Return the names of the streams that have labelled files of their own."""
        return tuple(name for name, stream in self.streams.items() if stream.task.format)
