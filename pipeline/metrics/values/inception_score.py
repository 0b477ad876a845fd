"""Inception score: exp E KL(p(y|x) || p(y)) (Salimans et al. 2016, section 4).

From 1 to the number of classes; higher is better. Real samples are not used: copies of one convincing sample of each
class have the best score.
"""

from itertools import pairwise

import numpy as np
from scipy.special import log_softmax

from pipeline.metrics.card import MetricValue
from pipeline.metrics.features.statistics import check_features


def inception_score(logits: np.ndarray, splits: int = 10, shuffle_seed: int | None = None) -> MetricValue:
    """logits: [n, classes]. Mean over splits in file order, or shuffled by the seed."""
    check_features(logits)
    if len(logits) < 2 * splits:
        raise ValueError(f"{len(logits)} samples in {splits} splits: pass at least {2 * splits} or fewer splits")
    if shuffle_seed is not None:
        logits = logits[np.random.RandomState(shuffle_seed).permutation(len(logits))]
    log_p = log_softmax(logits.astype(np.float64), axis=1)
    edges = [i * len(logits) // splits for i in range(splits + 1)]
    scores = [_score_of_split(log_p[start:stop]) for start, stop in pairwise(edges)]
    return MetricValue(float(np.mean(scores)), spread=float(np.std(scores)))


def _score_of_split(log_p: np.ndarray) -> float:
    p = np.exp(log_p)
    return float(np.exp((p * (log_p - np.log(p.mean(axis=0)))).sum(axis=1).mean()))
