"""Pre-train multilingual text encoders with explicit cross-lingual alignment, in JAX and Flax."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jalign.inference.model import Model

__all__ = ["load"]


def load(
    path: Path | str, *, dtype: str = "float32", step: int | str | None = None, **kw: Any
) -> Model:
    """Open a Hugging Face folder, an imported model or a workdir; see `jalign.inference.model`."""
    from jalign.inference.model import load as load_model  # jax is imported only here

    return load_model(path, dtype=dtype, step=step, **kw)
