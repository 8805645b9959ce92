"""Compile a run's train step for TPUs or GPUs that are not here: memory, work, bounds on time.

In: a config and a topology such as v5e:16x16, v5p:4x4x4, v6e:8x8 or h100:8x2 (GPUs of a node x
nodes). Neither the data nor the weights nor the devices are needed. Out: a table, or with --json
the same as JSON. Exit code 0 where the step fits, 2 where it does not.
"""

from __future__ import annotations

import json
import os
import sys

from absl import flags

from jalign.cli._flags import parse, read_config
from jalign.errors import ConfigError

DOES_NOT_FIT = 2


def main(argv: list[str]) -> int:
    """Run the command; return its exit code."""
    fv = flags.FlagValues()
    flags.DEFINE_string(
        "topology", None, "v5e:16x16, v5p:4x4x4, v6e:8x8, h100:8x2 (GPUs x nodes), h200:8x2",
        flag_values=fv,
    )  # fmt: skip
    flags.DEFINE_integer("slices", 1, "slices of TPUs, joined by config.mesh.dcn", flag_values=fv)
    flags.DEFINE_string(
        "shape", "", "plan with this published shape in place of config.init's: xlmr-base, "
        "xlmr-large, mbert-base, mmbert-base, modernbert-large", flag_values=fv,
    )  # fmt: skip
    flags.DEFINE_integer(
        "search", 6, "compile so many more batches and layouts to find what fits (0: none)", 0,
        flag_values=fv,
    )  # fmt: skip
    flags.DEFINE_bool("json", False, "write JSON", flag_values=fv)
    parse(fv, "plan", argv, config=True)
    if not fv.topology:
        raise ConfigError("--topology is missing: type --topology=v5e:16x16, or h100:8x2")
    set_environment(fv.topology)
    # JAX only now: it reads the environment when it is imported.
    import jax

    from jalign.plan.report import to_json, to_text
    from jalign.plan.search import search
    from jalign.plan.topology import open_topology
    from jalign.train.run_config import RunConfig

    cfg = read_config(fv, RunConfig)
    jax.config.update("jax_enable_compilation_cache", False)  # of what could not be loaded here
    topology = open_topology(fv.topology, fv.slices)

    def say(line: str) -> None:
        sys.stderr.write(f"plan: {line}\n")

    found = search(cfg, topology, fv.shape, budget=fv.search, say=say)
    if fv.json:
        sys.stdout.write(json.dumps(to_json(found, topology), indent=1) + "\n")
    else:
        sys.stdout.write(to_text(found, topology))
    return 0 if found.asked.fits else DOES_NOT_FIT


def set_environment(topology: str) -> None:
    """Keep this machine's own devices out of it, and tell the compilers what they ask for."""
    os.environ["JAX_PLATFORMS"] = "cpu"
    # libtpu takes a lock, as if it used a TPU, and logs what it misses of one.
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "true")
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
    if topology.startswith("h"):
        from jalign.plan.gpu import set_flags

        set_flags()
