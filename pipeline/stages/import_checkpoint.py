"""import-checkpoint: the weights of a published checkpoint, in place of a training."""

from collections.abc import Mapping
from dataclasses import dataclass

from pipeline.config.build import Block, build_method
from pipeline.context import RunContext
from pipeline.data.artifacts import OUTSIDE, Artifact, Draft
from pipeline.training.importers.checkpoints import Format, fit, read_checkpoint
from pipeline.training.networks import data_facts, data_spec, save_weights


@dataclass(frozen=True)
class Config:
    method: str
    model: Block
    format: Format  # of the file


def run(inputs: Mapping[str, Artifact], config: Config, out: Draft, context: RunContext) -> None:
    file, data = inputs[OUTSIDE].path, data_spec(inputs["data"].manifest.facts)
    networks = build_method(config.method, config.model).build(data)
    read, order = read_checkpoint(file, config.format), config.model.get("attention_order")
    save_weights(out.path, fit(read, config.format, networks, order, str(file)))
    out.facts.update(data_facts(data), steps=0, source=inputs[OUTSIDE].digest)
