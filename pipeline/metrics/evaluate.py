"""The evaluator of a dataset."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.data.artifacts import facts_of
from pipeline.metrics.evaluator import Evaluator


def evaluator_of(data: Path, features: Path, about: Mapping[str, Any] | None = None) -> Evaluator:
    """data: a prepared dataset; features: artifact of `features`; about: its facts, where it is not published yet."""
    from pipeline.metrics.image_evaluator import ImageEvaluator
    from pipeline.metrics.point_evaluator import PointEvaluator

    about = facts_of(features) if about is None else about
    return (ImageEvaluator if len(facts_of(data)["shape"]) == 3 else PointEvaluator)(data, features, about)
