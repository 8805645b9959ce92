"""The vocabulary loss and its gradient, position by position, in float64."""

from __future__ import annotations

import numpy as np


def vocab_cross_entropy(h_ND, table_VD, bias_V, target_N, weight_N):
    """Return nll, correct, and the gradients of sum(weight * nll) for h, table and bias."""
    h_ND, table_VD, bias_V = (np.asarray(x, np.float64) for x in (h_ND, table_VD, bias_V))
    nll, correct = [], []
    dh_ND, dtable_VD, dbias_V = (np.zeros_like(x) for x in (h_ND, table_VD, bias_V))
    for n, target in enumerate(target_N):
        logits = np.array([word @ h_ND[n] for word in table_VD]) + bias_V
        exp = np.exp(logits - logits.max())
        prob = exp / exp.sum()
        nll.append(-np.log(prob[target]))
        correct.append(logits[target] == logits.max())
        prob[target] -= 1.0
        dh_ND[n] = weight_N[n] * prob @ table_VD
        dtable_VD += weight_N[n] * np.outer(prob, h_ND[n])
        dbias_V += weight_N[n] * prob
    return np.array(nll), np.array(correct), dh_ND, dtable_VD, dbias_V
