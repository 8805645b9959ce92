"""Train a lexicon for each pair of a prepared dataset: a word aligner, and a prior for XLM-Align.

In: `--data`, a folder of `jalign prepare`. Out: `--output`, one file per pair source, which
`config.streams.pair.lexicons` takes.
"""

from __future__ import annotations

import sys

from absl import flags

from jalign.cli._flags import parse
from jalign.cli._output import check_output_folder
from jalign.errors import ConfigError


def main(argv: list[str]) -> int:
    """Run the command; return its exit code."""
    fv = flags.FlagValues()
    flags.DEFINE_string("data", None, "prepared dataset", flag_values=fv)
    flags.DEFINE_string("output", None, "folder to write", flag_values=fv)
    parse(fv, "lexicon", argv)
    for name in ("data", "output"):
        if not fv[name].value:
            raise ConfigError(f"--{name} is missing: type --{name}=DIR")
    output = check_output_folder("output", fv.output, [fv.data])
    # Heavy imports wait until the arguments are known to be good.
    from jalign.data.lexicon import save_lexicon
    from jalign.data.lexicon_em import train_lexicon
    from jalign.data.records import open_source, read_manifest

    manifest = read_manifest(fv.data)
    sources = [s for s in manifest.sources if s.stream == "pair" and "train" in s.splits]
    if not sources:
        raise ConfigError(f"{fv.data} has no pairs to train a lexicon on")
    output.mkdir(parents=True, exist_ok=True)
    for info in sources:
        source = open_source(manifest, info.name, "pair", "train")
        lexicon = train_lexicon(
            [source.sides],
            vocab_size=manifest.vocab_size,
            tokenizer_sha256=manifest.tokenizer_sha256,
            details={"source": info.name, "manifest_sha256": manifest.sha256},
            log=lambda line, name=info.name: sys.stderr.write(f"{name}: {line}\n"),
        )
        save_lexicon(output / f"{info.name}.npz", lexicon)
        count = info.splits["train"].count
        sys.stdout.write(f"{info.name}: {len(lexicon.keys_K):,} entries from {count:,} pairs\n")
    return 0
