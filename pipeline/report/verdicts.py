"""Which method to take, and which differences between methods are real, in words.

Compared are guided methods with their own network unguided, methods of equally many calls that follow each other in
quality, and the first with the second in quality and in coverage. All of these are one family: a difference counts if
it is beyond chance after Holm's correction for all of them.
"""

from collections.abc import Callable, Iterable, Sequence
from itertools import groupby, pairwise
from math import isnan, nan, sqrt
from typing import NamedTuple

from pipeline.config.study import Study
from pipeline.dag.graph import STAGES
from pipeline.data.artifacts import MANIFEST
from pipeline.errors import UserError
from pipeline.metrics.card import METRICS
from pipeline.metrics.intervals import ALPHA, TRAINING_SEEDS_FOR_A_METHOD, holm, seeds_for, t_quantile
from pipeline.tables.aggregate import Arm, Difference, Summary, differences, entries_on, gather, method_names, summarise
from pipeline.tables.listing import COVERAGE, QUALITY

WORDS = {"quality": "has better quality than", "coverage": "covers more than"}


class Method(NamedTuple):
    """A method on one dataset, over all its training seeds."""

    name: str
    arm: Arm
    calls: float  # of networks, per image
    guide_calls: float
    values: dict[str, Summary]  # quality and coverage

    @property
    def all_calls(self) -> float:
        return self.calls + self.guide_calls

    @property
    def calls_text(self) -> str:
        guides = f" + {self.guide_calls:g}" if self.guide_calls else ""
        return f"{self.calls:g}{guides} call{'s' * (self.all_calls != 1)}"


class Field(NamedTuple):
    """All evaluated methods on a dataset, and the metrics that stand for quality and coverage."""

    dataset: str
    methods: list[Method]  # from the best quality on
    metrics: dict[str, str]  # of quality and coverage
    cards: dict[str, str]  # their ids
    real: dict[str, float | None]  # their real-vs-real values

    def cost(self, kind: str) -> Callable[[Method], float]:
        """Less is better."""
        sign = 1 if METRICS[self.metrics[kind]].better == "lower" else -1
        return lambda method: sign * method.values[kind].value

    def ordered(self, kind: str) -> list[Method]:
        return sorted(self.methods, key=self.cost(kind))


class Statement(NamedTuple):
    """A comparison of two methods by quality or coverage; `better` has the better mean."""

    kind: str
    metric: str
    better: Method
    worse: Method
    difference: Difference
    p: float  # of no difference, corrected for the family; NaN for one pair of values
    family: int  # comparisons in it
    seeds: int | None  # that it would take; None: not known, or more than a million

    @property
    def is_resolved(self) -> bool:
        return self.p < ALPHA

    @property
    def text(self) -> str:
        found = self.difference
        interval = "" if isnan(found.ci_low) else f" [{_number(found.ci_low)}, {_number(found.ci_high)}]"
        value = f"{self.metric} {_number(found.difference)}{interval}"
        a, b = f"**{self.better.name}**", f"**{self.worse.name}**"
        if self.is_resolved:
            own = "" if found.train_seeds >= TRAINING_SEEDS_FOR_A_METHOD else "; holds for these trained networks only"
            return f"{a} {WORDS[self.kind]} {b} {_calls(self.better, self.worse)}: {value}, {_seeds(found)}{own}."
        needed = f"it would take about {self.seeds}" if self.seeds else "too small a difference to plan for"
        if found.train_seeds == 1:
            needed = "it takes several training seeds to tell"
        among = f" among {self.family} comparisons" if found.ci_low > 0 or found.ci_high < 0 else ""
        return f"{a} against {b} in {self.kind}: not resolvable with {_seeds(found)}{among} ({value}); {needed}."


def field(study: Study, dataset: str) -> Field | None:
    """None where fewer than two methods have quality and coverage measured alike."""
    entries = entries_on(study, dataset)
    evaluated = [e for e in entries if (STAGES["evaluate"].call(study, e).out / MANIFEST).is_file()]
    names, arms = method_names(study, entries), gather(study, evaluated)
    metrics, cards = dict[str, str](), dict[str, str]()
    for kind, candidates in (("quality", QUALITY), ("coverage", COVERAGE)):
        ids = [(m["metric"], id) for arm in arms for id, m in arm.repetitions[0].metrics.items()]
        metric = next((name for name in candidates if name in dict(ids)), None)
        if metric is None:
            return None
        metrics[kind], cards[kind] = max((pair for pair in ids if pair[0] == metric), key=ids.count)
    alike = [arm for arm in arms if all(card in arm.repetitions[0].metrics for card in cards.values())]
    if len(alike) < 2:
        return None
    real = {kind: alike[0].repetitions[0].metrics[card]["real_vs_real"] for kind, card in cards.items()}
    methods: list[Method] = []
    for arm in alike:
        is_taken = names[arm.name] in [method.name for method in methods]  # by networks of another version of the code
        counts = [one.counts for one in arm.repetitions]
        calls, guide_calls = (sum(of[name] for of in counts) / len(counts) for name in ("nfe", "guide_calls"))
        values = {kind: summarise(arm, card) for kind, card in cards.items()}
        methods.append(Method(arm.name if is_taken else names[arm.name], arm, calls, guide_calls, values))
    unordered = Field(dataset, methods, metrics, cards, real)
    return unordered._replace(methods=unordered.ordered("quality"))


