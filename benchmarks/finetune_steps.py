"""Fine-tune for benchmarks/finetune.py: the competitors, each in its own process."""

from __future__ import annotations

import dataclasses
import tempfile
from pathlib import Path

from benchmarks import race
from benchmarks.finetune import WARM, Settings, encode_for_trainer
from benchmarks.loader import read_run_config


def run_ours(folder: Path, settings: Settings, seed: int) -> None:
    """Fine-tune as `jalign finetune` does."""
    import flax.linen as nn
    import jax
    from safetensors.numpy import load_file

    from jalign.data.pipeline import load_batches, num_units, real_tokens, total_slots
    from jalign.train import mesh as mesh_lib
    from jalign.train.run import make_run

    run = make_run(our_config(folder, settings, seed))
    with jax.set_mesh(run.mesh), nn.logical_axis_rules(mesh_lib.RULES):
        state = run.init_state()
        tensors = load_file(folder / "model.safetensors")
        head = {"kernel": tensors["classifier.weight"].T, "bias": tensors["classifier.bias"]}
        like = state.params["tag"]["out"]
        head = {name: jax.device_put(x, like[name].sharding) for name, x in head.items()}
        state = state.replace(params=state.params | {"tag": {"out": head}})
        scores = {"before": our_dev(run, folder, state.params)}
        key = jax.random.key(seed)
        step = run.step.lower(state, run.put(run.source[0]), key).compile()
        batches, watch, curve = load_batches(run.source, 0), race.Stopwatch(), []
        tokens = slots = 0

        for number in range(run.cfg.steps):
            watch.begin()
            batch = next(batches)
            state, out = step(state, run.put(batch), key)
            loss = float(out.loss)  # waits for the step
            watch.end(num_units(batch))
            curve.append((num_units(batch), loss))
            tokens, slots = tokens + real_tokens(batch), slots + total_slots(batch)
            if number < WARM:
                watch.steps.clear()
        scores["after"] = our_dev(run, folder, state.params)
    watch.finish(fill=tokens / slots, curve=curve, dev=scores)


def our_config(folder: Path, settings: Settings, seed: int):
    """Read configs/finetune_pos.py with the files and numbers of this comparison."""
    cfg = read_run_config("configs/finetune_pos.py", "")
    task = dataclasses.replace(cfg.streams["task"].task, files=(f"en={folder}/train.conllu",))
    stream = dataclasses.replace(cfg.streams["task"], rows=settings.rows, task=task)
    encoder = dict(cfg.encoder) | {"dtype": "float32", "unroll": 0}
    encoder |= {"dropout": settings.dropout, "attention_dropout": settings.dropout}
    return dataclasses.replace(
        cfg,
        init=str(folder),
        seed=seed,
        epochs=1.0,
        encoder=encoder,
        streams={"task": stream},
        objectives={"tag": dict(weight=1.0, dropout=settings.dropout)},
        optimizer=dataclasses.replace(cfg.optimizer, lr=settings.lr),
        evaluate=dataclasses.replace(cfg.evaluate, every=0, best="", tasks={}),
        test={},
    )


def our_dev(run, folder: Path, params) -> dict[str, float]:
    """Return loss and accuracy on the development sentences, without dropout."""
    import jax

    from jalign.data.rows import Layout
    from jalign.data.tasks.rows import make_task_rows

    shape, objective = run.cfg.streams["task"], run.objectives["tag"]
    task = dataclasses.replace(shape.task, files=(f"en={folder}/dev.conllu",))
    layout = Layout(shape.layout, shape.row_length, shape.max_unit or shape.row_length)
    languages, special = run.manifest.languages, run.setting.specials
    rows = make_task_rows(task, run.setting.tokenizer, languages, layout, special, once=True)
    loss = jax.jit(lambda p, b: objective.loss(p, {}, {"task": b}, None))
    total = count = right = 0.0
    for first in range(0, rows.packed.num_rows, 16):
        found = loss(params, run.setting.put(rows.rows(first, 16), 16))
        total, count = total + float(found.total), count + float(found.count)
        right += float(found.metrics["accuracy"].total)
    return {"loss": total / count, "accuracy": right / count, "words": count}


def run_trainer(folder: Path, settings: Settings, seed: int, batch: int, *, grouped: bool) -> None:
    """Fine-tune as transformers' examples do."""
    import torch
    from transformers import (
        AutoModelForTokenClassification,
        AutoTokenizer,
        DataCollatorForTokenClassification,
        Trainer,
        TrainerCallback,
        TrainingArguments,
    )

    from jalign.data.tasks import conllu

    torch.set_num_threads(settings.threads)
    train, dev = (
        encode_for_trainer(folder, list(conllu.read(folder / f"{name}.conllu")))
        for name in ("train", "dev")
    )
    model = AutoModelForTokenClassification.from_pretrained(str(folder))
    pad = DataCollatorForTokenClassification(AutoTokenizer.from_pretrained(str(folder)))
    watch, sizes, filled = race.Stopwatch(), [], []

    def collate(examples: list[dict]) -> dict:
        made = pad(examples)
        sizes.append(len(examples))
        filled.append((int(made["attention_mask"].sum()), made["attention_mask"].numel()))
        return made

    class Clock(TrainerCallback):
        def on_train_begin(self, *args, **kwargs) -> None:
            watch.begin()

        def on_step_end(self, args, state, control, **kwargs) -> None:
            watch.end(sizes[state.global_step - 1])
            if state.global_step <= WARM:
                watch.steps.clear()
            watch.begin()

    with tempfile.TemporaryDirectory() as output:
        arguments = TrainingArguments(
            output_dir=output,
            per_device_train_batch_size=batch,
            num_train_epochs=1,
            learning_rate=settings.lr,
            lr_scheduler_type="linear",
            weight_decay=0.0,
            max_grad_norm=1.0,
            train_sampling_strategy="group_by_length" if grouped else "random",
            seed=seed,
            use_cpu=True,
            save_strategy="no",
            logging_steps=1,
            report_to="none",
            disable_tqdm=True,
        )
        trainer = Trainer(
            model=model,
            args=arguments,
            train_dataset=train,
            data_collator=collate,
            callbacks=[Clock()],
        )
        scores = {"before": their_dev(model, dev, pad)}
        trainer.train()
        scores["after"] = their_dev(model, dev, pad)
    losses = [float(x["loss"]) for x in trainer.state.log_history if "loss" in x]
    curve = list(zip(sizes, losses, strict=True))
    real, slots = (sum(x) for x in zip(*filled, strict=True))
    watch.finish(fill=real / slots, curve=curve, dev=scores, batch=batch)


def their_dev(model, examples: list[dict], pad) -> dict[str, float]:
    """Return loss and accuracy on the development sentences, without dropout."""
    import torch

    model.eval()
    total = count = right = 0.0
    for first in range(0, len(examples), 32):
        batch = pad(examples[first : first + 32])
        with torch.inference_mode():
            logits = model(batch["input_ids"], attention_mask=batch["attention_mask"]).logits
        keep = batch["labels"] >= 0
        gold = batch["labels"][keep]
        total += float(torch.nn.functional.cross_entropy(logits[keep], gold, reduction="sum"))
        right += float((logits[keep].argmax(1) == gold).sum())
        count += int(keep.sum())
    model.train()
    return {"loss": total / count, "accuracy": right / count, "words": count}
