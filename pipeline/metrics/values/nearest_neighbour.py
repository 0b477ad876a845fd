"""Mean Euclidean distance of generated samples to the nearest training sample, from 0 (copies).

Best where held-out real samples have the same value. Below: copies or typical shapes only. Above: samples off the data.
"""

import numpy as np

from pipeline.metrics.card import MetricValue
from pipeline.metrics.features.nearest_neighbours import nearest_distances
from pipeline.metrics.features.statistics import check_pair


def nearest_neighbour_distance(generated: np.ndarray, training: np.ndarray) -> MetricValue:
    """[n, d] and [m, d]."""
    check_pair(generated, training)
    return MetricValue(float(np.sqrt(nearest_distances(generated, training)).mean()))
