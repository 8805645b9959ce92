"""Refuse models that cannot be what they say, before anything of their size is allocated.

In: a parsed config.json, or the shapes that it foretells and a folder's tensors. Out: nothing, or
an error that names the entries and says what to do.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from jalign.errors import BadData, ConfigError
from jalign.hf.json_files import AGAIN, quote, read_json
from jalign.hf.tensors import FLOATS, Tensors
from jalign.plugin import did_you_mean

TOKENIZER_CONFIG_BYTES = 8_000_000
MAX_TEXT_BYTES = 200_000_000  # the largest tokenizer.json in use have 35 MB
_READ_WHOLE = (".json", ".txt", ".model", ".jinja")
MAX_SHOWN = 10
# Far above any encoder there is, and far below what would exhaust a machine by a typing error.
LARGEST = {
    "vocab_size": 10_000_000,
    "hidden_size": 65_536,
    "num_hidden_layers": 1_000,
    "num_attention_heads": 65_536,
    "intermediate_size": 1_000_000,
    "max_position_embeddings": 10_000_000,
    "type_vocab_size": 65_536,
    "local_attention": 10_000_000,
    "global_attn_every_n_layers": 1_000,
}
_EPS = ("layer_norm_eps", "norm_eps", "rms_norm_eps")
_RATES = (
    "hidden_dropout_prob",
    "attention_probs_dropout_prob",
    "attention_dropout",
    "embedding_dropout",
    "mlp_dropout",
    "classifier_dropout",
)
_THETAS = ("rope_theta", "global_rope_theta", "local_rope_theta")
_SWITCHES = (
    "tie_word_embeddings",
    "is_decoder",
    "add_cross_attention",
    "attention_bias",
    "mlp_bias",
    "norm_bias",
    "decoder_bias",
    "classifier_bias",
)
_TABLE = re.compile(r"(word|tok)_embeddings\.weight$")


def check_config(hf: Mapping[str, Any], folder: Path | str, known: Collection[str]) -> None:
    """Check what any config.json must fulfil; `known` are the model types that we serve.

    Absent entries are left to the family, which knows their defaults. Checks the folder's tokenizer
    files too, for remote code, pipes and absurd sizes: they are read by other libraries.
    Raises: ConfigError naming the entry, what it is and what it must be; BadData for such files.
    """
    where = f"{folder}/config.json"
    _refuse_code(hf, where)
    _check_model_type(hf, where, known)
    quantized = hf.get("quantization_config")
    if quantized is not None:
        method = quantized.get("quant_method") if isinstance(quantized, Mapping) else quantized
        raise ConfigError(
            f"{where} has quantization_config ({quote(method)}): its weights are not numbers but "
            "codes; take the original model, or dequantise it (in PyTorch: model.dequantize()) and "
            "save it."
        )
    for name, largest in LARGEST.items():
        if name in hf and not (_is_int(hf[name]) and 1 <= hf[name] <= largest):
            raise _fault(where, name, hf[name], f"a whole number from 1 to {largest:,}")
    _check_numbers(hf, where)
    hidden, heads = hf.get("hidden_size"), hf.get("num_attention_heads")
    if hidden is not None and heads is not None and hidden % heads:
        raise _fault(where, "num_attention_heads", heads, f"a divisor of hidden_size={hidden}")
    _check_files(Path(folder))
    tokenizer_config = Path(folder) / "tokenizer_config.json"
    if tokenizer_config.exists():
        tokenizer = read_json(tokenizer_config, max_bytes=TOKENIZER_CONFIG_BYTES)
        _refuse_code(tokenizer, str(tokenizer_config))


def _check_files(folder: Path) -> None:
    """Refuse files that a library would wait for, or read into memory without end."""
    for path in sorted(folder.iterdir()) if folder.is_dir() else []:
        if not path.exists() or path.is_dir():
            continue
        if not path.is_file():
            raise BadData(f"{path} is a pipe or a device: remove it, no model needs one.")
        size = path.stat().st_size
        if path.suffix in _READ_WHOLE and size > MAX_TEXT_BYTES:
            raise BadData(
                f"{path} has {size:,} bytes; {MAX_TEXT_BYTES:,} are plenty for such a file: "
                f"{AGAIN}."
            )


def _refuse_code(entries: Mapping[str, Any], where: str) -> None:
    """Refuse what makes transformers import Python files of the folder, or ask whether to."""
    for name in ("auto_map", "trust_remote_code", "custom_pipelines"):
        if entries.get(name):
            raise ConfigError(
                f"{where} has {name}={quote(entries[name])}, which calls for code that came with "
                "the model; jalign never runs code from a model folder. If the model is in truth "
                "one of the architectures that jalign has, remove the entry; otherwise take "
                "another model."
            )


def _check_model_type(hf: Mapping[str, Any], where: str, known: Collection[str]) -> None:
    there = ", ".join(sorted(known))
    if "model_type" not in hf:
        hint = did_you_mean("model_type", [str(name) for name in hf])
        raise ConfigError(
            f"{where} has no model_type.{hint} Add it if the model is one of: {there}."
        )
    model_type = hf["model_type"]
    if not isinstance(model_type, str) or model_type not in known:
        hint = did_you_mean(str(model_type), sorted(known))
        raise ConfigError(
            f"{where} has model_type={quote(model_type)}.{hint} jalign reads: {there}; convert the "
            "model to one of these, or take another one."
        )


def _check_numbers(hf: Mapping[str, Any], where: str) -> None:
    for name in _EPS:
        if name in hf and not (_is_number(hf[name]) and 0 < hf[name] < 1):
            raise _fault(where, name, hf[name], "a number between 0 and 1, such as 1e-05")
    for name in _RATES:
        if hf.get(name) is not None and not (_is_number(hf[name]) and 0 <= hf[name] < 1):
            raise _fault(where, name, hf[name], "a number from 0 to below 1")
    for name, value in _thetas(hf, where):
        if value is not None and not (_is_number(value) and 0 < value <= 1e12):
            raise _fault(where, name, value, "a positive number, such as 10000.0")
    for name in _SWITCHES:
        if name in hf and not isinstance(hf[name], bool):
            raise _fault(where, name, hf[name], "true or false")
    pad, vocab = hf.get("pad_token_id"), hf.get("vocab_size", LARGEST["vocab_size"])
    if pad is not None and not (_is_int(pad) and 0 <= pad < vocab):
        raise _fault(where, "pad_token_id", pad, f"a token id from 0 to {vocab - 1:,}, or null")


def _thetas(hf: Mapping[str, Any], where: str) -> list[tuple[str, Any]]:
    """Return the bases of rotary positions: entries of their own or, since transformers 5, inside
    rope_parameters, which may hold one object per kind of layer.
    """
    thetas = [(name, hf[name]) for name in _THETAS if name in hf]
    parameters = hf.get("rope_parameters")
    if parameters is None:
        return thetas
    if not isinstance(parameters, Mapping):
        raise _fault(where, "rope_parameters", parameters, "an object with rope_theta")
    for name, value in parameters.items():
        inner = {name: value} if not isinstance(value, Mapping) else value
        thetas += [("rope_theta", v) for k, v in inner.items() if k == "rope_theta"]
    return thetas


def _is_int(value: Any) -> bool:
    return type(value) is int  # a bool is no number here


def _is_number(value: Any) -> bool:
    return type(value) in (int, float)  # NaN lies in no range


def _fault(where: str, name: str, value: Any, needed: str) -> ConfigError:
    return ConfigError(
        f"{where} has {name}={quote(value)}; need {needed}: correct the entry, or {AGAIN}."
    )


def check_shapes(
    expected: Mapping[str, tuple[int, ...]],
    tensors: Tensors,
    found: Mapping[str, str] | None = None,
) -> list[str]:
    """Compare the tensors that config.json foretells with those of a folder; return the others.

    `found`: the name in the folder of each expected tensor, where they differ.
    Raises: BadData listing what is missing, of another shape or no floating point.
    """
    theirs = {name: name if found is None else found.get(name, name) for name in expected}
    unexpected = sorted(tensors.info.keys() - theirs.values())
    vocabulary = _vocabulary(expected, tensors, theirs)
    faults = [vocabulary.message] if vocabulary else []
    counts = {"missing": 0, "of another shape": 0, "not floating point": 0}
    for name, needed in expected.items():
        info, needed = tensors.info.get(theirs[name]), tuple(needed)
        shown = quote(theirs[name])
        if info is None:
            counts["missing"] += 1
            faults.append(f"{shown} is missing; need {list(needed)}")
        elif info.shape != needed:
            counts["of another shape"] += 1
            if not vocabulary or not vocabulary.explains(needed, info.shape):
                faults.append(f"{shown} is {list(info.shape)}; config.json needs {list(needed)}")
        elif info.dtype not in FLOATS:
            counts["not floating point"] += 1
            faults.append(f"{shown} is {info.dtype}; need one of {', '.join(FLOATS)}")
    if faults:
        raise BadData(_describe(faults, counts, len(expected), unexpected, tensors.folder))
    return unexpected


class _Vocabulary(NamedTuple):
    """A table of `rows` tokens where config.json has `size`."""

    name: str
    size: int
    rows: int

    @property
    def message(self) -> str:
        """Say it in plain words: the commonest fault of all."""
        return (
            f"config.json says vocab_size={self.size}, the table {quote(self.name)} has "
            f"{self.rows} rows: set vocab_size to {self.rows} if the tokenizer has no more ids "
            "than that, or put back the config.json of these weights"
        )

    def explains(self, needed: tuple[int, ...], shape: tuple[int, ...]) -> bool:
        """Tell whether a tensor differs by its number of tokens only."""
        return needed[:1] == (self.size,) and shape == (self.rows, *needed[1:])


def _vocabulary(
    expected: Mapping[str, tuple[int, ...]], tensors: Tensors, theirs: Mapping[str, str]
) -> _Vocabulary | None:
    """Find a table of embeddings that differs by its number of tokens only."""
    for name in filter(_TABLE.search, expected):
        needed, info = tuple(expected[name]), tensors.info.get(theirs[name])
        if info and info.shape and info.shape[1:] == needed[1:] and info.shape != needed:
            return _Vocabulary(theirs[name], needed[0], info.shape[0])
    return None


def _describe(
    faults: list[str], counts: Mapping[str, int], total: int, unexpected: list[str], folder: Path
) -> str:
    summary = ", ".join(f"{number} {what}" for what, number in counts.items() if number)
    lines = [f"{folder}: of {total} tensors, {summary}:", *faults[:MAX_SHOWN]]
    if len(faults) > MAX_SHOWN:
        lines.append(f"and {len(faults) - MAX_SHOWN} more")
    if unexpected and counts["missing"]:
        some = ", ".join(quote(name) for name in unexpected[:3])
        lines.append(f"the folder has {len(unexpected)} others, such as {some}")
    advice = "config.json and weights are not of one model, or of another model_type: "
    return "\n  ".join(lines) + f"\n{advice}take both from their origin again."
