"""Time a PyTorch train step: the other competitors of train_step.py, each in its own process.

`stock` is Hugging Face's XLMRobertaForMaskedLM as people call it: every position meets the
vocabulary. `tuned` is what an expert would write: fused qkv, scaled_dot_product_attention, a head
on the masked positions only, fused AdamW.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks import bitext
from benchmarks.race import Stopwatch
from benchmarks.train_step import Settings, worker_settings

IGNORE = -100


def corrupt(ids_BL: Tensor, side_BL: Tensor, settings: Settings) -> tuple[Tensor, Tensor]:
    """Select content tokens; 80 % become <mask>, 10 % a random word. Return (ids, selected)."""
    selected_BL = (torch.rand(ids_BL.shape) < settings.rate) & (side_BL > 0)
    action_BL = torch.rand(ids_BL.shape)
    word_BL = torch.randint(len(bitext.SPECIALS), settings.vocab - 1, ids_BL.shape)
    new_BL = torch.where(action_BL < 0.9, word_BL, ids_BL)
    new_BL = torch.where(action_BL < 0.8, torch.full_like(ids_BL, settings.vocab - 1), new_BL)
    return torch.where(selected_BL, new_BL, ids_BL), selected_BL


class Stock(nn.Module):
    """Hugging Face's model and loss."""

    def __init__(self, settings: Settings) -> None:
        super().__init__()
        from transformers import XLMRobertaConfig, XLMRobertaForMaskedLM

        self.settings = settings
        self.model = XLMRobertaForMaskedLM(
            XLMRobertaConfig(
                vocab_size=settings.vocab,
                hidden_size=settings.hidden,
                num_hidden_layers=settings.layers,
                num_attention_heads=settings.heads,
                intermediate_size=settings.mlp,
                type_vocab_size=1,
                max_position_embeddings=settings.max_positions,
                layer_norm_eps=1e-5,
                pad_token_id=bitext.PAD,
                bos_token_id=bitext.BOS,
                eos_token_id=bitext.EOS,
                hidden_dropout_prob=settings.dropout,
                attention_probs_dropout_prob=settings.dropout,
            )
        )

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        """Return the sum of the losses of the selected positions."""
        ids_BL, selected_BL = corrupt(batch["ids"], batch["side"], self.settings)
        labels_BL = torch.where(selected_BL, batch["ids"], IGNORE)
        mask_BL = (batch["example"] > 0).long()
        out = self.model(input_ids=ids_BL, attention_mask=mask_BL, labels=labels_BL)
        return out.loss * selected_BL.sum()


