"""Encode packed rows with a post-norm Transformer: BERT, mBERT, RoBERTa, XLM-R.

In: packed fields (ids, position, attention units). Out: hidden states [B, L, D] of the last layer
or of all layers; `transform` and `output` are the masked-LM head, `pool` is BERT's pooler. What
relates it to Hugging Face is in `_bert_names.py`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from jalign.encoders._bert_names import ARCHITECTURES as ARCHITECTURES
from jalign.encoders._bert_names import config_entries
from jalign.encoders._bert_names import hf_copies as hf_copies
from jalign.encoders._bert_names import hf_names as hf_names
from jalign.encoders._bert_names import to_hf_config as to_hf_config
from jalign.nn.attention import packed_attention
from jalign.nn.layers import INIT_STD, Dense, LayerNorm, dropout, look_up, sharded
from jalign.nn.packed import Order
from jalign.types import Array

DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}
# Entries that are a run's choice; the others are the shape of a checkpoint.
RUN_ENTRIES = (
    "dropout",
    "attention_dropout",
    "dtype",
    "attention",
    "remat",
    "unroll",
    "init_std",
)


@dataclass(frozen=True)
class Config:
    """Shape of the encoder; the defaults are XLM-R base.

    `first_position`: the table row of position 0 (XLM-R and RoBERTa: pad id + 1 = 2; BERT: 0).
    `head`: it has a masked-LM head; `tied`: whose table is the word embeddings. `pooler`: it has
    BERT's dense layer and tanh over the first token. `dtype`: of the compute, parameters are
    float32. `init_std`: of the embeddings. `unroll`: layers per scan iteration, 0 for all of them.
    `remat`: recompute each layer's activations in the backward pass.
    """

    vocab_size: int = 250_002
    hidden: int = 768
    layers: int = 12
    heads: int = 12
    mlp: int = 3072
    max_positions: int = 514
    first_position: int = 2
    type_vocab_size: int = 1
    layer_norm_eps: float = 1e-5
    head: bool = True
    tied: bool = True
    pooler: bool = False
    dropout: float = 0.1
    attention_dropout: float = 0.1
    dtype: str = "float32"
    attention: str = "auto"
    remat: bool = False
    unroll: int = 1
    init_std: float = INIT_STD

    def __post_init__(self) -> None:
        """Check the shape. Raises: ValueError naming the entry and what it needs."""
        if self.hidden % self.heads:
            raise ValueError(
                f"encoder.hidden={self.hidden} does not divide into encoder.heads={self.heads}"
            )
        if self.dtype not in DTYPES:
            raise ValueError(f"encoder.dtype={self.dtype!r}: need one of {', '.join(DTYPES)}")
        if not 0 <= self.dropout < 1 or not 0 <= self.attention_dropout < 1:
            raise ValueError("encoder.dropout and encoder.attention_dropout must lie in [0, 1)")

    @property
    def positions(self) -> int:
        """Return the longest attention unit that the position table serves."""
        return self.max_positions - self.first_position


def flops_per_token(cfg: Config, mean_unit: float, masked_frac: float) -> float:
    """Count the FLOPs of one training step (forward and backward) per real token.

    6 per dense weight, 12 D per attended token and layer, 6 per word and hidden unit at the masked
    share of the positions. Recomputation is not counted: this is the model's work, not the
    machine's.
    """
    dense = cfg.layers * (4 * cfg.hidden**2 + 2 * cfg.hidden * cfg.mlp)
    attention = 2 * cfg.layers * cfg.hidden * mean_unit
    head = masked_frac * (cfg.hidden**2 + cfg.hidden * cfg.vocab_size)
    return 6 * (dense + attention + head)


def _qkv(cfg: Config, **options) -> Dense:
    return Dense((3, cfg.hidden), ("embed", None, "heads"), DTYPES[cfg.dtype], **options)


class Layer(nn.Module):
    """One Transformer layer: attention and MLP, each followed by residual and norm."""

    cfg: Config
    max_unit: int | None
    deterministic: bool
    collect: bool

    def _drop(self, x: Array) -> Array:
        train = not self.deterministic and self.cfg.dropout > 0
        return dropout(x, self.cfg.dropout, self.make_rng("dropout") if train else None)

    def _attend(self, h_ND: Array, unit_BL: Array, order: Order | None) -> Array:
        cfg, dtype = self.cfg, DTYPES[self.cfg.dtype]
        qkv_NTF = _qkv(cfg, name="qkv")(h_ND)
        shape = (*unit_BL.shape, cfg.heads, cfg.hidden // cfg.heads)
        q_BLHK, k_BLHK, v_BLHK = (qkv_NTF[:, i].reshape(shape) for i in range(3))
        train = not self.deterministic and cfg.attention_dropout > 0
        out_BLHK = packed_attention(
            q_BLHK,
            k_BLHK,
            v_BLHK,
            unit_BL,
            max_unit=self.max_unit,
            order=order,
            impl=cfg.attention,
            dropout_rate=cfg.attention_dropout if train else 0.0,
            dropout_key=self.make_rng("dropout") if train else None,
        )
        return Dense((cfg.hidden,), ("heads", "embed"), dtype, name="out")(
            out_BLHK.reshape(h_ND.shape)
        )

    @nn.compact
    def __call__(
        self, h_ND: Array, unit_BL: Array, order: Order | None = None
    ) -> tuple[Array, Array | None]:
        """Return the new hidden states, and again as what the scan collects."""
        cfg, dtype = self.cfg, DTYPES[self.cfg.dtype]
        h_ND = nn.with_logical_constraint(h_ND, ("batch", None))
        h_ND = LayerNorm(cfg.layer_norm_eps, dtype, name="attention_norm")(
            h_ND + self._drop(self._attend(h_ND, unit_BL, order))
        )
        m_NF = Dense((cfg.mlp,), ("embed", "mlp"), dtype, name="mlp_in")(h_ND)
        m_NF = nn.gelu(m_NF, approximate=False)
        m_ND = Dense((cfg.hidden,), ("mlp", "embed"), dtype, name="mlp_out")(m_NF)
        h_ND = LayerNorm(cfg.layer_norm_eps, dtype, name="mlp_norm")(h_ND + self._drop(m_ND))
        return h_ND, h_ND if self.collect else None


class Bert(nn.Module):
    """The encoder with its masked-LM head and pooler, where the checkpoint has them.

    Dense layers run on slots flattened to [B x L, D].
    """

    cfg: Config

    def setup(self) -> None:
        """Declare embeddings and head; the layers are declared where they run."""
        cfg, normal = self.cfg, nn.initializers.normal(self.cfg.init_std)
        self.word_embeddings = self.param(
            "word_embeddings", sharded(normal, "vocab", "embed"), (cfg.vocab_size, cfg.hidden)
        )
        self.position_embeddings = self.param(
            "position_embeddings", sharded(normal, None, "embed"), (cfg.max_positions, cfg.hidden)
        )
        self.type_embeddings = self.param(
            "type_embeddings", sharded(normal, None, "embed"), (cfg.type_vocab_size, cfg.hidden)
        )
        dtype = DTYPES[cfg.dtype]
        self.embedding_norm = LayerNorm(cfg.layer_norm_eps, dtype)
        if cfg.head:
            self.head_dense = Dense((cfg.hidden,), ("embed", None), dtype)
            self.head_norm = LayerNorm(cfg.layer_norm_eps, dtype)
            self.head_bias = self.param(
                "head_bias", sharded(nn.initializers.zeros, "vocab"), (cfg.vocab_size,)
            )
        if cfg.head and not cfg.tied:
            self.output_embeddings = self.param(
                "output_embeddings", sharded(normal, "vocab", "embed"), (cfg.vocab_size, cfg.hidden)
            )
        if cfg.pooler:
            self.pooler = Dense((cfg.hidden,), ("embed", None), dtype)

    def embed(
        self,
        ids_BL: Array,
        position_BL: Array,
        type_BL: Array | None = None,
        *,
        deterministic: bool = True,
    ) -> Array:
        """Sum word, position and type embeddings, normalised: [B x L, D]; types are 0 if None."""
        cfg = self.cfg
        lookups = [
            (self.word_embeddings, ids_BL.reshape(-1)),
            (self.position_embeddings, position_BL.reshape(-1) + cfg.first_position),
        ]
        if type_BL is not None:
            lookups.append((self.type_embeddings, type_BL.reshape(-1)))
        h_ND = look_up(*lookups)
        if type_BL is None:
            h_ND += self.type_embeddings[0]
        h_ND = self.embedding_norm(h_ND)
        train = not deterministic and cfg.dropout > 0
        return dropout(h_ND, cfg.dropout, self.make_rng("dropout") if train else None)

    @nn.compact
    def __call__(
        self,
        ids_BL: Array,
        position_BL: Array,
        unit_BL: Array,
        *,
        type_BL: Array | None = None,
        max_unit: int | None = None,
        order: Order | None = None,
        deterministic: bool = True,
        all_layers: bool = False,
        states_BLD: Array | None = None,
    ) -> Array:
        """Return the last layer's states [B, L, D], or with `all_layers` [1 + layers, B, L, D],
        embeddings first. `order` hides slots inside the units. With `states_BLD` the layers start
        from these, not from the embeddings.
        """
        cfg = self.cfg
        if states_BLD is None:
            h_ND = self.embed(ids_BL, position_BL, type_BL, deterministic=deterministic)
        else:
            h_ND = states_BLD.reshape(-1, cfg.hidden)
        layer = nn.remat(Layer, prevent_cse=False) if cfg.remat else Layer
        stack = nn.scan(
            layer,
            variable_axes={"params": 0},
            split_rngs={"params": True, "dropout": True},
            in_axes=nn.broadcast,
            length=cfg.layers,
            unroll=cfg.unroll or max(cfg.layers, 1),
            metadata_params={nn.PARTITION_NAME: None},
        )
        last_ND, all_YND = stack(cfg, max_unit, deterministic, all_layers, name="layers")(
            h_ND, unit_BL, order
        )
        if not all_layers:
            return last_ND.reshape(*ids_BL.shape, cfg.hidden)
        return jnp.concatenate([h_ND[None], all_YND]).reshape(-1, *ids_BL.shape, cfg.hidden)

    def transform(self, h_ND: Array) -> Array:
        """Apply the masked-LM transform before the vocabulary: dense, GELU, norm."""
        return self.head_norm(nn.gelu(self.head_dense(h_ND), approximate=False))

    def table(self) -> Array:
        """Return the word embeddings [V, D], float32."""
        return self.word_embeddings

    def output(self) -> tuple[Array, Array]:
        """Return the output table [V, D] and its bias [V]."""
        table_VD = self.word_embeddings if self.cfg.tied else self.output_embeddings
        return table_VD.astype(DTYPES[self.cfg.dtype]), self.head_bias

    def pool(self, h_ND: Array) -> Array:
        """Apply BERT's pooler to the states of first tokens: dense, tanh."""
        return jnp.tanh(self.pooler(h_ND))

    def initialise(self, ids_BL: Array, position_BL: Array, unit_BL: Array) -> None:
        """Touch every parameter, for `init`."""
        h_ND = self(ids_BL, position_BL, unit_BL).reshape(-1, self.cfg.hidden)
        if self.cfg.head:
            self.transform(h_ND)
        if self.cfg.pooler:
            self.pool(h_ND)


