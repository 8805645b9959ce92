"""The means over sets or languages that close a table of results."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Iterator, Sequence

from jalign.types import Result


def average(
    every: Sequence[Result], count: Callable[[Iterable[int]], int] = sum
) -> Iterator[Result]:
    """Yield the mean of each task and metric under the name `avg`; `count` joins the numbers of
    examples: their sum, or `min` where every set has its own candidates.
    """
    groups: dict[tuple[str, str], list[Result]] = {}
    for result in every:
        groups.setdefault((result.task, result.metric), []).append(result)
    for (task, metric), some in groups.items():
        value = statistics.fmean(r.value for r in some)
        yield Result(task, "avg", metric, value, count(r.n for r in some))
