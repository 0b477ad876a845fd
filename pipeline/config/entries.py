"""What the blocks of params.yaml hold, one dataclass per kind of entry."""

from dataclasses import dataclass, field

from pipeline.config.build import Block


@dataclass(frozen=True)
class Evaluate:
    """How every run on a dataset is measured: equal numbers, or the values could not be compared."""

    images: int = 500  # per sampling seed
    sample_seeds: int = 5


@dataclass(frozen=True)
class DatasetEntry:
    source: str  # a module of pipeline/data/datasets
    options: Block = field(default_factory=dict)  # fields of that module's `Source`
    features: Block = field(default_factory=dict)  # of the feature network: `Config` of its stage
    fakes: int = 2560  # samples of each run that guides train against
    evaluate: Evaluate = field(default_factory=Evaluate)


@dataclass(frozen=True)
class RunEntry:
    dataset: str
    method: str  # "edm.EDM": class EDM of methods/edm.py
    model: Block
    train: Block
    sample: Block


@dataclass(frozen=True)
class ClassifierEntry:
    """A guide that needs no fakes."""

    dataset: str
    method: str
    model: Block
    train: Block


@dataclass(frozen=True)
class GuideEntry:
    """A guide that needs the fakes of a run."""

    run: str
    method: str
    model: Block
    train: Block
    trunk: str | None = None  # a classifier, on whose frozen features it stands


@dataclass(frozen=True)
class GuidedEntry:
    run: str
    guides: list[Block]  # each {guide: name of a guide or classifier} and fields of its method's `Use`
    sample: Block  # what differs from the run's own


@dataclass(frozen=True)
class StackEntry:
    """Many small models that are trained as one and measured alike."""

    dataset: str
    method: str
    model: Block  # fields that all members have
    members: dict[str, Block]  # by name, the fields that differ
    train: Block
    sample: Block


@dataclass(frozen=True)
class TranslationEntry:
    """Held-out pictures, corrupted, that a guided entry makes real again, with and without its guides."""

    guided: str
    starts: list[float]  # noise levels, in image units
    images: int
    sets: int  # of noise


@dataclass(frozen=True)
class LaunchEntry:
    """Where a study is meant to run. Results do not depend on it, and no key does."""

    workers: int = 0  # where neither --workers nor TRILEMMA_WORKERS says so
    stream: bool = False  # prepared pictures stay in the store, for machines whose disk they do not fit

    def __post_init__(self) -> None:
        if self.workers < 0:
            raise ValueError(f"workers: {self.workers} came, 0 (in this process) or more was wanted")


KINDS: dict[str, type] = {
    "datasets": DatasetEntry,
    "runs": RunEntry,
    "classifiers": ClassifierEntry,
    "guides": GuideEntry,
    "guided": GuidedEntry,
    "translations": TranslationEntry,
    "stacks": StackEntry,
}