class Layer(nn.Module):
    """One post-norm layer with a fused qkv projection."""

    def __init__(self, settings: Settings) -> None:
        super().__init__()
        d = settings.hidden
        self.heads, self.rate = settings.heads, settings.dropout
        self.qkv, self.out = nn.Linear(d, 3 * d), nn.Linear(d, d)
        self.mlp_in, self.mlp_out = nn.Linear(d, settings.mlp), nn.Linear(settings.mlp, d)
        self.attention_norm, self.mlp_norm = nn.LayerNorm(d, eps=1e-5), nn.LayerNorm(d, eps=1e-5)

    def forward(self, h_BLD: Tensor, mask: Tensor | None) -> Tensor:
        """Attend where `mask` is True."""
        b, length, d = h_BLD.shape
        qkv = self.qkv(h_BLD).view(b, length, 3, self.heads, d // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        a = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=self.rate)
        a_BLD = self.out(a.transpose(1, 2).reshape(b, length, d))
        h_BLD = self.attention_norm(h_BLD + F.dropout(a_BLD, self.rate))
        m_BLD = self.mlp_out(F.gelu(self.mlp_in(h_BLD)))
        return self.mlp_norm(h_BLD + F.dropout(m_BLD, self.rate))


class Tuned(nn.Module):
    """The same architecture, with only the masked positions meeting the vocabulary."""

    def __init__(self, settings: Settings) -> None:
        super().__init__()
        self.settings, d = settings, settings.hidden
        self.words = nn.Embedding(settings.vocab, d)
        self.positions = nn.Embedding(settings.max_positions, d)
        self.types = nn.Parameter(torch.zeros(d))
        self.embedding_norm = nn.LayerNorm(d, eps=1e-5)
        self.layers = nn.ModuleList(Layer(settings) for _ in range(settings.layers))
        self.head_dense, self.head_norm = nn.Linear(d, d), nn.LayerNorm(d, eps=1e-5)
        self.head_bias = nn.Parameter(torch.zeros(settings.vocab))
        for parameter in self.parameters():
            if parameter.dim() > 1:
                nn.init.normal_(parameter, std=0.02)

    def hidden(self, ids_BL: Tensor, position_BL: Tensor, mask: Tensor) -> Tensor:
        """Return the last layer's states."""
        h = self.embedding_norm(self.words(ids_BL) + self.positions(position_BL + 2) + self.types)
        h = F.dropout(h, self.settings.dropout)
        for layer in self.layers:
            h = layer(h, mask)
        return h

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        """Return the sum of the losses of the selected positions."""
        ids_BL, selected_BL = corrupt(batch["ids"], batch["side"], self.settings)
        example = batch["example"]
        if "row" in batch:  # packed: attention inside each example
            mask = example[:, None, :, None] == example[:, None, None, :]
        else:
            mask = (example > 0)[:, None, None, :]
        h_BLD = self.hidden(ids_BL, batch["position"], mask)
        at = selected_BL.flatten().nonzero().squeeze(1)
        h_PD = h_BLD.flatten(0, 1).index_select(0, at)
        h_PD = self.head_norm(F.gelu(self.head_dense(h_PD)))
        logits_PV = F.linear(h_PD, self.words.weight, self.head_bias)
        return F.cross_entropy(
            logits_PV, batch["ids"].flatten().index_select(0, at), reduction="sum"
        )


def microbatches(
    step: bitext.Step, settings: Settings, form: str, micro: int
) -> list[dict[str, Tensor]]:
    """Lay a step out "packed", or padded to "128", to the "longest", or so after "sorted"."""
    if form == "packed":
        batches = [bitext.pack(step, settings.rows, settings.length)]
    else:
        pairs = sorted(step.pairs, key=lambda p: p.ids.size) if form == "sorted" else step.pairs
        length = settings.max_pair if form == "128" else None
        micro = micro or len(pairs)
        batches = [bitext.pad(pairs[i : i + micro], length) for i in range(0, len(pairs), micro)]
    return [{k: torch.from_numpy(v.copy()).long() for k, v in b.items()} for b in batches]


def main() -> None:
    """Warm up, time the steps, print them."""
    settings, extra = worker_settings()
    torch.manual_seed(settings.seed)
    torch.set_num_threads(settings.threads)
    model = (Stock if extra.model == "stock" else Tuned)(settings).train()
    optimizer = torch.optim.AdamW(
        model.parameters(),
        lr=1e-4,
        betas=(0.9, 0.98),
        eps=1e-6,
        weight_decay=0.01,
        fused=extra.model == "tuned" or None,
    )
    run_model = (
        torch.compile(model, dynamic=extra.form != "128" and extra.form != "packed")
        if extra.compile
        else model
    )
    steps = settings.steps_of_pairs()[: extra.steps or None]
    losses, watch = [], Stopwatch()

    def run(batches: list[dict[str, Tensor]]) -> None:
        expected = sum(int((b["side"] > 0).sum()) for b in batches) * settings.rate
        total = 0.0
        for batch in batches:
            loss = run_model(batch)
            (loss / expected).backward()
            total += loss.item()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(total / expected)

    laid_out = [microbatches(s, settings, extra.form, extra.micro) for s in steps]
    for batches in laid_out[:2]:  # warm up: a microbatch is enough for the slow ones
        run(batches[:1] if extra.model == "stock" else batches)
    for sentences, batches in zip(steps, laid_out, strict=True):
        watch.time(sentences.num_tokens, lambda batches=batches: run(batches))
    slots = sum(b["ids"].numel() for batches in laid_out for b in batches)
    watch.finish(loss=losses[-1], fill=sum(s.num_tokens for s in steps) / slots)


if __name__ == "__main__":
    main()
