"""Relate `modernbert.py` to Hugging Face: entries of config.json, and the name table.

In: config.json and the names of a folder's tensors. Out: entries of `modernbert.Config`; and back.
config.json comes in two spellings: transformers 4 wrote `global_attn_every_n_layers`,
`global_rope_theta` and `local_rope_theta`; transformers 5 writes `layer_types` and
`rope_parameters`, which win where both are there. We write both.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from jalign.encoders._names import KERNEL, Name, fused_kernel
from jalign.errors import ConfigError

# Hugging Face's model_type -> its classes with and without the masked-LM head.
ARCHITECTURES = {"modernbert": ("ModernBertForMaskedLM", "ModernBertModel")}
# Entry of Config -> entry of config.json, and what transformers takes where that is silent.
_SHAPE = {
    "vocab_size": ("vocab_size", 50_368),
    "hidden": ("hidden_size", 768),
    "layers": ("num_hidden_layers", 22),
    "heads": ("num_attention_heads", 12),
    "mlp": ("intermediate_size", 1152),
    "max_positions": ("max_position_embeddings", 8192),
    "local_attention": ("local_attention", 128),
    "layer_norm_eps": ("norm_eps", 1e-5),
    "dropout": ("mlp_dropout", 0.0),
    "attention_dropout": ("attention_dropout", 0.0),
}
_MUST_BE = {
    "hidden_activation": "gelu",
    "attention_bias": False,
    "mlp_bias": False,
    "norm_bias": False,
}
_HEAD_MUST_BE = {"classifier_activation": "gelu", "classifier_bias": False, "decoder_bias": True}
GLOBAL, LOCAL = "full_attention", "sliding_attention"


def config_entries(hf: Mapping[str, Any], tensors: Collection[str]) -> dict[str, Any]:
    """Return the entries of Config that config.json and the tensors' names decide.

    Raises: ConfigError naming an entry that this family cannot honour.
    """
    # A classifier has a `head` too, and its own training went through it: no masked-LM head.
    head = any(name.endswith("head.dense.weight") for name in tensors) and not any(
        name.startswith("classifier.") for name in tensors
    )
    for name, served in {**_MUST_BE, **(_HEAD_MUST_BE if head else {})}.items():
        if hf.get(name, served) != served:
            raise _refused(name, hf[name], f"{served!r} only")
    entries = {ours: hf.get(theirs, default) for ours, (theirs, default) in _SHAPE.items()}
    head_size = hf.get("head_dim")
    if head_size is not None and head_size * entries["heads"] != entries["hidden"]:
        raise _refused("head_dim", head_size, "hidden_size / num_attention_heads only")
    entries["global_every"] = _global_every(hf, entries["layers"])
    entries["global_theta"], entries["local_theta"] = _thetas(hf)
    entries["head"], entries["tied"] = head, bool(hf.get("tie_word_embeddings", True))
    return entries


def _refused(name: str, value: Any, served: str) -> ConfigError:
    return ConfigError(f"config.json has {name}={value!r:.200}; jalign serves {served}")


def _global_every(hf: Mapping[str, Any], layers: int) -> int:
    """Return n where layers 0, n, 2n, ... are global, in either spelling."""
    every, types = hf.get("global_attn_every_n_layers", 3), hf.get("layer_types")
    if not isinstance(every, int) or every < 1:
        raise _refused("global_attn_every_n_layers", every, "a positive number")
    if types is not None and not isinstance(types, list):
        raise _refused("layer_types", types, "a list")
    if types is None or types == _layer_types(layers, every):
        return every
    later = [i for i, kind in enumerate(types) if i and kind == GLOBAL]
    every = later[0] if later else max(layers, 1)
    if types != _layer_types(layers, every):
        raise _refused("layer_types", types, f"{layers} layers of which each n-th is {GLOBAL!r}")
    return every


def _layer_types(layers: int, every: int) -> list[str]:
    return [LOCAL if y % every else GLOBAL for y in range(layers)]


def _thetas(hf: Mapping[str, Any]) -> tuple[float, float]:
    """Return the rotary bases of global and local layers, in either spelling."""
    parameters = hf.get("rope_parameters") or {}
    if not isinstance(parameters, Mapping) or not set(parameters) <= {GLOBAL, LOCAL}:
        raise _refused("rope_parameters", parameters, f"entries {GLOBAL!r} and {LOCAL!r} only")
    kinds = [parameters.get(kind) or {} for kind in (GLOBAL, LOCAL)]
    scaling = hf.get("rope_scaling") or {}
    for name, entry in (("rope_scaling", scaling), *(("rope_parameters", x) for x in kinds)):
        plain = isinstance(entry, Mapping) and (
            entry.get("rope_type", entry.get("type", "default")) == "default"
            and entry.get("partial_rotary_factor", 1.0) == 1.0
        )
        if not plain:
            raise _refused(name, entry, "unscaled rotary positions (rope_type='default') only")
    global_theta = kinds[0].get("rope_theta", hf.get("global_rope_theta", 160_000.0))
    local_theta = kinds[1].get("rope_theta", hf.get("local_rope_theta", 10_000.0))
    # transformers 4: null means as the global layers
    return float(global_theta), float(global_theta if local_theta is None else local_theta)


def to_hf_config(cfg: Any, ids: Mapping[str, int]) -> dict[str, Any]:
    """Write the entries of config.json; `ids` holds the tokenizer's bos, eos, pad, cls and sep.

    Raises: ConfigError for an encoder that was cut before its last layer.
    """
    if not cfg.final_norm:
        raise ConfigError(
            "encoder.final_norm=False (an encoder cut before its last layer): Hugging Face's "
            "ModernBERT always has a final norm, so this model cannot be written in its format"
        )
    entries = {theirs: getattr(cfg, ours) for ours, (theirs, _) in _SHAPE.items()}
    thetas = {GLOBAL: cfg.global_theta, LOCAL: cfg.local_theta}
    return (
        entries
        | _MUST_BE
        | _HEAD_MUST_BE
        | {
            "global_attn_every_n_layers": cfg.global_every,
            "layer_types": _layer_types(cfg.layers, cfg.global_every),
            "global_rope_theta": cfg.global_theta,
            "local_rope_theta": cfg.local_theta,
            "rope_parameters": {
                kind: {"rope_type": "default", "rope_theta": theta}
                for kind, theta in thetas.items()
            },
            "embedding_dropout": cfg.dropout,
            "initializer_range": cfg.init_std,
            "tie_word_embeddings": cfg.tied,
            **{f"{name}_token_id": ids[name] for name in ("bos", "eos", "pad", "cls", "sep")},
        }
    )


def hf_names(cfg: Any, model_type: str) -> tuple[Name, ...]:
    """Return the name table: with the masked-LM head the names of `...ForMaskedLM`, else those of
    the bare model.
    """
    del model_type
    base, every = "model." if cfg.head else "", cfg.global_every
    names = [
        Name("word_embeddings", (f"{base}embeddings.tok_embeddings.weight",)),
        Name("embedding_norm/scale", (f"{base}embeddings.norm.weight",)),
    ]
    if cfg.layers:
        names += _layer("first", f"{base}layers.0.", None)[1:]  # it has no attention norm
    if cfg.periods:
        for i in range(1, every + 1):
            ours = "periods/global" if i == every else f"periods/local_{i}"
            numbers = tuple(i + period * every for period in range(cfg.periods))
            names += _layer(ours, f"{base}layers.{{y}}.", numbers)
    for i in range(1, cfg.tail + 1):
        names += _layer(f"tail_{i}", f"{base}layers.{cfg.periods * every + i}.", None)
    names += [Name("final_norm/scale", (f"{base}final_norm.weight",))]
    if cfg.head:
        names += [
            Name("head_dense/kernel", ("head.dense.weight",), KERNEL),
            Name("head_norm/scale", ("head.norm.weight",)),
            Name("head_bias", ("decoder.bias",)),
        ]
        if not cfg.tied:
            names += [Name("output_embeddings", ("decoder.weight",))]
    return tuple(names)


def _layer(ours: str, theirs: str, layers: tuple[int, ...] | None) -> list[Name]:
    return [
        Name(f"{ours}/attention_norm/scale", (f"{theirs}attn_norm.weight",), layers=layers),
        Name(f"{ours}/qkv/kernel", (f"{theirs}attn.Wqkv.weight",), fused_kernel(3), layers),
        Name(f"{ours}/out/kernel", (f"{theirs}attn.Wo.weight",), KERNEL, layers),
        Name(f"{ours}/mlp_norm/scale", (f"{theirs}mlp_norm.weight",), layers=layers),
        Name(f"{ours}/mlp_in/kernel", (f"{theirs}mlp.Wi.weight",), fused_kernel(2), layers),
        Name(f"{ours}/mlp_out/kernel", (f"{theirs}mlp.Wo.weight",), KERNEL, layers),
    ]


def hf_copies(cfg: Any, model_type: str) -> dict[str, str]:
    """Return the tensors of `...ForMaskedLM` that repeat others: name -> the one that counts."""
    del model_type
    if cfg.head and cfg.tied:
        return {"decoder.weight": "model.embeddings.tok_embeddings.weight"}
    return {}
