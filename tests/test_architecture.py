"""Hold the walls of the architecture: who imports whom, sizes, banned names; each check can fail.

Floors, imports go downwards only; within a floor, packages see each other
only where SIDEWAYS says so.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FLOORS = (
    {"cli", "__main__"},
    {"inference", "plan"},
    {"train", "evals", "report"},
    {"objectives", "hf"},
    {"encoders", "align"},
    {"nn", "data", "metrics"},
    {"types", "config", "schedule"},
    {"plugin", "errors"},
)
# data reads link files with the parser that the metrics have: one format, one place
SIDEWAYS = {("train", "evals"), ("cli", "__main__"), ("__main__", "cli"), ("data", "metrics")}
# package -> the only files that may import it; a trailing slash means the whole folder
ONLY_IN = {
    "orbax": ("jalign/train/checkpoint.py",),
    "transformers": ("jalign/hf/", "jalign/data/tokenizer.py"),
    "ml_collections": ("jalign/cli/", "configs/"),
    "apache_beam": ("jalign/data/prepare_beam.py",),
}
NO_JAX = ("jalign/data/", "jalign/metrics/", "jalign/errors.py", "jalign/plugin.py")
JAX = {"jax", "jaxlib", "flax", "optax", "orbax", "jalign.types"}
MAY_PRINT = ("jalign/cli/", "jalign/train/log.py")
BANNED_NAMES = {"utils", "util", "helpers", "helper", "misc", "common"}
MAX_LINES = 400


def python_files(*folders: str) -> list[Path]:
    """List the Python files below folders of the checkout."""
    found = (p for folder in folders for p in sorted((ROOT / folder).rglob("*.py")))
    return [p for p in found if "__pycache__" not in p.parts]


def imports(tree: ast.AST, package: str = "") -> Iterator[str]:
    """Yield the full name of every import, at any depth; `from a import b` counts as a.b."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1]
            base = ".".join([*above, node.module or ""]).strip(".") if node.level else node.module
            yield from (f"{base}.{alias.name}" for alias in node.names)


def is_below(name: str, top: str) -> bool:
    """Tell whether a dotted name is `top` or something in it."""
    return name == top or name.startswith(top + ".")


def floor(part: str) -> int:
    """Return the floor of a part of jalign, counted from the top; -1 for an unknown one."""
    return next((i for i, parts in enumerate(FLOORS) if part in parts), -1)


def import_faults(path: str, source: str) -> list[str]:
    """List what one file imports and may not."""
    package = path.removesuffix(".py").replace("/", ".").rpartition(".")[0]
    names = sorted(set(imports(ast.parse(source), package)))
    faults = [
        f"{path} imports {name}: only {', '.join(files)} may"
        for name in names
        for top, files in ONLY_IN.items()
        if is_below(name, top) and not path.startswith(files)
    ]
    if path.startswith(NO_JAX):
        faults += [
            f"{path} imports {n}: no jax there" for n in names if any(is_below(n, j) for j in JAX)
        ]
    if not path.startswith("jalign/") or path == "jalign/__init__.py":
        return faults
    here = path.split("/")[1].removesuffix(".py")
    for there, name in ((n.split(".")[1], n) for n in names if n.startswith("jalign.")):
        if floor(here) < 0 or floor(there) < 0:
            faults.append(f"{path} imports {name}: {here} or {there} has no floor in FLOORS")
        elif floor(there) < floor(here):
            faults.append(f"{path} imports {name}: upwards")
        elif there != here and floor(there) == floor(here) and (here, there) not in SIDEWAYS:
            faults.append(f"{path} imports {name}: sideways")
        elif here == "train" and is_below(name, "jalign.objectives"):
            faults.append(f"{path} imports {name}: train never names an objective")
    return faults


def word_faults(path: str, source: str) -> list[str]:
    """List uses of pmap anywhere, and of print where only the log may speak."""
    faults = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.Attribute):
            names = [node.attr]
        else:
            names = [node.id] if isinstance(node, ast.Name) else []
        line = getattr(node, "lineno", 0)
        faults += [f"{path}:{line} uses pmap, removed from jax" for n in names if n == "pmap"]
        if isinstance(node, ast.Name) and node.id == "print" and path.startswith("jalign/"):
            faults += [] if path.startswith(MAY_PRINT) else [f"{path}:{line} prints"]
    return faults


