"""Alignment mathematics of one pair, loop by loop, in float64: matrices without any padding."""

from __future__ import annotations

import numpy as np


def first_best(row):
    """Return the index of the first maximum."""
    best = 0
    for k in range(1, len(row)):
        if row[k] > row[best]:
            best = k
    return best


def forward(sim):
    links = np.zeros(sim.shape, bool)
    for i in range(len(sim)):
        links[i, first_best(sim[i])] = True
    return links


def reverse(sim):
    return forward(sim.T).T


def mutual(sim):
    return forward(sim) & reverse(sim)


def plan_links(pi, xi):
    return forward(pi) & reverse(xi)


def itermax(sim, count=2, alpha=0.9, rule="code"):
    m, n = sim.shape
    links = mutual(sim)
    if min(m, n) <= 2:
        return links
    for _ in range(count - 1):
        rows = [i for i in range(m) if links[i].any()]
        cols = [j for j in range(n) if links[:, j].any()]
        if len(rows) == m or len(cols) == n:
            break
        left, closed = sim.astype(np.float64).copy(), np.zeros(sim.shape, bool)
        for i in range(m):
            for j in range(n):
                closed[i, j] = (i in rows and j in cols) if rule == "code" else links[i, j]
                if closed[i, j]:
                    left[i, j] = 0.0
                elif i in rows or j in cols:
                    left[i, j] *= alpha
        links = links | (mutual(left) & ~closed)
    return links


def sinkhorn(sim, num_iters=2, order="code", floor=1e-6):
    pi = np.where(sim > 0, sim, floor).astype(np.float64)
    xi = pi
    for _ in range(num_iters):
        if order == "code":
            xi = pi / pi.sum(0, keepdims=True)
            pi = xi / xi.sum(1, keepdims=True)
        else:
            pi = xi / xi.sum(1, keepdims=True)
            xi = pi / pi.sum(0, keepdims=True)
    return pi, xi


def softmax(x, axis):
    exp = np.exp(x - x.max(axis, keepdims=True))
    return exp / exp.sum(axis, keepdims=True)


def softmax_links(sim, threshold):
    return (softmax(sim, 1) > threshold) & (softmax(sim, 0) > threshold)


def softmax_scores(sim):
    m, n = sim.shape
    a, b = softmax(sim / np.sqrt(n), 1), softmax(sim / np.sqrt(m), 0)
    return 2 * a * b / (a + b + 1e-9)


def distort(sim, ratio):
    m, n = sim.shape
    out = sim.astype(np.float64).copy()
    if m > 1 and n > 1:
        for i in range(m):
            for j in range(n):
                out[i, j] *= 1 - ratio * (i / (m - 1) - j / (n - 1)) ** 2
    return out


def last_links(links):
    """Return the labels as XLM-Align's criterion writes them: later pairs overwrite."""
    src, trg = np.full(links.shape[0], -1), np.full(links.shape[1], -1)
    for i in range(links.shape[0]):
        for j in range(links.shape[1]):
            if links[i, j]:
                src[i], trg[j] = j, i
    return src, trg


def tied(sim):
    """Tell which rows and which columns have several maxima."""
    rows = np.array([(row == row.max()).sum() > 1 for row in sim])
    return rows, np.array([(col == col.max()).sum() > 1 for col in sim.T])


def entropic_cost(cost, mu, num_iters=20000):
    """Return min <P, cost> + mu KL(P | uniform) of a converged plan."""
    m, n = cost.shape
    f, g = np.zeros(m), np.zeros(n)
    for _ in range(num_iters):
        f = mu * (-np.log(m) - _log_sum((g[None] - cost) / mu, 1))
        g = mu * (-np.log(n) - _log_sum((f[:, None] - cost) / mu, 0))
    plan = np.exp((f[:, None] + g[None] - cost) / mu)
    return (plan * cost).sum() + mu * (plan * np.log(plan * m * n)).sum()


def _log_sum(x, axis):
    top = x.max(axis)
    return top + np.log(np.exp(x - np.expand_dims(top, axis)).sum(axis))


def grow_diag(forward_links, reverse_links, rule, neighbours, final=None):
    """Scan the whole rectangle until a scan adds nothing, then add `final` links."""
    chosen, union = forward_links & reverse_links, forward_links | reverse_links
    height = max((i for i, _ in union), default=-1) + 1
    width = max((j for _, j in union), default=-1) + 1

    def free(link, rule):
        row_free = link[0] not in {i for i, _ in chosen}
        col_free = link[1] not in {j for _, j in chosen}
        return (row_free and col_free) if rule == "and" else (row_free or col_free)

    added = True
    while added:
        added = False
        for i in range(height):
            for j in range(width):
                if (i, j) not in chosen:
                    continue
                for down, right in neighbours:
                    link = i + down, j + right
                    if link in union and link not in chosen and free(link, rule):
                        chosen = chosen | {link}
                        added = True
    for direction in (forward_links, reverse_links) if final else ():
        for link in sorted(direction):
            if link not in chosen and free(link, final):
                chosen = chosen | {link}
    return chosen


def word_links(links, src_word, trg_word, score=None):
    """Return {(source word, target word): best score of the aligned pieces}."""
    found = {}
    for i, src in enumerate(src_word):
        for j, trg in enumerate(trg_word):
            if links[i, j]:
                value = 0.0 if score is None else score[i, j]
                found[src, trg] = max(found.get((src, trg), -np.inf), value)
    return found
