"""The card of a metric value: everything the value depends on besides the samples; and the metrics by name."""

import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, NamedTuple, Protocol

Direction = Literal["higher", "lower"]
METRICS_FILE = "metrics.json"  # in the artifact of `evaluate`


class MetricValue(NamedTuple):
    """A metric's value, with the reasons to doubt it."""

    value: float
    warnings: tuple[str, ...] = ()
    spread: float | None = None  # standard deviation over the metric's own splits or subsets


class MetricKind(NamedTuple):
    """A metric's direction and meaning."""

    better: Direction | None  # None: best is the real-vs-real value, larger and smaller ones are worse
    description: str


METRICS = {
    "fid": MetricKind("lower", "Frechet distance in Inception-v3 pool features"),
    "fd": MetricKind("lower", "Frechet distance in the card's features"),
    "sfid": MetricKind("lower", "Frechet distance in spatial Inception-v3 features"),
    "kid": MetricKind("lower", "unbiased squared MMD with a cubic kernel"),
    "is": MetricKind("higher", "Inception score"),
    "precision": MetricKind("higher", "share of generated samples within the real ones' neighbourhoods"),
    "recall": MetricKind("higher", "share of real samples within the generated ones' neighbourhoods"),
    "f1": MetricKind("higher", "harmonic mean of precision and recall"),
    "density": MetricKind("higher", "real neighbourhoods around a generated sample, over k"),
    "coverage": MetricKind("higher", "share of real neighbourhoods that hold a generated sample"),
    "accuracy": MetricKind("higher", "share of samples classified as the class they were generated for"),
    "attribute_accuracy": MetricKind("higher", "share of samples whose stated attribute is read as stated"),
    "all_attributes": MetricKind("higher", "share of samples with every stated attribute right"),
    "combinations": MetricKind("higher", "different combinations of attributes among the samples"),
    "nn_distance": MetricKind(None, "mean distance to the nearest training sample; below real-vs-real: copies"),
    "hq": MetricKind("higher", "share of points close to a mode"),
    "modes": MetricKind("higher", "modes with at least half their fair share of points"),
    "mode_kl": MetricKind("lower", "KL of the mode histogram from the true one, nats"),
    "energy": MetricKind("lower", "energy distance"),
    "frechet_2d": MetricKind("lower", "Frechet distance of raw coordinates; blind to modes"),
    "nll": MetricKind("lower", "negative log-likelihood, bits per dimension"),
    "nfe": MetricKind("lower", "network calls per sample"),
}

SPATIAL = "spatial-7x17x17"
LAYERS = {"sfid": SPATIAL, "accuracy": "class"}  # other metrics use the layer of the extractor
NEIGHBOURS_OF = {"precision": 3, "recall": 3, "f1": 3, "density": 5, "coverage": 5}  # k, from the metrics' papers
COMPARE_SAMPLES = ("kid", *NEIGHBOURS_OF)  # compare pairs of samples, not only means and covariances
SCORE_SPLITS = 10  # of the Inception score
KID_SUBSET = 1000  # samples, as in papers; with fewer samples KID has a warning
KID_MAX_ALL_PAIRS = 10_000  # samples; with more, KID is the mean over 100 subsets


@dataclass(frozen=True)
class Card:
    """Values may be compared where `id` is equal."""

    metric: str
    extractor: str
    extractor_digest: str
    layer: str
    preprocessing: str
    n_generated: int
    n_real: int | None  # None: unknown, of published statistics
    reference: str  # which real samples: the name of a split, or of a folder or file
    reference_digest: str
    sample_seeds: tuple[int, ...] = ()  # not part of `id`: other seeds repeat the same measurement
    settings: tuple[tuple[str, str | int | float], ...] = ()  # e.g. (("k", 3),)

    def __post_init__(self) -> None:
        if self.metric not in METRICS:
            raise ValueError(f"no metric {self.metric!r}; there are {', '.join(METRICS)}")

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> "Card":
        """content: `asdict` of a card after JSON, which turns tuples into lists."""
        settings = tuple((name, value) for name, value in content["settings"])
        return cls(**{**content, "sample_seeds": tuple(content["sample_seeds"]), "settings": settings})

    @property
    def id(self) -> str:
        """Eight hexadecimal digits, the same on every machine and for any sampling seeds."""
        return hashlib.sha256(json.dumps(self._measure(), sort_keys=True).encode()).hexdigest()[:8]

    def __str__(self) -> str:
        """For a table cell, e.g. `small-cnn@1a2b3c4d held-out n=500/500 k=3`."""
        n = f"n={self.n_generated}/{'?' if self.n_real is None else self.n_real}"
        short = ((name, str(value)[:8] if name.endswith("sha256") else value) for name, value in self.settings)
        settings = (f"{name}={value}" for name, value in short)
        return " ".join([f"{self.extractor}@{self.extractor_digest[:8]}", self.reference, n, *settings])

    def _measure(self) -> dict[str, object]:
        return {name: value for name, value in asdict(self).items() if name != "sample_seeds"}


class Described(Protocol):
    """What a card records of a feature network or a classifier."""

    name: str
    layer: str  # which features of the network
    preprocessing: str

    @property
    def digest(self) -> str:
        """SHA-256 of weights and preprocessing."""
        ...


def card_of(
    metric: str,
    extractor: Described,
    n_generated: int,
    n_real: int | None,
    reference: str,
    reference_digest: str,
    settings: Mapping[str, float] | None = None,
) -> Card:
    """settings: of metrics that are not defined in `values/`."""
    settings = dict(settings or {})
    if metric in NEIGHBOURS_OF:
        settings["k"] = NEIGHBOURS_OF[metric]
    elif metric == "is":
        settings["splits"] = SCORE_SPLITS
    elif metric == "kid" and n_real is not None and kid_has_subsets(n_generated, n_real):
        settings["subset_size"] = KID_SUBSET
    return Card(
        *(metric, extractor.name, extractor.digest, LAYERS.get(metric, extractor.layer), extractor.preprocessing),
        *(n_generated, n_real, reference, reference_digest),
        settings=tuple(settings.items()),
    )


def kid_has_subsets(n_generated: int, n_real: int) -> bool:
    return max(n_generated, n_real) > KID_MAX_ALL_PAIRS and min(n_generated, n_real) >= KID_SUBSET


def same_measure(cards: Sequence[Card], apart_from: Collection[str] = ()) -> None:
    """An error if the cards differ in a field that `apart_from` does not name."""
    unknown = set(apart_from) - {field.name for field in fields(Card)}
    if unknown:
        raise ValueError(f"a card has no field {', '.join(sorted(unknown))}")
    for card in cards[1:]:
        first, other = cards[0]._measure(), card._measure()
        differing = [name for name in first if first[name] != other[name] and name not in apart_from]
        if differing:
            details = "; ".join(f"{name}: {first[name]} against {other[name]}" for name in differing)
            raise ValueError(f"cards {cards[0].id} ({cards[0]}) and {card.id} ({card}) differ in {details}")
