"""Score translation retrieval: whose nearest neighbour is its own translation."""

from __future__ import annotations

import numpy as np


def retrieval_accuracy(src_ND: np.ndarray, trg_ND: np.ndarray) -> tuple[float, float]:
    """Return the accuracy of nearest-neighbour search by cosine, (src -> trg, trg -> src); row i
    belongs to row i.

    Raises: ValueError where the two sides differ in shape.
    Source: Artetxe & Schwenk 2019 (Tatoeba), without margin.
    """
    if src_ND.shape != trg_ND.shape or src_ND.ndim != 2:
        raise ValueError(
            f"need two [N, D] arrays of one shape; got {src_ND.shape} and {trg_ND.shape}"
        )
    sim_NN = _unit(src_ND) @ _unit(trg_ND).T
    right = np.arange(len(sim_NN))
    return float((sim_NN.argmax(1) == right).mean()), float((sim_NN.argmax(0) == right).mean())


def _unit(x_ND: np.ndarray) -> np.ndarray:
    return x_ND / np.maximum(np.linalg.norm(x_ND, axis=1, keepdims=True), 1e-12)
