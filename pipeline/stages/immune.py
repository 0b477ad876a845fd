"""immune: do the metrics notice faults whose answer is known, on this dataset's own pictures, at the study's n?"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass

from pipeline.artifacts import Artifact, Draft
from pipeline.features import DigitsNetwork
from pipeline.immune import IMMUNITY_FILE, examine
from pipeline.shards import read_pictures
from pipeline.stage import Around
from pipeline.stages.features import NETWORK


@dataclass(frozen=True)
class Config:
    images: int  # per side, as many as a run is measured by


def run(inputs: Mapping[str, Artifact], config: Config, out: Draft, around: Around) -> None:
    pool = read_pictures(inputs["data"].path, "train")
    found = examine(pool, DigitsNetwork.load(inputs["features"].path / NETWORK), config.images)
    findings = [finding._asdict() for finding in found.findings]
    content = asdict(found) | {"findings": findings, "is_healthy": found.is_healthy}
    (out.path / IMMUNITY_FILE).write_text(json.dumps(content, indent=1) + "\n")
    out.facts.update(is_healthy=found.is_healthy, clean_alarms=found.clean_alarms)
    around.watch.results({f"resolves {name}": power for name, power in found.resolving_power.items()})