def make(cfg: Config) -> nn.Module:
    """Build the Linen module."""
    return Bert(cfg)


def init_params(module: Bert, key: jax.Array):
    """Draw the parameters, boxed with their logical axes (see `train/mesh.py`)."""
    # The parameters do not depend on the attention, and kernels refuse such short rows.
    module = Bert(replace(module.cfg, attention="dense"))
    one = jnp.zeros((1, 4), jnp.int32)
    return module.init(key, one, one, one + 1, method=module.initialise)["params"]


def with_output_bias(params, bias_V: Array):
    """Return the parameters with the output bias set to `bias_V` (see `RunConfig.count_rows`)."""
    return params | {"head_bias": bias_V}


def first_layers(cfg: Config, params: Mapping[str, Any], num: int) -> tuple[Config, dict[str, Any]]:
    """Return the encoder that ends after layer `num`, and its parameters: what lies above is not
    computed.
    """
    if num >= cfg.layers:
        return cfg, dict(params)
    layers = jax.tree.map(lambda x: x[:num], params["layers"])
    return replace(cfg, layers=num), {**params, "layers": layers}


def top_queries(
    cfg: Config, params: Mapping[str, Any], h_BLD: Array, position_BL: Array
) -> tuple[Array, Array]:
    """Return queries and keys [B, L, H, K] of the last layer, from the states that enter it (those
    of `first_layers`): its attention without the rest of it.
    """
    del position_BL
    top = jax.tree.map(lambda x: x[-1], params["layers"]["qkv"])
    qkv_BLTF = _qkv(cfg).apply({"params": top}, h_BLD)
    shape = (*h_BLD.shape[:2], 3, cfg.heads, cfg.hidden // cfg.heads)
    qkv_BLTHK = qkv_BLTF.reshape(shape)
    return qkv_BLTHK[:, :, 0], qkv_BLTHK[:, :, 1]


def last_layers(cfg: Config, params: Mapping[str, Any], num: int) -> tuple[Config, dict[str, Any]]:
    """Return the encoder that has the last `num` layers only, and its parameters."""
    num = min(num, cfg.layers)
    layers = jax.tree.map(lambda x: x[cfg.layers - num :], params["layers"])
    return replace(cfg, layers=num), {**params, "layers": layers}


def default_model_type(cfg: Config) -> str:
    """Name the Hugging Face model type of an encoder that was trained from scratch."""
    return "xlm-roberta" if cfg.first_position else "bert"


def from_hf_config(hf: Mapping[str, Any], tensors: Collection[str]) -> Config:
    """Read config.json; the tensors' names tell whether there are a masked-LM head and a pooler.

    Raises: ConfigError naming an entry that this family cannot honour.
    """
    return Config(**config_entries(hf, tensors))
