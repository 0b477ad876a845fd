"""The sections of params.yaml: one dataclass for each kind of entry."""

import re
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from methods.core.numbers import Count, CountOrZero, Positive
from pipeline.config.build import Block, shown
from pipeline.errors import ConfigError

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


def check_name(name: object, where: str) -> None:
    """ConfigError for a name that is not safe as a folder, in a shell and in a table's cell. where: what it names."""
    if not isinstance(name, str) or not NAME.fullmatch(name):
        kind = "" if isinstance(name, str) else " (YAML reads it as no text: quote it)"
        raise ConfigError(
            f"{where}: the name {shown(name)} came{kind}; at most 100 letters (A to Z), digits, '.', '_' and '-' were "
            "wanted, the first a letter or digit: rename it"
        )


@dataclass(frozen=True)
class Evaluate:
    """How every run on a dataset is measured. All runs use the same numbers, so that their values can be compared."""

    images: Count = 500  # generated images for each sampling seed
    sample_seeds: Count = 5  # sets of images for each trained network


@dataclass(frozen=True)
class DatasetEntry:
    """Real data, the features they are measured in, and how many images are generated for them."""

    source: str  # a module of pipeline/data/datasets
    options: Block = field(default_factory=dict)  # fields of that module's `Source`
    features: Block = field(default_factory=dict)  # training of the feature network: `Config` of the stage
    fakes: Count = 2560  # generated images of a run that its guides are trained on
    evaluate: Evaluate = field(default_factory=Evaluate)


@dataclass(frozen=True)
class RunEntry:
    """A generator: its method, training and sampling."""

    dataset: str  # an entry of `datasets` or `latents`
    method: str  # "edm.EDM": class EDM of methods/edm.py
    model: Block  # fields of that class
    train: Block  # fields of `Train` of the stage pretrain
    sample: Block  # fields of the method's `Sampling`


Role: TypeAlias = Literal["start", "teacher"]


@dataclass(frozen=True)
class From:
    """The run that a derived run needs, and what for."""

    run: str  # an entry of `runs` or `derived`, trained on the same dataset or imported
    as_: Role | list[Role]  # start: training begins with its weights; teacher: it is there, frozen; or a list of both

    @property
    def roles(self) -> list[Role]:
        return sorted(set([self.as_] if isinstance(self.as_, str) else self.as_))


@dataclass(frozen=True)
class DerivedEntry(RunEntry):
    """A run whose training needs another run. Wherever an entry names a run, it may name a derived one."""

    from_: From


@dataclass(frozen=True)
class ClassifierEntry:
    """A guide that is trained on real images and their labels alone."""

    dataset: str  # an entry of `datasets` or `latents`
    method: str  # such as classifier_guidance.Classifier
    model: Block  # fields of that class
    train: Block  # fields of `GuideTrain`


@dataclass(frozen=True)
class AutoencoderEntry:
    """Images to latents and back, for runs on the latents."""

    dataset: str  # an entry of `datasets`
    method: str  # autoencoder.KLAutoencoder
    model: Block  # fields of that class
    train: Block  # fields of `Train` of the stage autoencode


@dataclass(frozen=True)
class LatentsEntry:
    """The latents of a dataset's images, a dataset for runs and guides; runs on it are measured as images."""

    of: str  # an entry of `autoencoders`
    source: Literal["latents"] = "latents"
    scaling: Literal["channel", "single"] | Positive = "channel"  # mean 0 and std 1 of each; one std; or a factor


@dataclass(frozen=True)
class GuideEntry:
    """A guide that is trained to distinguish real images from generated images (fakes) of a run."""

    run: str  # an entry of `runs`
    method: str  # such as discriminator_guidance.Discriminator
    model: Block  # fields of that class
    train: Block  # fields of `GuideTrain`
    trunk: str | None = None  # an entry of `classifiers`, whose frozen features the guide reads


@dataclass(frozen=True)
class GuidedEntry:
    """A run that is sampled with guides."""

    run: str  # an entry of `runs`
    guides: list[Block]  # each {guide: name of a guide or classifier} and fields of its method's `Use`
    sample: Block  # fields that differ from the run's


@dataclass(frozen=True)
class AutoguidedEntry(GuidedEntry):
    """A run that is guided away from a weaker run; it may have guides too. Others may name it as a guided entry."""

    weaker: Block  # {run: a run on the same dataset}, `ema`, and fields of `Use` of methods/autoguidance.py


@dataclass(frozen=True)
class StackEntry:
    """Many small models that are trained as one batched job and measured alike."""

    dataset: str  # an entry of `datasets`
    method: str  # such as siddm.SIDDM
    model: Block  # fields that all members share
    members: dict[str, Block]  # by name, the fields that differ
    train: Block  # fields of `StackTrain`
    sample: Block  # fields of the method's `Sampling`


@dataclass(frozen=True)
class TranslationEntry:
    """Image to image: a guided entry restores corrupted held-out images, with and without its guides."""

    guided: str  # an entry of `guided`
    starts: list[Positive]  # noise levels from which sampling starts, in image units
    images: Count  # of the held-out split
    sets: Count  # draws of the noise


@dataclass(frozen=True)
class LaunchEntry:
    """Where a study is meant to run. Results and keys do not depend on it."""

    workers: CountOrZero = 0  # number of Ray workers, unless --workers or TRILEMMA_WORKERS is given; 0: in this process
    stream: bool = False  # prepared images stay in the store, for machines whose disk is too small for them


KINDS: dict[str, type] = {
    "datasets": DatasetEntry,
    "autoencoders": AutoencoderEntry,
    "latents": LatentsEntry,
    "runs": RunEntry,
    "derived": DerivedEntry,
    "classifiers": ClassifierEntry,
    "guides": GuideEntry,
    "guided": GuidedEntry,
    "autoguided": AutoguidedEntry,
    "translations": TranslationEntry,
    "stacks": StackEntry,
}
