"""check-metrics: do the metrics detect known faults in this dataset's own samples, at the study's number of images?"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass

import numpy as np

from methods.core.numbers import Count
from pipeline.context import RunContext
from pipeline.data.artifacts import Artifact, Draft
from pipeline.data.shards import Pictures
from pipeline.metrics.evaluate import evaluator_of
from pipeline.metrics.sensitivity import SENSITIVITY_FILE, check_sensitivity

MAX_IMAGES = 4_000  # per side; of a study that measures more, the page names this number
POOL_FACTOR = 3  # times n: more real samples would make the reference larger, not the check better


@dataclass(frozen=True)
class Config:
    images: Count  # per side, as many as a run is evaluated with


def run(inputs: Mapping[str, Artifact], config: Config, out: Draft, context: RunContext) -> None:
    """Write the sensitivity report."""
    evaluator = evaluator_of(inputs["data"].path, inputs["features"].path)
    n, train = min(config.images, MAX_IMAGES), evaluator.train
    if len(train) > POOL_FACTOR * n:
        train = train.take(np.random.default_rng(0).permutation(len(train))[: POOL_FACTOR * n])
    pool = train.read()
    labelled = Pictures(pool.images, evaluator.classes(pool), pool.seeds)
    report = check_sensitivity(labelled, evaluator.features, n, evaluator.compare)
    findings = [finding._asdict() for finding in report.findings]
    content = asdict(report) | {"findings": findings, "all_faults_detected": report.all_faults_detected}
    (out.path / SENSITIVITY_FILE).write_text(json.dumps(content, indent=1) + "\n")
    out.facts.update(all_faults_detected=report.all_faults_detected, clean_alarms=report.clean_alarms)
    context.watch.results({f"resolves {name}": power for name, power in report.resolving_power.items()})
