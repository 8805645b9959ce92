"""Compare the search behind mining with faiss: the nearest both ways of two sets of vectors.

    python -m benchmarks.mining --rounds 1

100,000 x 100,000 random vectors of length 1, 768 wide; half of the targets are planted: a source
and noise. faiss is `IndexFlatIP` of faiss-cpu, exact too, built and searched once for each
direction, as LASER does. Both read the same files and get the same cores; ours compiles within its
time. Neighbours must be equal but for similarities that are equal to 1e-6.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path

import numpy as np

from benchmarks import race

OURS = "jalign"
TOLERANCE = 1e-6
NOISE = 4.0  # times the length of a source: a planted pair has cosine 0.24, others 0 +- 0.036


def write_vectors(folder: Path, num: int, dim: int) -> None:
    """Write both sides; target i of the first half is source i with noise, at a random row."""
    rng = np.random.default_rng(0)
    src = rng.standard_normal((num, dim), np.float32)
    src /= np.linalg.norm(src, axis=1, keepdims=True)
    trg = rng.standard_normal((num, dim), np.float32)
    trg /= np.linalg.norm(trg, axis=1, keepdims=True)
    trg[: num // 2] = trg[: num // 2] * NOISE + src[: num // 2]
    trg /= np.linalg.norm(trg, axis=1, keepdims=True)
    place = rng.permutation(num)
    np.save(folder / "src.npy", src)
    np.save(folder / "trg.npy", trg[np.argsort(place)])
    np.save(folder / "place.npy", place[: num // 2])


def ours(src_ND: np.ndarray, trg_MD: np.ndarray, num: int) -> list[np.ndarray]:
    """Search as `jalign mine` does."""
    from jalign.align.search import nearest_both

    to_trg, to_src = nearest_both(src_ND, trg_MD, num, cosine=False)
    return [*to_trg, *to_src]


def flat(src_ND: np.ndarray, trg_MD: np.ndarray, num: int) -> list[np.ndarray]:
    """Search with faiss, one direction after the other."""
    import faiss

    found = []
    for query, base in ((src_ND, trg_MD), (trg_MD, src_ND)):
        index = faiss.IndexFlatIP(base.shape[1])
        index.add(base)
        found += index.search(query, num)
        del index
    return found


PARTS = {OURS: ours, "faiss-cpu, IndexFlatIP": flat}


def run_part(name: str, folder: Path, num: int, threads: int) -> None:
    """Be one competitor: search once, leave the neighbours in the folder, print the time."""
    os.environ["OMP_NUM_THREADS"] = str(threads)  # faiss and its OpenBLAS
    if name == OURS:
        import jax  # noqa: F401, importing is not timed
    else:
        import faiss  # noqa: F401
    src, trg = (np.load(folder / f"{side}.npy", mmap_mode="r") for side in ("src", "trg"))
    watch, found = race.Stopwatch(), []
    watch.time(len(src) * len(trg), lambda: found.extend(PARTS[name](src, trg, num)))
    names = ("src_sim", "src_index", "trg_sim", "trg_index")
    np.savez(folder / f"{list(PARTS).index(name)}.npz", **dict(zip(names, found, strict=True)))
    watch.finish()


def compare(folder: Path) -> dict[str, float]:
    """Return how alike the neighbours are. Raises: SystemExit where they differ."""
    one, other = (dict(np.load(folder / f"{i}.npz")) for i in range(len(PARTS)))
    facts, vectors = {}, [np.load(folder / f"{s}.npy", mmap_mode="r") for s in ("src", "trg")]
    for side, (query, base) in zip(("src", "trg"), (vectors, vectors[::-1]), strict=True):
        gap = np.abs(one[f"{side}_sim"] - other[f"{side}_sim"]).max()
        same = one[f"{side}_index"] == other[f"{side}_index"]
        rows, ranks = np.nonzero(~same)  # look these pairs up: they must be as near as was said
        again = np.einsum("nd,nd->n", query[rows], base[one[f"{side}_index"][rows, ranks]])
        off = np.abs(again - other[f"{side}_sim"][rows, ranks]).max(initial=0.0)
        facts[f"{side}: largest difference of similarities"] = float(gap)
        facts[f"{side}: share of equal neighbours"] = float(same.mean())
        if max(gap, off) > TOLERANCE:
            raise SystemExit(f"the neighbours differ: {facts}, pairs {off:.2e}")
    place = np.load(folder / "place.npy")
    facts["planted pairs found"] = float((one["src_index"][: len(place), 0] == place).mean())
    return facts


def main() -> None:
    """Run the race and write its table and JSON; or be one competitor."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--sentences", type=int, default=100_000)
    parser.add_argument("--dim", type=int, default=768)
    parser.add_argument("--neighbours", type=int, default=4)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--name", default="mining", help="name of the JSON file")
    parser.add_argument("--part", choices=PARTS, help="be this one, with what the race gives")
    parser.add_argument("--folder", type=Path)
    args = parser.parse_args()
    if args.part:
        run_part(args.part, args.folder, args.neighbours, args.threads)
        return
    race.use_cores(args.threads)
    with tempfile.TemporaryDirectory() as path:
        write_vectors(Path(path), args.sentences, args.dim)
        shared = ("--folder", path, "--neighbours", str(args.neighbours))
        shared += ("--threads", str(args.threads))
        results = race.run_race(
            [race.Competitor(n, ("-m", "benchmarks.mining", "--part", n, *shared)) for n in PARTS],
            args.rounds,
        )
        if errors := {name: r["error"] for name, r in results.items() if "error" in r}:
            raise SystemExit(f"failed: {errors}")
        facts = compare(Path(path))
    settings = {k: v for k, v in vars(args).items() if k not in ("part", "folder", "name")}
    path = race.write_result(args.name, settings | facts, results)
    sys.stdout.write("".join(f"{name}: {value:.3g}\n" for name, value in facts.items()))
    sys.stdout.write("\n" + race.table(results, "pairs/s", OURS) + f"\n\nwritten to {path}\n")


if __name__ == "__main__":
    main()
