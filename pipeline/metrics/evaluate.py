"""The evaluator of a dataset."""

from pathlib import Path

from pipeline.data.artifacts import facts_of
from pipeline.metrics.evaluator import Evaluator


def evaluator_of(data: Path, features: Path) -> Evaluator:
    """data: a prepared dataset; features: what the stage of that name made of it."""
    from pipeline.metrics.image_evaluator import ImageEvaluator
    from pipeline.metrics.point_evaluator import PointEvaluator

    return (ImageEvaluator if len(facts_of(data)["shape"]) == 3 else PointEvaluator)(data, features)