def name_faults(path: str) -> list[str]:
    """List the parts of a path that say nothing."""
    parts = path.removesuffix(".py").split("/")
    return [f"{path}: the name {p!r} says nothing" for p in parts if p in BANNED_NAMES]


def size_faults(path: str, source: str) -> list[str]:
    """List a file that outgrew MAX_LINES."""
    lines = source.count("\n")
    return [f"{path} has {lines} lines, over {MAX_LINES}: split it"] if lines > MAX_LINES else []


def address_faults(text: str) -> list[str]:
    """List the lines of a constraints file that are more than `name==version`."""
    return [line for line in text.splitlines() if any(w in line for w in ("/", "@", "--"))]


def all_faults(check, *folders: str) -> list[str]:
    """Run a check of (path, source) over folders of the checkout."""
    files = [
        (p.relative_to(ROOT).as_posix(), p.read_text(encoding="utf-8"))
        for p in python_files(*folders)
    ]
    return [fault for path, source in files for fault in check(path, source)]


def test_imports_go_downwards_and_engines_stay_behind_their_files():
    assert all_faults(import_faults, "jalign", "configs") == []


def test_nobody_uses_pmap_and_only_the_log_prints():
    assert all_faults(word_faults, "jalign", "configs", "benchmarks") == []


def test_no_file_outgrows_a_reader():
    assert all_faults(size_faults, "jalign", "configs", "benchmarks", "tests") == []


def test_every_module_name_says_what_is_inside():
    assert [
        f for p in python_files("jalign") for f in name_faults(p.relative_to(ROOT).as_posix())
    ] == []


def test_constraints_hold_no_addresses():
    assert address_faults((ROOT / "constraints.txt").read_text()) == []


@pytest.mark.parametrize(
    ("path", "source", "said"),
    [
        ("jalign/nn/a.py", "from jalign.encoders import bert", "upwards"),
        ("jalign/nn/a.py", "def f():\n    import jalign.train.step", "upwards"),
        ("jalign/nn/a.py", "from jalign import train", "upwards"),
        ("jalign/nn/a.py", "from ..train import step", "upwards"),
        ("jalign/nn/a.py", "from jalign.data import rows", "sideways"),
        ("jalign/cli/a.py", "import jalign.stuff.more", "no floor"),
        ("jalign/data/a.py", "import jax.numpy as jnp", "no jax"),
        ("jalign/data/corpora/a.py", "from jalign.types import Batch", "no jax"),
        ("jalign/metrics/a.py", "from flax import linen", "no jax"),
        (
            "jalign/train/step.py",
            "import orbax.checkpoint as ocp",
            "only jalign/train/checkpoint.py",
        ),
        ("jalign/evals/a.py", "from transformers import AutoModel", "only jalign/hf/"),
        ("jalign/train/loop.py", "from ml_collections import config_dict", "only jalign/cli/"),
        ("jalign/train/loop.py", "from jalign.objectives import mlm", "never names an objective"),
    ],
)
def test_a_forbidden_import_is_found(path, source, said):
    faults = import_faults(path, source)
    assert faults and said in faults[0]


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("jalign/train/checkpoint.py", "import orbax.checkpoint as ocp"),
        ("jalign/data/tokenizer.py", "import transformers"),
        ("jalign/cli/pretrain.py", "import ml_collections\nfrom jalign.train import loop"),
        ("jalign/objectives/tlm.py", "from . import mlm\nfrom jalign.nn import vocab_loss"),
        ("jalign/data/rows.py", "import jaxtyping_like\nfrom jalign.data import packing"),
    ],
)
def test_an_allowed_import_passes(path, source):
    assert import_faults(path, source) == []


def test_the_other_checks_can_fail():
    assert word_faults("jalign/nn/a.py", "import jax\ny = jax.pmap(f)")
    assert word_faults("jalign/nn/a.py", "from jax import pmap")
    assert word_faults("jalign/nn/a.py", "def f():\n    print('x')")
    assert not word_faults("jalign/cli/a.py", "print('x')")
    assert size_faults("jalign/a.py", "x = 1\n" * (MAX_LINES + 1))
    assert not size_faults("jalign/a.py", "x = 1\n" * MAX_LINES)
    assert name_faults("jalign/nn/utils.py") and name_faults("jalign/misc/a.py")
    assert address_faults("jax==0.10.2\n-e file:///somewhere\n")
