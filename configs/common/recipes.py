"""Pieces that configs share, as plain functions: encoder shapes, optimiser recipes, streams,
evaluations.
"""

from __future__ import annotations

from pathlib import Path

from ml_collections import ConfigDict


def is_small(arg: str, path: str) -> bool:
    """Tell whether the config at `path` was asked for as `:small`. Raises: ValueError for another
    argument.
    """
    if arg not in ("", "small"):
        raise ValueError(f"configs/{Path(path).name} takes no argument or :small; got {arg!r}")
    return arg == "small"


def xlmr_base() -> dict:
    """Shape of XLM-R base (Conneau et al. 2020, table 1): 270 M parameters with its 250,002
    words.
    """
    return dict(
        family="bert",
        vocab_size=0,
        hidden=768,
        layers=12,
        heads=12,
        mlp=3072,
        max_positions=514,
        first_position=2,
        type_vocab_size=1,
        layer_norm_eps=1e-5,
        dropout=0.1,
        attention_dropout=0.1,
        dtype="bfloat16",
        attention="auto",
        remat=False,
        unroll=1,
    )


def mbert_base() -> dict:
    """Shape of multilingual BERT base, cased: XLM-R's but for 119,547 words, positions from 0, two
    token types (Devlin et al. 2019 and its released config).
    """
    changes = dict(max_positions=512, first_position=0, type_vocab_size=2, layer_norm_eps=1e-12)
    return xlmr_base() | changes


def mmbert_base() -> dict:
    """Shape of mmBERT base as released (Marone et al. 2025): 307 M parameters with its 256,000
    words.
    """
    return dict(
        family="modernbert",
        vocab_size=0,
        hidden=768,
        layers=22,
        heads=12,
        mlp=1152,
        max_positions=8192,
        global_every=3,
        local_attention=128,
        global_theta=160_000.0,
        local_theta=160_000.0,
        layer_norm_eps=1e-5,
        **choices(),
    )


def choices(**changes) -> dict:
    """Entries of the encoder that a run chooses; all others come from `init` where it has one."""
    entries = dict(
        dropout=0.0,
        attention_dropout=0.0,
        dtype="bfloat16",
        attention="auto",
        remat=False,
        unroll=1,
    )
    return entries | changes


def small(hidden: int = 256, layers: int = 4, *, base: dict | None = None, **changes) -> dict:
    """Shape for two CPU cores, XLM-R's or that of `base`: float32 (bf16 is slower there), no
    dropout, layers unrolled.
    """
    base = base or xlmr_base()
    shape = base | dict(
        hidden=hidden,
        layers=layers,
        heads=hidden // 64,
        mlp=hidden * base["mlp"] // base["hidden"],
        dropout=0.0,
        attention_dropout=0.0,
        dtype="float32",
        unroll=0,
    )
    return shape | changes


def mono(rows: int, row_length: int, **changes) -> dict:
    """Stream of single texts: monolingual data, and each side of the pairs."""
    return dict(layout="single", alpha=0.3, pair_sides=True) | _stream(rows, row_length) | changes


def pair(rows: int, row_length: int, **changes) -> dict:
    """Stream of joint pairs `<s> src </s> trg </s>`."""
    return dict(layout="joint", alpha=0.7, pair_sides=False) | _stream(rows, row_length) | changes


def separate(rows: int, row_length: int, **changes) -> dict:
    """Stream of pairs whose sides do not see each other: `<s> src </s>` `<s> trg </s>`."""
    return pair(rows, row_length) | dict(layout="separate") | changes


def thesaurus(files: tuple = (), **changes) -> dict:
    """Word links of bilingual dictionaries, SRC-TRG=PATH each, for a stream of pairs."""
    entries = dict(files=tuple(files), lemmas=(), skip_frequent=100, max_links=32, identical=False)
    return dict(thesaurus=entries | changes)


def adjust(align: float, drift: float, **changes) -> dict:
    """Objective `adjust` as Efimov et al. 2022 released it, with a lexicon's links."""
    entries = dict(
        weight=dict(align=align, drift=drift),
        distance="l2",
        reduction="mse",
        pool="mean",
        min_weight=0.5,
        one_to_one=True,
        skip_identical=True,
        frame=True,
        max_words=64,
        drift="states",
        drift_side="en",
        frozen="",
    )
    return entries | changes


def sentences(tau: float, **changes) -> dict:
    """Contrast of sentences: `labse`, and of `dap` the ranking; in both directions."""
    entries = dict(
        stream="separate",
        similarity="cosine",
        pool="cls",
        tau=tau,
        learn_tau=False,
        margin=0.0,
        candidates="opposite",
        directions="both",
        reduction="mean",
        mask_duplicates=False,
        max_pairs=0,
    )
    return entries | changes


