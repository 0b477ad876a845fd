"""features: the dataset's own feature network, trained and frozen, and the real side of every comparison."""

from collections.abc import Mapping
from dataclasses import dataclass

from pipeline.artifacts import Artifact, Draft
from pipeline.features import DigitsNetwork, Extractor, Pixels, Reference
from pipeline.shards import Pictures, read_pictures
from pipeline.stage import Around

NETWORK = "digits-cnn.safetensors"
SPLITS = ("train", "held_out")


@dataclass(frozen=True)
class Config:
    """The `features` block of a dataset."""

    seed: int = 0
    epochs: int = 60


def run(inputs: Mapping[str, Artifact], config: Config, out: Draft, around: Around) -> None:
    splits = {split: read_pictures(inputs["data"].path, split) for split in SPLITS}
    network = DigitsNetwork.train(splits["train"].images, splits["train"].labels, config.seed, config.epochs)
    network.save(out.path / NETWORK)
    for extractor in (network, Pixels()):
        for split, pictures in splits.items():
            _reference(extractor, pictures).save(out.path / reference_file(extractor.name, split))
    held_out = splits["held_out"]
    out.facts.update(digest=network.digest, held_out_accuracy=network.accuracy(held_out.images, held_out.labels))
    out.seeds.update(train=config.seed)


def reference_file(extractor: str, split: str) -> str:
    return f"{extractor}-{split}.safetensors"


def _reference(extractor: Extractor, pictures: Pictures) -> Reference:
    return Reference.of(extractor(pictures.images))