def statements(of: Field) -> list[Statement]:
    """Resolved ones first; in either part quality before coverage, and better methods first."""
    found = [one for kind in WORDS for one in _compared(of, kind, _pairs(of))]
    corrected = _corrected(found)
    return [one for one in corrected if one.is_resolved] + [one for one in corrected if not one.is_resolved]


def answer(of: Field) -> list[str]:
    """Which method to take for quality, for coverage and for speed, and at what cost: a line each."""
    lines, found = [], statements(of)
    for kind in WORDS:
        best, second, *_ = of.ordered(kind)
        next_to = {one.worse.name: one for one in found if one.kind == kind and one.better.name == best.name}
        ahead = second.name in next_to and next_to[second.name].is_resolved
        beside = (
            f"ahead of the next, {second.name}" if ahead else f"not distinguishable yet from the next, {second.name}"
        )
        value = f"{of.metrics[kind]} {_interval(best.values[kind])}"
        lines.append(f"**For {kind}: {best.name}** ({value}, {_each(best)}; {beside}).")
    fewest = min(method.all_calls for method in of.methods)
    fastest = next(method for method in of.methods if method.all_calls == fewest)  # the best of these
    costs = []
    for kind in WORDS:
        best = of.ordered(kind)[0]
        if best is not fastest:
            value, reached = (method.values[kind].value for method in (fastest, best))
            costs.append(f"{of.metrics[kind]} {value:.3g} against {reached:.3g} of {best.name}")
    price = f", at the cost of {' and '.join(costs)}" if costs else ""
    lines.append(f"**For speed: {fastest.name}** ({_each(fastest)}){price}.")
    return lines


def _pairs(of: Field) -> list[tuple[Method, Method]]:
    pairs: list[tuple[Method, Method]] = []
    unguided = {
        one.entry: method for method in of.methods for one in method.arm.repetitions if method.arm.guidance == "none"
    }
    for method in of.methods:
        if method.arm.guidance != "none" and method.arm.run in unguided:
            pairs.append((method, unguided[method.arm.run]))
    plain = sorted((method for method in of.methods if method.arm.guidance == "none"), key=lambda method: method.calls)
    for _, alike in groupby(plain, key=lambda method: method.calls):  # the sort keeps the order by quality
        pairs += pairwise(alike)
    for kind in WORDS:
        first, second, *_ = of.ordered(kind)
        pairs.append((first, second))
    return list({frozenset((a.name, b.name)): (a, b) for a, b in pairs}.values())


def _compared(of: Field, kind: str, pairs: Iterable[tuple[Method, Method]]) -> list[Statement]:
    """Without pairs that share no seed; p is not corrected yet."""
    found = []
    for pair in pairs:
        better, worse = sorted(pair, key=of.cost(kind))
        try:
            by_id = dict(zip(better.arm.repetitions[0].metrics, differences(better.arm, worse.arm)))
        except UserError:
            continue
        found.append(Statement(kind, of.metrics[kind], better, worse, by_id[of.cards[kind]], nan, 0, None))
    return sorted(found, key=lambda one: of.cost(kind)(one.better))


def _corrected(family: Sequence[Statement]) -> list[Statement]:
    corrected = []
    for one, p in zip(family, holm([one.difference.p_value for one in family])):
        found, seeds = one.difference, None
        if found.train_seeds > 1 and not isnan(found.ci_low):
            spread = _error(found) * sqrt(found.train_seeds)
            needed = seeds_for(found.difference, spread, alpha=ALPHA / len(family))
            seeds = None if needed is None else max(needed, found.train_seeds + 1)
        corrected.append(one._replace(p=p, family=len(family), seeds=seeds))
    return corrected


def _error(found: Difference) -> float:
    """The standard error behind the interval."""
    return (found.ci_high - found.ci_low) / 2 / t_quantile(_n(found) - 1)


def _n(found: Difference) -> int:
    return found.train_seeds if found.train_seeds > 1 else found.sample_seeds


def _interval(summary: Summary) -> str:
    half = (summary.ci_high - summary.ci_low) / 2
    return f"{summary.value:.3g}" + ("" if isnan(half) else f" ± {half:.1g}")


def _each(method: Method) -> str:
    guides = f" and {method.guide_calls:g} of its guides" if method.guide_calls else ""
    return f"{method.calls:g} network call{'s' * (method.calls != 1)}{guides} per image"


def _calls(a: Method, b: Method) -> str:
    if a.calls == b.calls:
        return f"at {a.calls:g} call{'s' * (a.calls != 1)}"
    return f"with {a.calls:g} calls against {b.calls:g}"


def _seeds(found: Difference) -> str:
    if found.train_seeds > 1:
        return f"{found.train_seeds} training seeds"
    return f"1 training seed, {found.sample_seeds} sampling seeds"


def _number(value: float) -> str:
    return f"{value:+.2g}".replace("-", "−")
