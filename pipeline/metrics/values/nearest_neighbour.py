"""Mean over generated samples x of min_i |x - x_i|, the Euclidean distance to the nearest training sample; from 0.

A test of memorisation, as nearest neighbours shown in papers. Best is the value of held-out real samples: a smaller one
means copies or typical shapes only, a larger one samples far from the data.
"""

import numpy as np

from pipeline.metrics.card import MetricValue
from pipeline.metrics.features.nearest_neighbours import nearest_distances
from pipeline.metrics.features.statistics import check_pair


def nearest_neighbour_distance(generated: np.ndarray, training: np.ndarray) -> MetricValue:
    """[n, d] and [m, d]."""
    check_pair(generated, training)
    return MetricValue(float(np.sqrt(nearest_distances(generated, training)).mean()))