def beside_mlm_and_tlm(**objectives) -> dict:
    """Quickstart's entries, with objectives on separate pairs (stream `separate`) beside MLM and
    TLM.
    """
    return dict(
        data="data/quickstart",
        init="",
        steps=1500,
        encoder=small(hidden=128, layers=2, heads=4, init_std=0.04),
        streams=dict(
            mono=mono(rows=2, row_length=128, alpha=0.7),
            pair=pair(rows=16, row_length=128, alpha=0.7, swap=True),
            separate=separate(rows=16, row_length=128, max_unit=64),
        ),
        objectives=dict(mlm=dict(weight=0.2, rate=0.3), tlm=dict(weight=1.0, rate=0.3))
        | objectives,
        optimizer=adamw(lr=5e-3, warmup_steps=100),
        count_rows=512,
        checkpoint_every=500,
        evaluate=heldout_and_retrieval(every=500, few=True),
    )


def _stream(rows: int, row_length: int) -> dict:
    """Return what all streams share; every entry stands here, so that flags can change it."""
    size = dict(rows=rows, row_length=row_length, max_unit=0)
    return size | dict(sources=(), swap=False, lexicons="", links="")


def task(layout: str, rows: int, row_length: int, max_unit: int = 0, **data) -> dict:
    """Stream of labelled files: `single` rows of sentences, `joint` ones of pairs; `data` are its
    format, files (LANG=PATH each), labels and what else the format takes.
    """
    entries = dict(format="", files=(), labels=(), stride=0, limit=0, skip=0, options={}) | data
    stream = dict(layout=layout, alpha=1.0, pair_sides=False) | _stream(rows, row_length)
    return stream | dict(max_unit=max_unit, task=entries)


def scores(objective: str, sets: tuple, name: str, **changes) -> dict:
    """Evaluation of an objective on labelled files of several languages, LANG=PATH each."""
    entries = dict(sets=sets, objective=objective, name=name, rows=16, skip=0, limit=0)
    return entries | dict(format="", predictions="") | changes


def adamw(lr: float, warmup_steps: int, **changes) -> dict:
    """AdamW as fairseq trains XLM-R: betas (0.9, 0.98), eps 1e-6, decay 0.01 but not on biases and
    norms, nor on a learned temperature.
    """
    return (
        dict(
            lr=lr,
            schedule="linear",
            warmup_steps=warmup_steps,
            warmup_share=0.0,
            end_lr=0.0,
            b1=0.9,
            b2=0.98,
            eps=1e-6,
            clip_norm=1.0,
            decay=((r"bias$|norm/scale$|log_scale$", 0.0), (r".*", 0.01)),
            lr_scale=(),
        )
        | changes
    )


def finetuning_adamw(lr: float, warmup_steps: int = 0, **changes) -> dict:
    """AdamW as transformers has it, with XTREME's settings: no warm-up, no weight decay, linear to
    0, gradients clipped at 1.
    """
    usual = dict(b1=0.9, b2=0.999, eps=1e-8, decay=((r".*", 0.0),))
    return adamw(lr, warmup_steps, **(usual | changes))


def finetune(small: bool, **entries) -> ConfigDict:
    """Make a config that fine-tunes XLM-R base with dropout and without its masked-LM head; with
    `small` the encoder of launch/quickstart.sh, in float32.
    """
    encoder = choices(head=False, dropout=0.1, attention_dropout=0.1)
    if small:
        encoder |= dict(attention_dropout=0.0, dtype="float32", unroll=0)
    init = "runs/quickstart" if small else "models/xlm-roberta-base"
    usual = dict(init=init, encoder=encoder, log_every=100, checkpoint_every=500, keep=1)
    return run(**(usual | entries))


def heldout_and_retrieval(every: int, few: bool = False) -> dict:
    """Held-out loss and masked accuracy, and retrieval of translations; the best average is kept.
    `few`: among 200 candidates, and before the first step too.
    """
    retrieval = dict(candidates=200, rows=16, row_length=128) if few else {}
    return dict(
        every=every,
        at_start=few,
        best="retrieval/accuracy/avg",
        tasks=dict(heldout=dict(), retrieval=dict(candidates=1000, rows=8) | retrieval),
    )


def best_on_dev(metric: str, every: int, **tasks) -> dict:
    """Scores of the development sets called `dev`; the model that is best in English is kept."""
    return dict(every=every, at_start=False, best=f"dev/{metric}/en", tasks=tasks)


def section(entries: dict) -> ConfigDict:
    """Make a section to add to a config."""
    return ConfigDict(entries, convert_dict=True)


def run(**entries) -> ConfigDict:
    """Make a config with the defaults that a run may want to change on the command line."""
    defaults = dict(
        data="",
        steps=0,
        epochs=0.0,
        seed=0,
        init="",
        norm="per_loss_mean",
        accumulate=1,
        log_every=50,
        checkpoint_every=1000,
        keep=3,
        mesh=dict(data=-1, fsdp=1, tensor=1, dcn=1),
        test={},
        divergence=dict(factor=1.5, window=50, rollbacks=0),
        hang_s=1800.0,
    )
    if "evaluate" in entries:
        entries["evaluate"] = dict(patience=0) | entries["evaluate"]
    return ConfigDict(defaults | entries, convert_dict=True)
