"""Write the model card of an exported model: README.md with the front matter that hubs read.

In: model.json of a run and its results. Out: languages, licence, data, objectives and scores, each
taken from the run, none invented.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

BODY = """
# {name}

{what} of {params:.1f} M parameters, trained with jalign (JAX and Flax), step {step}.

- **Languages**: {languages}
- **Training data**: {data}
- **Objectives**: {objectives}
- **Starting point**: {base}
- **Licence**: {license}
- **Conversion**: {difference}

## Use

```python
import jalign  # Flax

model = jalign.load("{folder}")
vectors = model.embed(["A sentence.", "Ein Satz."])
```

```python
from transformers import {auto}, AutoTokenizer  # PyTorch

tokenizer = AutoTokenizer.from_pretrained("{folder}")
model = {auto}.from_pretrained("{folder}")
```
{results}"""


def write_card(
    path: Path,
    described: Mapping[str, Any],
    results: Sequence[Mapping[str, Any]],
    *,
    name: str,
    license_id: str,
    step: int,
    num_params: int,
    difference: str,
) -> None:
    """Write `path/README.md`; `described` is the content of model.json, `results` lines of
    results.jsonl.

    Raises: ValueError where the front matter does not come out as it should.
    """
    languages = list(described.get("languages", []))
    has_head = described["encoder"].get("head", True)
    front = _front_matter(name, license_id, languages, described, results, has_head)
    body = BODY.format(
        name=name,
        what=f"A multilingual text encoder ({described['model_type']})",
        params=num_params / 1e6,
        step=step,
        languages=", ".join(languages) or "not recorded",
        data=_data(described.get("data", {})),
        objectives=", ".join(
            f"{kind} (weight {entries.get('weight', 1.0)})"
            for kind, entries in described.get("objectives", {}).items()
        )
        or "not recorded",
        base=described.get("init") or "random parameters",
        license=license_id,
        difference=difference,
        folder=path.name,
        auto=described.get("auto") or ("AutoModelForMaskedLM" if has_head else "AutoModel"),
        results=_table(results),
    )
    (path / "README.md").write_text(f"---\n{front}\n---\n{body}", encoding="utf-8")


def _front_matter(name, license_id, languages, described, results, has_head) -> str:
    from huggingface_hub import EvalResult, ModelCardData

    scores = [
        EvalResult(
            task_type=r["task"],
            dataset_type=r["task"],
            dataset_name=f"{r['task']} {r['lang']}",
            metric_type=r["metric"],
            metric_value=r["value"],
        )
        for r in results
    ]
    kinds = sorted(described.get("objectives", {}))
    return ModelCardData(
        model_name=name,
        language=languages or None,
        license=license_id,
        library_name="transformers",
        pipeline_tag=described.get("pipeline")
        or ("fill-mask" if has_head else "feature-extraction"),
        tags=["jalign", "multilingual", *kinds],
        eval_results=scores or None,
    ).to_yaml()


def _data(data: Mapping[str, Any]) -> str:
    sources = data.get("sources", [])
    shown = [
        f"{s['name']} ({s['count']:,} {'pairs' if len(s['langs']) > 1 else 'texts'})"
        for s in sources[:50]
    ]
    more = len(sources) - len(shown)
    return "; ".join(shown + [f"and {more} more"] * (more > 0)) or "not recorded"


def _table(results: Sequence[Mapping[str, Any]]) -> str:
    if not results:
        return ""
    rows = [
        f"| {r['task']} | {r['lang']} | {r['metric']} | {r['value']:.4f} | {r['n']:,} |"
        for r in results
    ]
    head = "| task | language | metric | value | examples |\n| --- | --- | --- | ---: | ---: |"
    return "\n## Results on held-out data\n\n" + "\n".join([head, *rows]) + "\n"
