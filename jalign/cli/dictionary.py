"""Turn bilingual dictionaries into ids of a tokenizer, and say how much of them it can use.

In: `--input` (MUSE columns, TSV, FreeDict TEI, dictd), `--langs=SRC,TRG`, and `--data`, a folder of
`jalign prepare` whose texts tell whether the dictionary is of these languages, or `--tokenizer`.
Out: `--output`, which `align_mlm` and `dict_mlm` take; the coverage on standard output.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from absl import flags

from jalign.cli._flags import parse
from jalign.cli._output import check_output_file
from jalign.errors import ConfigError

SAMPLE = 20_000  # records of each source whose words a dictionary is compared with


def _parse(argv: Sequence[str]) -> flags.FlagValues:
    fv = flags.FlagValues()
    for name, said in (
        ("input", "dictionary, plain or packed"),
        ("output", "file to write (.npz)"),
        ("data", "prepared dataset"),
        ("tokenizer", "Hugging Face tokenizer folder, in place of --data"),
    ):
        flags.DEFINE_string(name, None, said, flag_values=fv)
    flags.DEFINE_list("langs", [], "source and target language", flag_values=fv)
    flags.DEFINE_enum("case", "keep", ("keep", "lower", "fold"), "of words", flag_values=fv)
    flags.DEFINE_bool("swap", False, "the file has the target first", flag_values=fv)
    flags.DEFINE_bool("identical", True, "keep entries of equal sides", flag_values=fv)
    flags.DEFINE_bool("try_title", False, "take Haus for haus where that is one piece",
                      flag_values=fv)  # fmt: skip
    flags.DEFINE_integer("max_pieces", 1, "of a word; more than 1: mean of their embeddings", 1,
                         flag_values=fv)  # fmt: skip
    flags.DEFINE_integer("max_pairs", 1_000_000, "different pairs kept", 1, flag_values=fv)
    flags.DEFINE_float("rate", 1.0, "share of the source words to train on", 0, 1, flag_values=fv)
    flags.DEFINE_integer("seed", 0, "of that share", 0, flag_values=fv)
    parse(fv, "dictionary", argv)
    for name in ("input", "output"):
        if not fv[name].value:
            raise ConfigError(f"--{name} is missing: type --{name}=FILE")
    if len(fv.langs) != 2 or fv.langs[0] == fv.langs[1]:
        raise ConfigError(f"--langs={','.join(fv.langs)}: need two languages, such as en,de")
    if bool(fv.data) == bool(fv.tokenizer):
        raise ConfigError("type --data=DIR or --tokenizer=DIR, one of them")
    return fv


def main(argv: list[str]) -> int:
    """Run the command; return its exit code."""
    fv = _parse(argv)
    output = check_output_file("output", fv.output, [fv.input])
    # Heavy imports wait until the arguments are known to be good.
    from jalign.data.dictionary import ReadOptions, read_dictionary
    from jalign.data.id_pairs import IdPairs, write_id_pairs
    from jalign.data.records import read_manifest
    from jalign.data.tokenizer import load_tokenizer

    langs = tuple(fv.langs)
    if fv.data:
        words = _corpus_words(read_manifest(fv.data), langs)
    options = ReadOptions(
        case=fv.case, swap=fv.swap, identical=fv.identical, max_pairs=fv.max_pairs
    )
    dictionary = read_dictionary(fv.input, options)
    _say(dictionary.report())
    if fv.data:
        _say(dictionary.fit(*words).warnings)
    tokenizer = load_tokenizer(Path(fv.data) / "tokenizer" if fv.data else fv.tokenizer)
    found = dictionary.piece_sequences(tokenizer, max_pieces=fv.max_pieces, try_title=fv.try_title)
    pairs = IdPairs(
        found.src_NP, found.trg_NP, found.weights_N, found.weights_N > -1, langs, tokenizer.sha256,
        {"input": Path(fv.input).name, "rate": fv.rate, "seed": fv.seed, "counts": found.counts},
    )  # fmt: skip
    if fv.rate < 1:
        pairs = pairs.split(fv.rate, seed=fv.seed)
    if not pairs.train_N.any():
        raise ConfigError(f"--rate={fv.rate}: no pair is left for training; type more")
    write_id_pairs(output, pairs)
    _say(_coverage(found, pairs))
    return 0


def _corpus_words(manifest: Any, langs: tuple[str, ...]) -> tuple[set[str], set[str]]:
    """Return words of the texts of both languages, from the first SAMPLE records of each source.

    Raises: ConfigError where the dataset lacks a language.
    """
    from jalign.data.records import read_texts

    words: dict[str, set[str]] = {lang: set() for lang in langs}
    for source in manifest.sources:
        if not set(langs) & set(source.langs) or "train" not in source.splits:
            continue
        num = min(SAMPLE, source.splits["train"].count)
        for texts in read_texts(manifest, source.name, source.stream, "train", range(num)):
            for lang, text in zip(source.langs, texts, strict=True):
                if lang in words:
                    words[lang].update(text.split())
    lacking = [lang for lang in langs if not words[lang]]
    if lacking:
        raise ConfigError(
            f"--langs: {manifest.folder} has no text in {', '.join(lacking)}; it has "
            f"{', '.join(manifest.languages)}"
        )
    return words[langs[0]], words[langs[1]]


def _coverage(found: Any, pairs: Any) -> list[str]:
    """Say what became of the entries in this vocabulary."""
    shares = [f"{num:,} {reason}" for reason, num in found.counts.items() if reason != "entries"]
    src, trg = (len({tuple(x) for x in side.tolist()}) for side in (pairs.src_NP, pairs.trg_NP))
    return [
        f"{found.counts['entries']:,} pairs in this vocabulary: {', '.join(shares)}",
        f"written: {len(pairs):,} pairs of {src:,} source and {trg:,} target words, "
        f"{int(pairs.train_N.sum()):,} for training",
    ]


def _say(lines: Sequence[str]) -> None:
    sys.stdout.write("".join(f"{line}\n" for line in lines))
