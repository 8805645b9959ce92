"""Write a checkpoint as a Hugging Face folder, proving that PyTorch gets the same logits.

In: `--input`, a workdir of `jalign pretrain` or an imported model. Out: `--output`, with
config.json, safetensors, tokenizer files and a model card.
"""

from __future__ import annotations

import sys
from pathlib import Path

from absl import flags

from jalign.cli._flags import parse
from jalign.cli._output import check_output_folder
from jalign.errors import ConfigError


def main(argv: list[str]) -> int:
    """Run the command; return its exit code."""
    fv = flags.FlagValues()
    flags.DEFINE_string("input", None, "workdir or model folder to read", flag_values=fv)
    flags.DEFINE_string("output", None, "Hugging Face folder to write", flag_values=fv)
    flags.DEFINE_string("step", None, "checkpoint: a step, or best (the newest)", flag_values=fv)
    flags.DEFINE_string(
        "head", None, "head of a fine-tuned model to write with it, none for the encoder alone "
        "(the only one there is)", flag_values=fv,
    )  # fmt: skip
    flags.DEFINE_enum(
        "dtype",
        "float32",
        ["float32", "bfloat16", "float16"],
        "how to store the parameters",
        flag_values=fv,
    )
    flags.DEFINE_string("name", "", "model's name in its card (that of --output)", flag_values=fv)
    flags.DEFINE_string(
        "license", "other", "licence in the model card, such as apache-2.0", flag_values=fv
    )
    flags.DEFINE_float(
        "tolerance", 1e-4, "largest difference, relative to the largest output", flag_values=fv
    )
    flags.DEFINE_integer(
        "max_shard_mb", 5120, "size at which to go on in another file", 1, flag_values=fv
    )
    flags.DEFINE_bool(
        "overwrite", False, "replace what export or import wrote there", flag_values=fv
    )
    parse(fv, "export", argv)
    for name in ("input", "output"):
        if not fv[name].value:
            raise ConfigError(f"--{name} is missing: type --{name}=DIR")
    if fv.step is not None and fv.step != "best" and not fv.step.isdigit():
        raise ConfigError(f"--step={fv.step}: need a number, or best")
    output = check_output_folder("output", fv.output, [fv.input], whole=True)
    # Heavy imports wait until the arguments are known to be good.
    from jalign.train.convert import export_folder

    export_folder(
        Path(fv.input).expanduser(),
        output,
        lambda line: sys.stderr.write(f"export: {line}\n"),
        step=int(fv.step) if fv.step and fv.step.isdigit() else fv.step,
        dtype=fv.dtype,
        license_id=fv.license,
        name=fv.name,
        tolerance=fv.tolerance,
        max_shard_bytes=fv.max_shard_mb << 20,
        overwrite=fv.overwrite,
        head="" if fv.head == "none" else fv.head,
    )
    sys.stdout.write(f"{fv.output}\n")
    return 0
