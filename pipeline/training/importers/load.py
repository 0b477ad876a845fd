"""Somebody's checkpoint as if it had been trained here: what the training stages do for an entry with `imported`."""

from collections.abc import Mapping

from methods.core.types import Trainable
from pipeline.data.artifacts import OUTSIDE, Artifact, Draft
from pipeline.errors import UserError
from pipeline.training.importers.checkpoints import Format, fit, formats, read_checkpoint
from pipeline.training.networks import data_spec, save_weights


def load_imported(method: Trainable, inputs: Mapping[str, Artifact], format: Format | None, out: Draft) -> None:
    if format is None:
        raise UserError(f"train.imported needs train.format: one of {', '.join(formats())}")
    file, data = inputs[OUTSIDE].path, data_spec(inputs["data"].manifest.facts)
    save_weights(out.path, fit(read_checkpoint(file, format), format, method.build(data), str(file)))
    out.facts.update(steps=0, shape=list(data.shape), classes=data.classes, std=data.std, source=inputs[OUTSIDE].digest)
