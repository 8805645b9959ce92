"""Turn a Hugging Face folder into a model folder to continue, after comparing it with PyTorch.

In: `--input`, a local folder (config.json, safetensors, tokenizer). Out: `--output`, with
model.json, tokenizer/ and checkpoints/0, which `jalign pretrain --config.init` and `jalign.load`
take.
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
    flags.DEFINE_string("input", None, "Hugging Face folder to read", flag_values=fv)
    flags.DEFINE_string("output", None, "model folder to write", flag_values=fv)
    flags.DEFINE_float(
        "tolerance", 1e-4, "largest difference, relative to the largest output", flag_values=fv
    )
    flags.DEFINE_bool(
        "unverified", False, "import though there is nothing to compare with", flag_values=fv
    )
    flags.DEFINE_bool(
        "overwrite", False, "replace what export or import wrote there", flag_values=fv
    )
    parse(fv, "import", argv)
    for name in ("input", "output"):
        if not fv[name].value:
            raise ConfigError(f"--{name} is missing: type --{name}=DIR")
    output = check_output_folder("output", fv.output, [fv.input], whole=True)
    # Heavy imports wait until the arguments are known to be good.
    from jalign.train.convert import import_folder

    import_folder(
        Path(fv.input).expanduser(),
        output,
        lambda line: sys.stderr.write(f"import: {line}\n"),
        tolerance=fv.tolerance,
        unverified=fv.unverified,
        overwrite=fv.overwrite,
    )
    sys.stdout.write(f"{fv.output}\n")
    return 0
