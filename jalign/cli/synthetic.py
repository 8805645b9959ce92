"""Derive a synthetic language from real files, parallel to them line by line (ALIGN-MLM).

In: `--transformation`, stages joined by +, of trans (a script and ids of its own), inv (reversed
sentences), syn (the word order of another language), perm (random order); files by kind, once or
more: `--text=NAME=FILE` (tokenised lines, or .conllu), `--conllu`, `--ner`, `--nli`, `--qa`. Out:
`--output`/KIND/NAME.LANG.EXT and NAME.DERIVED.EXT; with trans also tokenizer/ (both languages),
base_tokenizer/ (the original alone, for other transformations: `--tokenizer`) and dictionary.npz.
"""

from __future__ import annotations

import itertools
import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from absl import flags

from jalign.cli._flags import parse
from jalign.cli._output import check_output_folder, is_same
from jalign.errors import ConfigError

KINDS = ("text", "conllu", "ner", "nli", "qa")
TOKENIZERS = ("base_tokenizer", "tokenizer")
Files = dict[str, list[tuple[str, Path]]]  # by kind: names and paths


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
    parse(fv, "synthetic", argv)
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
    from jalign.data.languages import normalize_tag

    src = normalize_tag(fv.lang)
    trg = normalize_tag(fv.derived or "-".join([src, "x", *fv.transformation.split("+")]))
    if src == trg:
        raise ConfigError(f"--derived={trg} is --lang: name the derived language differently")
    files = {kind: [_named(spec, kind) for spec in fv[kind].value] for kind in KINDS}
    output = _check_output(fv, files, (src, trg))
    # Heavy imports wait until the arguments are known to be good.
    transform = _transformation(fv)
    output.mkdir(parents=True, exist_ok=True)
    partial = output / ".partial"
    shutil.rmtree(partial, ignore_errors=True)  # left by a command that was killed
    partial.mkdir()
    try:
        _derive(fv, transform, files, (src, trg), partial)
        _move(partial, output)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return 0


def _check_output(fv: flags.FlagValues, files: Files, langs: tuple[str, str]) -> Path:
    """Check that nothing is replaced that is read."""
    from jalign.data.synthetic.folder import WRITERS

    output = check_output_folder("output", fv.output)
    if fv.tokenizer:
        tokenizer = Path(fv.tokenizer).expanduser().resolve()
        for place in ((output / name).resolve() for name in TOKENIZERS):
            if place in (tokenizer, *tokenizer.parents):
                raise ConfigError(
                    f"--tokenizer={fv.tokenizer} would be replaced; type another --output, or copy "
                    "the tokenizer"
                )
    read = [path for named in files.values() for _, path in named]
    read += [fv[name].value for name in ("source_trees", "target_trees") if fv[name].value]
    for kind, named in ((kind, named) for kind, named in files.items() if named):
        check_output_folder("output", str(output / kind))
        for (name, _), lang in itertools.product(named, langs):
            place = output / kind / f"{name}.{lang}.{WRITERS[kind][1]}"
            if place.is_dir() or any(is_same(path, place) for path in read):
                raise ConfigError(f"{place} would be replaced; type another --output")
    return output


def _derive(
    fv: flags.FlagValues, transform: Any, files: Files, langs: tuple[str, str], folder: Path
) -> None:
    """Write all files into a folder."""
    from jalign.data.synthetic.folder import WRITERS, Derivation

    stages = fv.transformation.split("+")
    script = _write_vocabulary(fv, folder, files, langs) if "trans" in stages else None
    how = Derivation(transform, script, fv.raw, "syn" in stages)
    report: dict[str, Any] = {"transformation": fv.transformation, "langs": list(langs)}
    for kind, named in files.items():
        write, ending = WRITERS[kind]
        for name, path in named:
            (folder / kind).mkdir(exist_ok=True)
            places = [folder / kind / f"{name}.{lang}.{ending}" for lang in langs]
            num = write(path, *places, how)
            report.setdefault("files", {})[f"{kind}/{name}"] = num
            sys.stdout.write(f"{kind}/{name}: {num:,} in {places[0].name} and {places[1].name}\n")
    (folder / "synthetic.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


def _move(partial: Path, output: Path) -> None:
    """Put what is whole into its place; a tokenizer goes as one, files go one by one."""
    for path in list(partial.iterdir()):
        place = output / path.name
        if path.name in KINDS:
            place.mkdir(exist_ok=True)
            for file in list(path.iterdir()):
                file.replace(place / file.name)
            continue
        if path.is_dir():
            shutil.rmtree(place, ignore_errors=True)
        path.replace(place)


def _named(spec: str, kind: str) -> tuple[str, Path]:
    name, equals, path = spec.partition("=")
    if not (name and equals and path) or "/" in name:
        raise ConfigError(f"--{kind}={spec}: need NAME=FILE")
    if not Path(path).expanduser().is_file():
        raise ConfigError(f"--{kind}={spec}: there is no file {path}")
    return name, Path(path).expanduser()


def _transformation(fv: flags.FlagValues) -> Any:
    """Make the transformation of the words."""
    from jalign.data.synthetic import Settings, Transformation, learn_order, make
    from jalign.data.synthetic.conllu import read_conllu

    stages = [stage for stage in fv.transformation.split("+") if stage != "trans"]
    if not stages:
        return Transformation()
    orders = {}
    if "syn" in stages:
        for side in ("source", "target"):
            orders[side] = learn_order(read_conllu(fv[f"{side}_trees"].value))
    return make("+".join(stages), Settings(seed=fv.seed, **orders))


def _write_vocabulary(
    fv: flags.FlagValues, folder: Path, files: Files, langs: tuple[str, str]
) -> Any:
    """Write the tokenizers and the dictionary; return the script of the derived language."""
    from jalign.data.id_pairs import write_id_pairs
    from jalign.data.synthetic import script
    from jalign.data.tokenizer import copy_tokenizer, train_tokenizer

    base, both = (folder / name for name in TOKENIZERS)
    if fv.tokenizer:
        tokenizer = copy_tokenizer(fv.tokenizer, base)
    else:
        lines = (line for _, path in files["text"] for line in _lines(path))
        tokenizer = train_tokenizer(lines, base, fv.vocab_size, character_coverage=1.0)
    made = script.make_script(tokenizer, overlap=fv.overlap, seed=fv.seed)
    doubled = script.double_tokenizer(base, both)
    pairs = script.dictionary_of(made, doubled, fv.rate, langs=langs, seed=fv.seed)
    write_id_pairs(folder / "dictionary.npz", pairs)
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
