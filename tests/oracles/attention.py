"""Attention inside units, with or without a window, and its gradient, slot by slot, in float64."""

from __future__ import annotations

import numpy as np


def packed_attention(q_BLHK, k_BLHK, v_BLHK, unit_BL, g_BLHK, window=None, may_BLL=None):
    """Return the output, and the gradients of sum(g * output) for q, k and v; `may_BLL` says which
    slot may see which at all.
    """
    q, k, v, g = (np.asarray(x, np.float64) for x in (q_BLHK, k_BLHK, v_BLHK, g_BLHK))
    out, dq, dk, dv = (np.zeros_like(q) for _ in range(4))
    rows, length, heads, size = q.shape
    for b in range(rows):
        for h in range(heads):
            for i in range(length):
                seen = [j for j in range(length) if unit_BL[b, j] == unit_BL[b, i]]
                if window is not None:
                    seen = [j for j in seen if abs(i - j) <= window]
                if may_BLL is not None:
                    seen = [j for j in seen if may_BLL[b, i, j]]
                sim = k[b, seen, h] @ q[b, i, h] / np.sqrt(size)
                prob = np.exp(sim - sim.max())
                prob /= prob.sum()
                out[b, i, h] = prob @ v[b, seen, h]
                dprob = v[b, seen, h] @ g[b, i, h]
                dsim = prob * (dprob - prob @ dprob) / np.sqrt(size)
                dq[b, i, h] = dsim @ k[b, seen, h]
                dk[b, seen, h] += np.outer(dsim, q[b, i, h])
                dv[b, seen, h] += np.outer(prob, g[b, i, h])
    return out, dq, dk, dv
