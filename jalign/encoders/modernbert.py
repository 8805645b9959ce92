"""Encode packed rows with a pre-norm Transformer of local and global layers: ModernBERT, mmBERT.

In: packed fields (ids, position, attention units). Out: hidden states [B, L, D] of the last layer
or of all layers; `transform` and `output` are the masked-LM head. Rotary positions, GeGLU, no
biases but the output's. What relates it to Hugging Face is in `_modernbert_names.py`.
Source: Warner et al. 2024 (2412.13663), sections 2.1 and 2.2; Marone et al. 2025 (2509.06888).

A local layer must be compiled with its window, so layers of one kind cannot simply be scanned:
layer 0 ("first": global, without attention norm), then a scan over whole periods ("local_1", ...,
"global"), then the local layers that are left ("tail_1", ...).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from jalign.encoders._modernbert_cut import first_layers as first_layers
from jalign.encoders._modernbert_cut import top_queries as top_queries
from jalign.encoders._modernbert_names import ARCHITECTURES as ARCHITECTURES
from jalign.encoders._modernbert_names import config_entries
from jalign.encoders._modernbert_names import hf_copies as hf_copies
from jalign.encoders._modernbert_names import hf_names as hf_names
from jalign.encoders._modernbert_names import to_hf_config as to_hf_config
from jalign.errors import ConfigError
from jalign.nn.attention import packed_attention
from jalign.nn.layers import INIT_STD, Dense, LayerNorm, dropout, look_up, sharded
from jalign.nn.packed import Order
from jalign.nn.rope import turn, turns
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
    """Shape of the encoder; the defaults are mmBERT base as it was released.

    ModernBERT base has vocab_size 50_368 and local_theta 10_000, as mmBERT had before its last
    phases. `mlp`: each half of the GLU. `global_every`: layers 0, n, 2n, ... see their whole unit;
    the others `local_attention` slots around each, half on either side. `global_theta`,
    `local_theta`: base of the rotary frequencies. `max_positions`: the longest unit it was trained
    on; there is no table. `final_norm`: absent where the encoder is cut before its last layer.
    `head`: it has a masked-LM head; `tied`: whose table is the word embeddings. `dropout`: of the
    embeddings and inside the MLP; `attention_dropout`: of the probabilities and of what attention
    adds. `dtype`: of the compute, parameters are float32. `init_std`: of the embeddings. `unroll`:
    periods per scan iteration, 0 for all of them. `remat`: recompute each layer's activations in
    the backward pass.
    """

    vocab_size: int = 256_000
    hidden: int = 768
    layers: int = 22
    heads: int = 12
    mlp: int = 1152
    max_positions: int = 8192
    global_every: int = 3
    local_attention: int = 128
    global_theta: float = 160_000.0
    local_theta: float = 160_000.0
    layer_norm_eps: float = 1e-5
    final_norm: bool = True
    head: bool = True
    tied: bool = True
    dropout: float = 0.0
    attention_dropout: float = 0.0
    dtype: str = "float32"
    attention: str = "auto"
    remat: bool = False
    unroll: int = 1
    init_std: float = INIT_STD

    def __post_init__(self) -> None:
        """Check the shape. Raises: ConfigError naming the entry and what it needs."""
        if self.heads < 1 or self.hidden % self.heads or self.hidden // self.heads % 2:
            raise ConfigError(
                f"encoder.hidden={self.hidden} does not divide into encoder.heads={self.heads} "
                "of an even size, which rotary positions need"
            )
        if self.dtype not in DTYPES:
            raise ConfigError(f"encoder.dtype={self.dtype!r}: need one of {', '.join(DTYPES)}")
        if not 0 <= self.dropout < 1 or not 0 <= self.attention_dropout < 1:
            raise ConfigError("encoder.dropout and encoder.attention_dropout must lie in [0, 1)")
        for name, least in (("global_every", 1), ("local_attention", 1), ("layers", 0)):
            if getattr(self, name) < least:
                raise ConfigError(f"encoder.{name}={getattr(self, name)}: need at least {least}")

    @property
    def positions(self) -> int:
        """Return the longest attention unit that it was trained for."""
        return self.max_positions

    @property
    def window(self) -> int:
        """Return how many slots away, on either side, a local layer sees."""
        return self.local_attention // 2

    @property
    def periods(self) -> int:
        """Return how many whole periods follow layer 0."""
        return max(self.layers - 1, 0) // self.global_every

    @property
    def tail(self) -> int:
        """Return how many local layers follow the last period."""
        return max(self.layers - 1, 0) % self.global_every


def flops_per_token(cfg: Config, mean_unit: float, masked_frac: float) -> float:
    """Count the FLOPs of one training step (forward and backward) per real token.

    6 per dense weight, 12 D per attended token and layer (a local layer attends to its window
    only), 6 per word and hidden unit at the masked share of the positions. Recomputation is not
    counted: this is the model's work, not the machine's.
    """
    dense = cfg.layers * (4 * cfg.hidden**2 + 3 * cfg.hidden * cfg.mlp)
    num_global = -(-cfg.layers // cfg.global_every)
    local = min(mean_unit, 2 * cfg.window + 1)
    attended = num_global * mean_unit + (cfg.layers - num_global) * local
    head = masked_frac * (cfg.hidden**2 + cfg.hidden * cfg.vocab_size)
    return 6 * (dense + 2 * cfg.hidden * attended + head)


class Layer(nn.Module):
    """One layer: norm and attention, norm and GeGLU, each added to what came in.

    `first`: it has no attention norm, because the embeddings come normalised.
    """

    cfg: Config
    is_local: bool
    max_unit: int | None
    deterministic: bool
    first: bool = False

    def _drop(self, x: Array, rate: float) -> Array:
        train = not self.deterministic and rate > 0
        return dropout(x, rate, self.make_rng("dropout") if train else None)

    def _norm(self, name: str, h_ND: Array) -> Array:
        cfg = self.cfg
        return LayerNorm(cfg.layer_norm_eps, DTYPES[cfg.dtype], use_bias=False, name=name)(h_ND)

    def _dense(self, name: str, x: Array, out: tuple[int, ...], *axes: str | None) -> Array:
        return Dense(out, axes, DTYPES[self.cfg.dtype], use_bias=False, name=name)(x)

    def _attend(self, h_ND: Array, unit_BL: Array, turns_2BLK: Array, order: Order | None) -> Array:
        cfg = self.cfg
        if self.is_local and order is not None:
            order = order.with_self()  # all else that it sees may lie outside the window
        qkv_NTF = self._dense("qkv", h_ND, (3, cfg.hidden), "embed", None, "heads")
        qkv_BLTHK = qkv_NTF.reshape(*unit_BL.shape, 3, cfg.heads, cfg.hidden // cfg.heads)
        qk_BLTHK = turn(qkv_BLTHK[:, :, :2], turns_2BLK)
        train = not self.deterministic and cfg.attention_dropout > 0
        out_BLHK = packed_attention(
            qk_BLTHK[:, :, 0],
            qk_BLTHK[:, :, 1],
            qkv_BLTHK[:, :, 2],
            unit_BL,
            max_unit=self.max_unit,
            window=cfg.window if self.is_local else None,
            order=order,
            impl=cfg.attention,
            dropout_rate=cfg.attention_dropout if train else 0.0,
            dropout_key=self.make_rng("dropout") if train else None,
        )
        out_ND = out_BLHK.reshape(h_ND.shape)
        out_ND = self._dense("out", out_ND, (cfg.hidden,), "heads", "embed")
        return self._drop(out_ND, cfg.attention_dropout)

    @nn.compact
    def __call__(
        self, h_ND: Array, unit_BL: Array, turns_2BLK: Array, order: Order | None = None
    ) -> Array:
        """Return the new hidden states."""
        cfg = self.cfg
        h_ND = nn.with_logical_constraint(h_ND, ("batch", None))
        normed_ND = h_ND if self.first else self._norm("attention_norm", h_ND)
        h_ND += self._attend(normed_ND, unit_BL, turns_2BLK, order)
        m_NTF = self._norm("mlp_norm", h_ND)
        m_NTF = self._dense("mlp_in", m_NTF, (2, cfg.mlp), "embed", None, "mlp")
        m_NF = nn.gelu(m_NTF[:, 0], approximate=False) * m_NTF[:, 1]
        m_NF = self._drop(m_NF, cfg.dropout)
        return h_ND + self._dense("mlp_out", m_NF, (cfg.hidden,), "mlp", "embed")


class Period(nn.Module):
    """The local layers up to the next global one, and that one: what the scan repeats."""

    cfg: Config
    max_unit: int | None
    deterministic: bool
    collect: bool

    @nn.compact
    def __call__(
        self,
        h_ND: Array,
        unit_BL: Array,
        local_2BLK: Array,
        global_2BLK: Array,
        order: Order | None = None,
    ) -> tuple[Array, Array | None]:
        """Return the new hidden states, and those of every layer as what the scan collects."""
        cfg = self.cfg
        layer = nn.remat(Layer, prevent_cse=False) if cfg.remat else Layer
        names = [f"local_{i}" for i in range(1, cfg.global_every)] + ["global"]
        all_ND = []
        for name in names:
            is_local = name != "global"
            h_ND = layer(cfg, is_local, self.max_unit, self.deterministic, name=name)(
                h_ND, unit_BL, local_2BLK if is_local else global_2BLK, order
            )
            all_ND.append(h_ND)
        return h_ND, jnp.stack(all_ND) if self.collect else None


class ModernBert(nn.Module):
    """The encoder with its masked-LM head, where the checkpoint has one.

    Dense layers run on slots flattened to [B x L, D].
    """

    cfg: Config

    def setup(self) -> None:
        """Declare embeddings, final norm and head; the layers are declared where they run."""
        cfg, normal = self.cfg, nn.initializers.normal(self.cfg.init_std)
        table = sharded(normal, "vocab", "embed"), (cfg.vocab_size, cfg.hidden)
        self.word_embeddings = self.param("word_embeddings", *table)

        def norm():
            return LayerNorm(cfg.layer_norm_eps, DTYPES[cfg.dtype], use_bias=False)

        self.embedding_norm = norm()
        if cfg.final_norm:
            self.final_norm = norm()
        if cfg.head:
            self.head_dense = Dense(
                (cfg.hidden,), ("embed", None), DTYPES[cfg.dtype], use_bias=False
            )
            self.head_norm = norm()
            self.head_bias = self.param(
                "head_bias", sharded(nn.initializers.zeros, "vocab"), (cfg.vocab_size,)
            )
        if cfg.head and not cfg.tied:
            self.output_embeddings = self.param("output_embeddings", *table)

    def embed(self, ids_BL: Array, *, deterministic: bool = True) -> Array:
        """Look the words up and normalise them: [B x L, D]."""
        cfg = self.cfg
        h_ND = self.embedding_norm(look_up((self.word_embeddings, ids_BL.reshape(-1))))
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
    ) -> Array:
        """Return the last states [B, L, D], or with `all_layers` [1 + layers, B, L, D], embeddings
        first; only the last of these went through the final norm. `order` hides slots inside the
        units; local layers always show a slot itself. There are no types: `type_BL` is not read.
        """
        del type_BL
        cfg = self.cfg
        h_ND = self.embed(ids_BL, deterministic=deterministic)
        options = (max_unit, order, deterministic, all_layers)
        h_ND, all_YND = self._run(h_ND, position_BL, unit_BL, *options)
        if cfg.final_norm:
            h_ND = self.final_norm(h_ND)
        if not all_layers:
            return h_ND.reshape(*ids_BL.shape, cfg.hidden)
        states_YND = jnp.concatenate(all_YND).at[-1].set(h_ND)
        return states_YND.reshape(-1, *ids_BL.shape, cfg.hidden)

    def _run(self, h_ND, position_BL, unit_BL, max_unit, order, deterministic, all_layers):
        """Run the layers: the last states, and those after every layer in pieces [Y, N, D]."""
        cfg = self.cfg
        local_2BLK, global_2BLK = (
            turns(position_BL, theta, cfg.hidden // cfg.heads)
            for theta in (cfg.local_theta, cfg.global_theta)
        )
        layer = nn.remat(Layer) if cfg.remat else Layer
        all_YND = [h_ND[None]]
        if cfg.layers:
            first = layer(cfg, False, max_unit, deterministic, first=True, name="first")
            h_ND = first(h_ND, unit_BL, global_2BLK, order)
            all_YND.append(h_ND[None])
        if cfg.periods:
            stack = nn.scan(
                Period,
                variable_axes={"params": 0},
                split_rngs={"params": True, "dropout": True},
                in_axes=nn.broadcast,
                length=cfg.periods,
                unroll=cfg.unroll or cfg.periods,
                metadata_params={nn.PARTITION_NAME: None},
            )
            h_ND, states = stack(cfg, max_unit, deterministic, all_layers, name="periods")(
                h_ND, unit_BL, local_2BLK, global_2BLK, order
            )
            all_YND += [states.reshape(-1, *h_ND.shape)] if all_layers else []
        for i in range(1, cfg.tail + 1):
            tail = layer(cfg, True, max_unit, deterministic, name=f"tail_{i}")
            h_ND = tail(h_ND, unit_BL, local_2BLK, order)
            all_YND.append(h_ND[None])
        return h_ND, all_YND

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

    def initialise(self, ids_BL: Array, position_BL: Array, unit_BL: Array) -> None:
        """Touch every parameter, for `init`."""
        h_ND = self(ids_BL, position_BL, unit_BL).reshape(-1, self.cfg.hidden)
        if self.cfg.head:
            self.transform(h_ND)


def make(cfg: Config) -> nn.Module:
    """Build the Linen module."""
    return ModernBert(cfg)


def init_params(module: ModernBert, key: jax.Array):
    """Draw the parameters, boxed with their logical axes (see `train/mesh.py`).

    Differs: normal weights of one deviation; ModernBERT draws them truncated, and those that write
    into the states smaller by the square root of twice the layers (2412.13663, appendix A).
    """
    # The parameters do not depend on the attention, and kernels refuse such short rows.
    module = ModernBert(replace(module.cfg, attention="dense"))
    one = jnp.zeros((1, 4), jnp.int32)
    return module.init(key, one, one, one + 1, method=module.initialise)["params"]


def with_output_bias(params, bias_V: Array):
    """Return the parameters with the output bias set to `bias_V` (see `RunConfig.count_rows`)."""
    return params | {"head_bias": bias_V}


def default_model_type(cfg: Config) -> str:
    """Name the Hugging Face model type of an encoder that was trained from scratch."""
    del cfg
    return "modernbert"


def from_hf_config(hf: Mapping[str, Any], tensors: Collection[str]) -> Config:
    """Read config.json; the tensors' names tell whether there is a masked-LM head.

    Raises: ConfigError naming an entry that this family cannot honour.
    """
    return Config(**config_entries(hf, tensors))
