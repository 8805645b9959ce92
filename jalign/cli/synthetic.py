"""Derive a synthetic language from real files, parallel to them line by line (ALIGN-MLM).

In: `--transformation`, stages joined by +, of trans (a script and ids of its own), inv (reversed
sentences), syn (the word order of another language), perm (random order); files by kind, once or
more: `--text=NAME=FILE` (tokenised lines, or .conllu), `--conllu`, `--ner`, `--nli`, `--qa`. Out:
`--output`/KIND/NAME.LANG.EXT and NAME.DERIVED.EXT; with trans also tokenizer/ (both languages),
base_tokenizer/ (the original alone, for other transformations: `--tokenizer`) and dictionary.npz.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from absl import flags

from jalign.cli._flags import parse
from jalign.cli._pairs import underscored
from jalign.errors import ConfigError

KINDS = ("text", "conllu", "ner", "nli", "qa")


def _parse(argv: Sequence[str]) -> flags.FlagValues:
    fv = flags.FlagValues()
    for name, default, said in (
        ("transformation", None, "such as trans+inv"),
        ("output", None, "folder to write"),
        ("lang", "en", "language of the files"),
        ("derived", "", "tag of the derived language (LANG-x-STAGES)"),
        ("tokenizer", None, "with trans: tokenizer of the original language"),
        ("source_trees", None, "with syn: treebank of the language of the files"),
        ("target_trees", None, "with syn: treebank of the language whose order is taken"),
    ):
        flags.DEFINE_string(name, default, said, flag_values=fv)
    for kind in KINDS:
        flags.DEFINE_multi_string(kind, [], "NAME=FILE; once per file", flag_values=fv)
    flags.DEFINE_integer(
        "vocab_size", 0, "with trans: train a tokenizer of so many pieces on --text", 0,
        flag_values=fv,
    )  # fmt: skip
    flags.DEFINE_float("rate", 0.5, "share of the ids in the dictionary", 0, 1, flag_values=fv)
    flags.DEFINE_float("overlap", 0.0, "share of ids not shifted", 0, 1, flag_values=fv)
    flags.DEFINE_integer("seed", 0, "of whatever is drawn", 0, flag_values=fv)
    flags.DEFINE_bool("raw", False, "text with marks attached to its words", flag_values=fv)
    parse(fv, "synthetic", [underscored(arg) for arg in argv])
    for name in ("transformation", "output"):
        if not fv[name].value:
            raise ConfigError(f"--{name} is missing: type --transformation=trans+inv --output=DIR")
    if not any(fv[kind].value for kind in KINDS):
        raise ConfigError("no files: type --text=NAME=FILE, or --conllu, --ner, --nli, --qa")
    stages = fv.transformation.split("+")
    if "syn" in stages and not (fv.source_trees and fv.target_trees):
        raise ConfigError("syn needs --source-trees=FILE and --target-trees=FILE (CoNLL-U)")
    if "trans" in stages and bool(fv.tokenizer) == bool(fv.vocab_size):
        raise ConfigError(
            "trans needs a tokenizer of the original language: type --tokenizer=DIR, or "
            "--vocab-size=N to train one on --text (not both)"
        )
    return fv


def main(argv: list[str]) -> int:
    """Run the command; return its exit code."""
    fv = _parse(argv)
    # Heavy imports wait until the arguments are known to be good.
    from jalign.data.languages import normalize_tag
    from jalign.data.synthetic.folder import WRITERS, Derivation

    stages = fv.transformation.split("+")
    src = normalize_tag(fv.lang)
    trg = normalize_tag(fv.derived or "-".join([src, "x", *stages]))
    if src == trg:
        raise ConfigError(f"--derived={trg} is --lang: name the derived language differently")
    files = {kind: [_named(spec, kind) for spec in fv[kind].value] for kind in KINDS}
    output = Path(fv.output).expanduser()
    transform = _transformation(fv, [stage for stage in stages if stage != "trans"])
    output.mkdir(parents=True, exist_ok=True)
    script = _write_vocabulary(fv, output, files, (src, trg)) if "trans" in stages else None
    how = Derivation(transform, script, fv.raw, "syn" in stages)
    report: dict[str, Any] = {"transformation": fv.transformation, "langs": [src, trg]}
    for kind, named in files.items():
        write, ending = WRITERS[kind]
        for name, path in named:
            folder = output / kind
            folder.mkdir(exist_ok=True)
            places = [folder / f"{name}.{lang}.{ending}" for lang in (src, trg)]
            num = write(path, *places, how)
            report.setdefault("files", {})[f"{kind}/{name}"] = num
            sys.stdout.write(f"{kind}/{name}: {num:,} in {places[0].name} and {places[1].name}\n")
    (output / "synthetic.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    return 0


def _named(spec: str, kind: str) -> tuple[str, Path]:
    name, equals, path = spec.partition("=")
    if not (name and equals and path) or "/" in name:
        raise ConfigError(f"--{kind}={spec}: need NAME=FILE")
    if not Path(path).expanduser().is_file():
        raise ConfigError(f"--{kind}={spec}: there is no file {path}")
    return name, Path(path).expanduser()


def _transformation(fv: flags.FlagValues, stages: list[str]) -> Any:
    """Make the transformation of the words."""
    from jalign.data.synthetic import Settings, Transformation, learn_order, make
    from jalign.data.synthetic.conllu import read_conllu

    if not stages:
        return Transformation()
    orders = {}
    if "syn" in stages:
        for side in ("source", "target"):
            orders[side] = learn_order(read_conllu(fv[f"{side}_trees"].value))
    return make("+".join(stages), Settings(seed=fv.seed, **orders))


def _write_vocabulary(
    fv: flags.FlagValues, output: Path, files: dict[str, list], langs: tuple[str, str]
) -> Any:
    """Write the tokenizers and the dictionary; return the script of the derived language."""
    from jalign.data.id_pairs import write_id_pairs
    from jalign.data.synthetic import script
    from jalign.data.tokenizer import copy_tokenizer, train_tokenizer

    base = output / "base_tokenizer"
    for old in (base, output / "tokenizer"):
        shutil.rmtree(old, ignore_errors=True)
    if fv.tokenizer:
        tokenizer = copy_tokenizer(fv.tokenizer, base)
    else:
        lines = (line for _, path in files["text"] for line in _lines(path))
        tokenizer = train_tokenizer(lines, base, fv.vocab_size, character_coverage=1.0)
    made = script.make_script(tokenizer, overlap=fv.overlap, seed=fv.seed)
    doubled = script.double_tokenizer(base, output / "tokenizer")
    pairs = script.dictionary_of(made, doubled, fv.rate, langs=langs, seed=fv.seed)
    write_id_pairs(output / "dictionary.npz", pairs)
    sys.stdout.write(
        f"tokenizer: {doubled.vocab_size:,} pieces of both languages; dictionary.npz: "
        f"{len(pairs):,} pairs, {pairs.train_N.sum():,} for training\n"
    )
    return made


def _lines(path: Path) -> Any:
    from jalign.data.synthetic.conllu import read_conllu
    from jalign.data.synthetic.corpus import read_texts
    from jalign.data.synthetic.folder import is_conllu

    if is_conllu(path):
        return (" ".join(tree.words) for tree in read_conllu(path))
    return read_texts(path)
