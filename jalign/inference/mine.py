"""Mine translations from two sets of texts: vectors, nearest neighbours both ways, margins.

In: an open Model and two TextStores. Out: pairs of rows with scores, best first. A folder holds the
vectors and how far the search is, each bound to what it was made of, so that a run that was killed
goes on, and a second run with another margin or threshold takes seconds.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zipfile import BadZipFile

import numpy as np

from jalign.align.search import Search
from jalign.data.text_store import TextStore
from jalign.errors import UserError
from jalign.inference.texts import TextTooLong
from jalign.inference.vectors import VectorFile
from jalign.metrics.retrieval import Mined, Neighbours, pair_up

if TYPE_CHECKING:
    from jalign.inference.model import Model

SIDES = ("src", "trg")
SAVE_EVERY_S = 60.0
Say = Callable[[str, float], None]  # what is done, and which share of it


@dataclass(frozen=True)
class Mining:
    """How to mine: how texts become vectors (`Model.embed`), and vectors pairs (`pair_up`)."""

    pooling: str = "mean"
    layer: int = -1
    on_overflow: str = "window"
    neighbours: int = 4
    margin: str = "ratio"
    retrieval: str = "max"
    threshold: float | None = None

    @property
    def embedding(self) -> dict[str, Any]:
        """Return the options that make the vectors."""
        return {name: getattr(self, name) for name in ("pooling", "layer", "on_overflow")}


def mine_texts(
    model: Model,
    stores: tuple[TextStore, TextStore],
    folder: Path,
    cfg: Mining,
    say: Say,
    tell: Callable[[str], None],
) -> Mined:
    """Mine the pairs of two stores; `tell` hears what was cut. Raises: TextTooLong, and where."""
    sha256, vectors, made_of = model.sha256, [], {}
    for side, store in zip(SIDES, stores, strict=True):
        made_of[side] = {"model": sha256, "texts": store.sha256, **cfg.embedding}
        job = Embedding(model, store, folder / f"{side}.npy", made_of[side])
        num_long = job.run(cfg, lambda share, side=side: say(side, share))
        if num_long and cfg.on_overflow == "truncate":
            tell(f"{store.source}: {model.cut_message(num_long, len(store))}")
        vectors.append(np.load(job.path, mmap_mode="r"))
    search = Search(
        *vectors, cfg.neighbours, cosine=False, on_block=lambda share: say("search", share)
    )
    found = run_search(search, folder / "search.npz", made_of)
    return pair_up(*found, margin=cfg.margin, retrieval=cfg.retrieval, threshold=cfg.threshold)


@dataclass(frozen=True)
class Embedding:
    """The vectors of a store in the making; `made_of` says what decides them."""

    model: Model
    store: TextStore
    path: Path
    made_of: Mapping[str, Any]

    def run(self, cfg: Mining, say: Callable[[float], None]) -> int:
        """Write the vectors, of length 1, unless they are there; return how many texts were longer
        than the encoder.
        """
        note = self.path.with_suffix(".json")
        said = _read_note(note)
        if self.path.exists() and said.get("made_of") == self.made_of:
            return said["long"]
        from jalign.inference.model import Counts

        with VectorFile(self.path, self.model.cfg.hidden, self.made_of) as file:
            before, long_before = file.num_rows, file.counts.get("long", 0)
            counts = Counts(on_batch=lambda c: say((before + c.texts) / len(self.store)))
            options = dict(normalize=True, counts=counts, **cfg.embedding)
            try:
                for v_ND in self.model.embed_stream(self.store.texts(before), **options):
                    file.append(v_ND, {"long": long_before + counts.long})
            except TextTooLong as error:
                raise error.at(self.store.place(before + error.number - 1)) from error
            note.unlink(missing_ok=True)
            file.finish()
        num_long = long_before + counts.long
        note.write_text(json.dumps({"made_of": self.made_of, "long": num_long}), encoding="utf-8")
        return num_long


def run_search(
    search: Search, path: Path, made_of: Mapping[str, Any], *, save_every_s: float = SAVE_EVERY_S
) -> tuple[Neighbours, Neighbours]:
    """Finish a search; how far it is stands in `path`, bound to what its vectors are made of."""
    key = hashlib.sha256(json.dumps(made_of, sort_keys=True).encode()).hexdigest()
    if (state := _read_state(path)) is not None and str(state["made_of"]) == key:
        search.restore(state)
    saved = time.monotonic()
    while not search.done:
        search.advance()
        if search.done or time.monotonic() - saved >= save_every_s:
            _write_state(path, search.state() | {"made_of": np.array(key)})
            saved = time.monotonic()
    return search.result()


def _read_note(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}


def _read_state(path: Path) -> dict[str, np.ndarray] | None:
    try:
        with np.load(path) as state:
            return dict(state)
    except (OSError, ValueError, EOFError, BadZipFile):  # none, or of a machine that lost power
        return None


def _write_state(path: Path, state: Mapping[str, np.ndarray]) -> None:
    new = path.with_name("new-" + path.name)
    try:
        np.savez(new, **state)
        new.replace(path)
    except OSError as error:
        raise UserError(
            f"cannot write {path}: {error.strerror}; mend that and type the same command again."
        ) from error
