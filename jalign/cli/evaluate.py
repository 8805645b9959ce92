"""Score an encoder: word alignment, tagging, classification, QA, retrieval, mining, distances.

In: `--model`, and by task (`jalign evaluate --task=NAME --help` shows all flags of one):

  word alignment                          --gold=NAME,BITEXT,LINKS
  --task=tagging, classification, qa      --files=LANG=FILE, --predictions=DIR
  --task=retrieval                        --files=SRC-TRG=FILE,FILE
  --task=bucc                             --files=SRC-TRG=FILE,FILE,GOLD, --dev as --files
  --task=distances                        --gold=SRC-TRG,BITEXT,LINKS, --histograms=FILE
  --task=embedding_alignment              --dictionary=FILE

This file is word alignment, the default: AER, precision, recall, F1 by layer and method. `--gold`,
once per set, is NAME,BITEXT,LINKS[,base=1], or NAME,SOURCE,TARGET,LINKS, or NAME,THREE_COLUMNS (see
jalign/evals/_gold.py). Out: tables on standard output, and with `--output` a JSON line per score.
`--save-best` stores the best layer and method in the model folder, where `jalign align` takes them
from.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from absl import flags

from jalign.cli import _evaluate_distances, _evaluate_embeddings, _evaluate_tasks
from jalign.cli._evaluate import asked_task, parse_checked, say, write_lines
from jalign.cli.align import METHODS, define_options, read_step
from jalign.errors import ConfigError, UserError

# the tasks that have a file of their own, each with its `main(argv)`
OTHERS = dict.fromkeys(_evaluate_tasks.TASKS, _evaluate_tasks)
OTHERS |= {module.TASK: module for module in (_evaluate_distances, _evaluate_embeddings)}
TASKS = ("word_alignment", *OTHERS)
USUAL = ("argmax", "itermax", "softmax", "entmax", "ot")
SHOWN = ("precision", "recall", "f1", "aer")
HEADS = {"precision": "precision", "recall": "recall", "f1": "F1", "aer": "AER"}


def _parse(argv: list[str]) -> flags.FlagValues:
    fv = flags.FlagValues()
    define_options(fv)
    flags.DEFINE_enum("task", TASKS[0], TASKS, "what to evaluate", flag_values=fv)
    flags.DEFINE_multi_string("gold", [], "a gold set; once per set", flag_values=fv)
    flags.DEFINE_list("methods", list(USUAL), f"some of {', '.join(METHODS)}", flag_values=fv)
    flags.DEFINE_list(
        "layers", [], "0 the embeddings, k after layer k (2/3 of them)", flag_values=fv
    )
    flags.DEFINE_bool("all_layers", False, "every layer", flag_values=fv)
    flags.DEFINE_bool("save_best", False, "store the lowest AER's layer and method with the model",
                      flag_values=fv)  # fmt: skip
    flags.DEFINE_string("output", None, "results.jsonl to write", flag_values=fv)
    needed = {"model": "--model=DIR", "gold": "--gold=NAME,BITEXT,LINKS, once per set"}
    parse_checked(fv, argv, needed, about=__doc__)
    if fv.all_layers and fv.layers:
        raise ConfigError("type --all-layers or --layers=K,K, not both")
    if not all(re.fullmatch("-?[0-9]+", layer) for layer in fv.layers):
        raise ConfigError(f"--layers={','.join(fv.layers)}: need numbers, such as --layers=7,8")
    if not fv.methods:
        raise ConfigError("--methods is empty: type --methods=itermax,softmax")
    return fv


def _rules(fv: flags.FlagValues) -> list[Any]:
    """Make the rules of --methods; a threshold goes to those that have one."""
    from jalign.align.methods import PRESETS, Rule

    methods = list(dict.fromkeys(fv.methods))
    if unknown := [m for m in methods if m not in PRESETS]:
        raise ConfigError(f"--methods: {', '.join(unknown)}; need some of {', '.join(METHODS)}")
    sharp = [m for m in methods if PRESETS[m].threshold is not None]
    if fv.threshold is not None and not sharp:
        raise ConfigError(f"--threshold={fv.threshold:g}: none of --methods has one")
    chosen = dict(similarity=fv.similarity or "", level=fv.level or "piece")
    return [Rule(m, **chosen, threshold=fv.threshold if m in sharp else None) for m in methods]


def main(argv: list[str]) -> int:
    """Run the command; return its exit code."""
    task = asked_task(argv)
    if task in OTHERS:
        return OTHERS[task].main(argv)
    fv = _parse(argv)
    step = read_step(fv)
    # Heavy imports wait until the arguments are known to be good.
    from jalign.evals._averages import average
    from jalign.evals._gold import read_gold_sets, results, task_name
    from jalign.inference.align import default_layer, write_stored
    from jalign.inference.model import load

    rules = _rules(fv)
    sets = read_gold_sets(fv.gold)
    model = load(fv.model, dtype=fv.dtype, step=step)
    layers = _layers(fv, model.cfg.layers, default_layer(model.cfg.layers))
    layout = {rule: fv.layout or rule.layout for rule in rules}
    scores, facts = [], {}
    for gold in sets:
        for (layer, rule), counts in _count(model, gold, layout, layers).items():
            task = task_name(rule.method, layer)
            facts[task] = layer, rule
            scores += results(task, gold.name, counts, len(gold.gold))
    mean = list(average(scores))
    for gold in sets:
        sys.stdout.write(f"\n{gold.name}: {gold.described()}\n\n")
        sys.stdout.write(_tables([r for r in scores if r.lang == gold.name], facts))
    if len(sets) > 1:
        sys.stdout.write(f"\navg: mean of {', '.join(s.name for s in sets)}\n\n")
        sys.stdout.write(_tables(mean, facts))
    best = min((r for r in mean if r.metric == "aer"), key=lambda r: r.value)
    layer, rule = facts[best.task]
    sys.stdout.write(f"\nlowest AER: {rule.method} at layer {layer}, {100 * best.value:.2f}\n")
    write_lines(fv, _lines([*scores, *mean], facts, layout, model.step))
    if fv.save_best:
        notes = {"aer": best.value, "chosen_on": [s.name for s in sets], "step": model.step}
        try:
            path = write_stored(model.path, layer, rule, layout[rule], **notes)
        except OSError as error:
            raise UserError(
                f"cannot write into {model.path}: {error.strerror}; type --method={rule.method} "
                f"--layer={layer} with jalign align instead"
            ) from error
        sys.stdout.write(f"stored in {path}\n")
    return 0


def _layers(fv: flags.FlagValues, layers: int, default: int) -> tuple[int, ...]:
    if fv.all_layers:
        return tuple(range(layers + 1))
    given = [int(layer) for layer in fv.layers] or [default]
    for layer in given:
        if not -1 <= layer <= layers:
            raise ConfigError(f"--layers: {layer}; this encoder has {layers}, need -1 to {layers}")
    return tuple(sorted({layers if layer == -1 else layer for layer in given}))


def _count(model: Any, gold: Any, layout: Mapping, layers: tuple[int, ...]) -> dict:
    """Count the links of every layer and rule on one gold set."""
    from jalign.inference.align import Aligner, PairCounts, Setting
    from jalign.metrics.aer import LinkCounts

    totals: dict = {}
    for kind in dict.fromkeys(layout.values()):
        rules = tuple(rule for rule in layout if layout[rule] == kind)
        seen, counts = 0, PairCounts()
        for window in Aligner(model, Setting(rules, layers, kind)).stream(gold.pairs, counts):
            for key, links in window.links.items():
                found = [map(tuple, pair.pairs_A2.tolist()) for pair in links.split()]
                totals[key] = totals.get(key, LinkCounts()) + gold.counts(found, seen)
            seen = counts.pairs
        if counts.long:
            say(f"{gold.name}, {kind}: {counts.long} pairs longer than the encoder, in windows")
    return totals


def _tables(scores: Sequence[Any], facts: Mapping[str, tuple]) -> str:
    """Write AER by layer and method, and every method's best layer in full; per cent."""
    value = {(*facts[r.task], r.metric): 100 * r.value for r in scores}
    layers = sorted({layer for layer, _, _ in value})
    rules = list(dict.fromkeys(rule for _, rule, _ in value))
    text, wide = "", max(12, *(len(rule.method) + 2 for rule in rules))
    if len(layers) > 1:
        text += "AER".ljust(10) + "".join(rule.method.rjust(wide) for rule in rules) + "\n"
        for layer in layers:
            cells = (f"{value[layer, rule, 'aer']:{wide}.2f}" for rule in rules)
            text += f"layer {layer}".ljust(10) + "".join(cells) + "\n"
        text += "\n"
    text += "".ljust(wide) + "layer".rjust(7) + "".join(HEADS[m].rjust(11) for m in SHOWN) + "\n"
    for rule in rules:
        layer = min(layers, key=lambda k: value[k, rule, "aer"])
        cells = (f"{value[layer, rule, m]:11.2f}" for m in SHOWN)
        text += rule.method.ljust(wide) + f"{layer:7}" + "".join(cells) + "\n"
    return text


def _lines(
    scores: Sequence[Any], facts: Mapping[str, tuple], layout: Mapping, step: int
) -> Iterator[dict[str, Any]]:
    """Yield the record of each score, with what was asked for it."""
    for result in scores:
        layer, rule = facts[result.task]
        about = {"step": step, "layer": layer, "layout": layout[rule]}
        about |= {n: getattr(rule, n) for n in ("method", "similarity", "level", "threshold")}
        yield {**result._asdict(), **about}
