"""check-metrics: do the metrics detect faults with known answers, in this dataset's samples, at the study's n?"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass

import numpy as np

from pipeline.context import RunContext
from pipeline.data.artifacts import Artifact, Draft
from pipeline.data.shards import Pictures
from pipeline.metrics.evaluate import evaluator_of
from pipeline.metrics.sensitivity import SENSITIVITY_FILE, check_sensitivity

LARGEST = 4_000  # per side; a study that measures more is examined at so many, and its page says so
POOL = 3  # times n: more real samples would make the reference larger, not the answer better


@dataclass(frozen=True)
class Config:
    images: int  # per side, as many as a run is measured by


def run(inputs: Mapping[str, Artifact], config: Config, out: Draft, context: RunContext) -> None:
    judge = evaluator_of(inputs["data"].path, inputs["features"].path)
    n, rng = min(config.images, LARGEST), np.random.default_rng(0)
    is_enough = len(judge.train) <= POOL * n
    pool = (judge.train if is_enough else judge.train.rows(rng.permutation(len(judge.train))[: POOL * n])).read()
    labelled = Pictures(pool.images, judge.classes(pool), pool.seeds)
    found = check_sensitivity(labelled, judge.features, n, judge.compare)
    findings = [finding._asdict() for finding in found.findings]
    content = asdict(found) | {"findings": findings, "all_faults_detected": found.all_faults_detected}
    (out.path / SENSITIVITY_FILE).write_text(json.dumps(content, indent=1) + "\n")
    out.facts.update(all_faults_detected=found.all_faults_detected, clean_alarms=found.clean_alarms)
    context.watch.results({f"resolves {name}": power for name, power in found.resolving_power.items()})
