"""Relate `bert.py` to Hugging Face: entries of config.json, and the name table.

In: config.json and the names of a folder's tensors. Out: entries of `bert.Config`; and back.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from jalign.encoders._names import JOINED_BIAS, JOINED_KERNEL, KERNEL, SAME, Name
from jalign.errors import ConfigError

# Hugging Face's model_type -> its classes with and without the masked-LM head.
ARCHITECTURES = {
    "xlm-roberta": ("XLMRobertaForMaskedLM", "XLMRobertaModel"),
    "roberta": ("RobertaForMaskedLM", "RobertaModel"),
    "bert": ("BertForMaskedLM", "BertModel"),
}
# Entry of Config -> entry of config.json.
_SHAPE = {
    "vocab_size": "vocab_size",
    "hidden": "hidden_size",
    "layers": "num_hidden_layers",
    "heads": "num_attention_heads",
    "mlp": "intermediate_size",
    "max_positions": "max_position_embeddings",
    "type_vocab_size": "type_vocab_size",
    "layer_norm_eps": "layer_norm_eps",
    "dropout": "hidden_dropout_prob",
    "attention_dropout": "attention_probs_dropout_prob",
}
# What transformers takes where config.json is silent (its classes drop entries that are default).
_DEFAULTS = {
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "max_position_embeddings": 512,
    "type_vocab_size": 2,
    "layer_norm_eps": 1e-12,
    "hidden_dropout_prob": 0.1,
    "attention_probs_dropout_prob": 0.1,
}
_MUST_BE = {
    "hidden_act": ("gelu",),
    "position_embedding_type": ("absolute",),
    "is_decoder": (False,),
    "add_cross_attention": (False,),
}


def config_entries(hf: Mapping[str, Any], tensors: Collection[str]) -> dict[str, Any]:
    """Return the entries of Config that config.json and the tensors' names decide.

    Raises: ConfigError naming an entry that this family cannot honour.
    """
    for name, served in _MUST_BE.items():
        if hf.get(name, served[0]) not in served:
            raise ConfigError(
                f"config.json has {name}={hf[name]!r}; jalign serves {name}={served[0]!r} only"
            )
    if "vocab_size" not in hf:
        raise ConfigError("config.json has no vocab_size")
    with_defaults = {**_DEFAULTS, **hf}
    entries = {ours: with_defaults[theirs] for ours, theirs in _SHAPE.items()}
    if hf["model_type"] == "bert":
        entries["first_position"] = 0
    else:  # positions count on from the padding's, as in fairseq
        pad = hf.get("pad_token_id", 1)
        entries["first_position"] = 2 if pad is None else pad + 1
    entries["head"] = any(name.endswith("transform.dense.weight") for name in tensors) or any(
        name.endswith("lm_head.dense.weight") for name in tensors
    )
    entries["pooler"] = any(name.endswith("pooler.dense.weight") for name in tensors)
    entries["tied"] = bool(hf.get("tie_word_embeddings", True))
    return entries


def to_hf_config(cfg: Any, ids: Mapping[str, int]) -> dict[str, Any]:
    """Write the entries of config.json; `ids` holds the tokenizer's bos, eos and pad.

    Raises: ConfigError where Hugging Face would count the positions from another row.
    """
    if cfg.first_position not in (0, ids["pad"] + 1):
        raise ConfigError(
            f"encoder.first_position={cfg.first_position}, and the tokenizer's pad id is "
            f"{ids['pad']}: Hugging Face counts positions from pad + 1 (XLM-R) or from 0 (BERT), "
            "so this model cannot be written in its format"
        )
    entries = {theirs: getattr(cfg, ours) for ours, theirs in _SHAPE.items()}
    if cfg.first_position:
        entries |= {"bos_token_id": ids["bos"], "eos_token_id": ids["eos"]}
    return entries | {
        "hidden_act": "gelu",
        "initializer_range": cfg.init_std,
        "tie_word_embeddings": cfg.tied,
        "pad_token_id": ids["pad"],
    }


def hf_names(cfg: Any, model_type: str) -> tuple[Name, ...]:
    """Return the name table: with the masked-LM head the names of `...ForMaskedLM`, else those of
    the bare model.
    """
    is_bert = model_type == "bert"
    base = ("bert." if is_bert else "roberta.") if cfg.head else ""
    layer, every = f"{base}encoder.layer.{{y}}.", tuple(range(cfg.layers))
    attention = tuple(f"{layer}attention.self.{n}" for n in ("query", "key", "value"))
    names = [
        Name("word_embeddings", (f"{base}embeddings.word_embeddings.weight",)),
        Name("position_embeddings", (f"{base}embeddings.position_embeddings.weight",)),
        Name("type_embeddings", (f"{base}embeddings.token_type_embeddings.weight",)),
        *_norm("embedding_norm", f"{base}embeddings.LayerNorm"),
        Name("layers/qkv/kernel", tuple(f"{a}.weight" for a in attention), JOINED_KERNEL, every),
        Name("layers/qkv/bias", tuple(f"{a}.bias" for a in attention), JOINED_BIAS, every),
        *_dense("layers/out", f"{layer}attention.output.dense", every),
        *_norm("layers/attention_norm", f"{layer}attention.output.LayerNorm", every),
        *_dense("layers/mlp_in", f"{layer}intermediate.dense", every),
        *_dense("layers/mlp_out", f"{layer}output.dense", every),
        *_norm("layers/mlp_norm", f"{layer}output.LayerNorm", every),
    ]
    if cfg.pooler:
        names += _dense("pooler", f"{base}pooler.dense")
    if cfg.head:
        head = "cls.predictions" if is_bert else "lm_head"
        names += _dense("head_dense", f"{head}.transform.dense" if is_bert else f"{head}.dense")
        names += _norm(
            "head_norm", f"{head}.transform.LayerNorm" if is_bert else f"{head}.layer_norm"
        )
        # Tied, transformers stores the bias as `bias`; untied, what it computes with is this one.
        bias = f"{head}.bias" if cfg.tied else f"{head}.decoder.bias"
        names += [Name("head_bias", (bias,))]
        if not cfg.tied:
            names += [Name("output_embeddings", (f"{head}.decoder.weight",))]
    return tuple(names)


def hf_copies(cfg: Any, model_type: str) -> dict[str, str]:
    """Return the tensors of `...ForMaskedLM` that repeat others: name -> the one that counts."""
    if not cfg.head:
        return {}
    base, head = ("bert.", "cls.predictions") if model_type == "bert" else ("roberta.", "lm_head")
    if not cfg.tied:
        return {f"{head}.bias": f"{head}.decoder.bias"}
    return {
        f"{head}.decoder.weight": f"{base}embeddings.word_embeddings.weight",
        f"{head}.decoder.bias": f"{head}.bias",
    }


def _dense(ours: str, theirs: str, layers: tuple[int, ...] | None = None) -> list[Name]:
    return [
        Name(f"{ours}/kernel", (f"{theirs}.weight",), KERNEL, layers),
        Name(f"{ours}/bias", (f"{theirs}.bias",), SAME, layers),
    ]


def _norm(ours: str, theirs: str, layers: tuple[int, ...] | None = None) -> list[Name]:
    return [
        Name(f"{ours}/scale", (f"{theirs}.weight",), SAME, layers),
        Name(f"{ours}/bias", (f"{theirs}.bias",), SAME, layers),
    ]
