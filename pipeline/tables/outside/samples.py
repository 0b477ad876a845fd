"""Folders or files of generated samples against each other, all measured against the same real ones."""

from collections.abc import Sequence
from math import isnan
from pathlib import Path
from tempfile import TemporaryDirectory

from pipeline.errors import UserError
from pipeline.metrics.card import METRICS
from pipeline.metrics.intervals import ALPHA, Interval
from pipeline.metrics.standalone.measure import Measurement, distance_name, measure, standard_error
from pipeline.metrics.standalone.reference_file import kind_of, write_reference
from pipeline.tables.outside.difference import Difference, from_errors
from pipeline.tables.outside.groups import Groups, Metric, Test, named, parse_metric
from pipeline.tables.outside.verdicts import Answer, answer, check_baseline, compare_groups


def compare_samples(
    sources: Sequence[str],
    real: Path,
    metrics: Sequence[str],
    extractor: str | None = None,
    baseline: str | None = None,
    test: Test = "auto",
) -> Answer:
    """sources: PATH or NAME=PATH; a name with several paths is one method, with the samples of one network in each.

    With one path each the error of a value is that of other samples from the same network, by the jackknife; with
    several it is that over networks. metrics: names, or NAME:min; none: fid (fd in other features) and recall.
    """
    paths = _paths(sources)
    first = next(iter(paths)) if baseline is None else check_baseline(baseline, [*paths])
    numbers = {len(files) for files in paths.values()}
    if 1 in numbers and len(numbers) > 1:
        single = [name for name, files in paths.items() if len(files) == 1]
        raise UserError(f"one path in {named(single)}, several in others: pass one for each method, or several")
    if (test != "auto" and numbers == {1}) or test == "paired":
        raise UserError(f"--test {test}: needs seeds, which samples do not have: leave --test out")
    with TemporaryDirectory() as folder:
        kind = kind_of(real)
        if extractor is None and kind.about is not None:
            extractor = str(kind.about["name"])
        chosen = _metrics(metrics, extractor)
        if kind.about is None and kind.has_samples:  # the features of the real side are computed once
            reference = Path(folder) / "real.npz"
            write_reference(real, reference, extractor)
            real = reference
        measured, notes = _measured(paths, real, extractor, [metric.name for metric in chosen])
    if numbers == {1}:
        return _by_samples(chosen, first, {name: one for name, (one,) in measured.items()}, str(real), notes)
    values = {
        name: {str(seed): tuple(one.values[m.name].value for m in chosen) for seed, one in enumerate(of_name)}
        for name, of_name in measured.items()
    }
    return compare_groups(
        "samples", Groups(tuple(chosen), values, tuple(notes)), first, "welch" if test == "auto" else test
    )


def _paths(sources: Sequence[str]) -> dict[str, list[Path]]:
    paths: dict[str, list[Path]] = {}
    for source in sources:
        name, equals, path = source.partition("=")
        if not equals or Path(source).exists():
            name = path = source
        paths.setdefault(name.rstrip("/"), []).append(Path(path))
    every = [path.resolve() for files in paths.values() for path in files]
    if len(paths) < 2 or len({*every}) < len(every):
        raise UserError(f"--samples {' '.join(sources)}: different samples of at least two methods were wanted")
    return paths


def _metrics(texts: Sequence[str], extractor: str | None) -> list[Metric]:
    if not texts:
        texts = [distance_name(extractor), "recall"]
    chosen = []
    for text in texts:
        known = METRICS.get(text)
        metric = parse_metric(text) if known is None or known.better is None else Metric(text, known.better)
        if metric.name in METRICS and METRICS[metric.name].better not in (None, metric.better):
            raise UserError(f"--metric {text}: {metric.name} is better when {METRICS[metric.name].better}")
        chosen.append(metric)
    return chosen


def _measured(
    paths: dict[str, list[Path]], real: Path, extractor: str | None, names: list[str]
) -> tuple[dict[str, list[Measurement]], list[str]]:
    """At one number of samples, on which distances depend."""
    every = {(name, file): measure(file, real, extractor, names) for name, files in paths.items() for file in files}
    counts = {place: next(iter(one.cards.values())).n_generated for place, one in every.items()}
    fewest = min(counts.values())
    notes = []
    for (name, file), count in counts.items():
        if count > fewest:
            every[name, file] = measure(file, real, extractor, names, images=fewest)
            notes.append(f"{file}: {fewest} of {count} samples are used, as many as there are of each")
    notes += dict.fromkeys(warning for one in every.values() for warning in one.warnings)
    return {name: [every[name, file] for file in files] for name, files in paths.items()}, notes


def _by_samples(
    metrics: Sequence[Metric], first: str, measured: dict[str, Measurement], source: str, notes: Sequence[str]
) -> Answer:
    samples = next(iter(measured[first].cards.values())).n_generated
    if any(isnan(value.low) for value in measured[first].values.values()):
        raise UserError(f"{samples} samples of each are too few for an interval: pass more (trilemma measure)")
    comparisons = (len(measured) - 1) * len(metrics)

    def differ(at: int, name: str) -> Difference:
        a, b = (measured[side].values[metrics[at].name] for side in (name, first))
        (error_a, freedom), (error_b, _) = standard_error(a), standard_error(b)
        return from_errors((a.value, b.value), (error_a, error_b), freedom, samples, ALPHA / comparisons)

    values = {(m.name, name): Interval(*one.values[m.name][:3], 1) for m in metrics for name, one in measured.items()}
    about = "errors are of other samples of the same networks: the verdicts are on these, not on the methods"
    names = [first, *(name for name in measured if name != first)]
    return answer(f"samples against {source}", metrics, names, values, differ, "samples", [*notes, about])
