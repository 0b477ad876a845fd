"""Which method to take, and verdicts in words, for methods with known values."""

from collections.abc import Sequence

from pipeline.dag.lineage import PRESENT, Provenance
from pipeline.report.pictures import trilemma_picture
from pipeline.report.verdicts import Field, Method, answer, statements
from pipeline.tables.aggregate import Arm, Repetition, summarise

CARDS = {"quality": "q", "coverage": "c"}


def method(
    name: str, fd: Sequence[float], recall: Sequence[float], calls: float = 4, run: str | None = None, sets: int = 1
) -> Method:
    """fd, recall: a value per training seed, or of one training seed per sampling seed. run: that it guides."""
    repetitions = []
    for seed in range(0, len(fd), sets):
        metrics = {
            id: {"metric": metric, "card": {"id": id, "text": id}, "values": list(values[seed : seed + sets])}
            for id, metric, values in (("q", "fd", fd), ("c", "recall", recall))
        }
        names = tuple(f"samples-{number}" for number in range(sets))
        repetitions.append(Repetition(name, seed, names, {"nfe": calls}, metrics, Provenance(PRESENT, "")))
    arm = Arm(run or name, name if run else "none", tuple(repetitions))
    guides = 2.0 if run else 0.0
    return Method(name, arm, calls, guides, {kind: summarise(arm, card) for kind, card in CARDS.items()})


def compared(*methods: Method) -> Field:
    real: dict[str, float | None] = {"quality": 0.1, "coverage": 0.95}
    field = Field("digits", list(methods), {"quality": "fd", "coverage": "recall"}, CARDS, real)
    return field._replace(methods=field.ordered("quality"))


def four() -> Field:
    return compared(
        method("siddm", [0.30, 0.31, 0.29], [0.80, 0.80, 0.801]),
        method("ddgan", [0.60, 0.61, 0.59], [0.73, 0.73, 0.730]),
        method("edm", [0.20, 0.24, 0.22], [0.90, 0.91, 0.92], calls=35),
        method("edm-dg", [0.21, 0.22, 0.23], [0.91, 0.91, 0.92], calls=35, run="edm"),
    )


def test_a_resolved_difference_names_the_better_method_its_calls_its_interval_and_the_seeds() -> None:
    texts = [one.text for one in statements(four())]
    assert "**siddm** has better quality than **ddgan** at 4 calls: fd −0.3 [−0.3, −0.3], 3 training seeds." in texts
    assert "**siddm** covers more than **ddgan** at 4 calls: recall +0.07 [+0.069, +0.072], 3 training seeds." in texts


def test_what_is_not_resolvable_has_the_seeds_that_it_would_take_and_comes_last() -> None:
    found = statements(four())
    resolved = [one.is_resolved for one in found]
    assert resolved == sorted(resolved, reverse=True)
    (open_case,) = [
        one for one in found if {one.better.name, one.worse.name} == {"edm", "edm-dg"} and one.kind == "coverage"
    ]
    assert open_case.seeds is not None
    assert open_case.seeds > 3
    assert "in coverage: not resolvable with 3 training seeds" in open_case.text
    assert f"it would take about {open_case.seeds}" in open_case.text
    (equal,) = [
        one for one in found if {one.better.name, one.worse.name} == {"edm", "edm-dg"} and one.kind == "quality"
    ]
    assert "too small a difference to plan for" in equal.text


def test_an_interval_that_excludes_no_difference_is_not_enough_among_many_comparisons() -> None:
    methods = [method(f"m{number}", [number, number + 0.3, number + 0.1], [0.5, 0.5, 0.5]) for number in range(1, 9)]
    methods.append(method("near", [8.6, 8.8, 8.75], [0.5, 0.5, 0.5]))
    (last,) = [one for one in statements(compared(*methods)) if one.worse.name == "near" and one.kind == "quality"]
    assert last.difference.ci_high < 0
    assert not last.is_resolved
    assert f"not resolvable with 3 training seeds among {last.family} comparisons" in last.text


def test_one_training_seed_is_about_the_trained_networks() -> None:
    texts = [
        one.text
        for one in statements(
            compared(
                method("a", [0.1, 0.11, 0.1], [0.9, 0.9, 0.8], sets=3),
                method("b", [0.9, 0.91, 0.9], [0.9, 0.8, 0.9], sets=3),
            )
        )
    ]
    assert texts[0].endswith("1 training seed, 3 sampling seeds; holds for these trained networks only.")
    assert texts[1].endswith("it takes several training seeds to tell.")


def test_the_answer_names_a_method_for_quality_for_coverage_and_for_speed() -> None:
    field = compared(*four().methods, method("gan", [0.9, 0.91, 0.92], [0.3, 0.31, 0.32], calls=1))
    quality, coverage, speed = answer(field)
    assert quality.startswith("**For quality: edm")
    assert coverage.startswith("**For coverage: edm")
    assert "not distinguishable yet from the next, edm" in quality
    assert speed.startswith("**For speed: gan** (1 network call per image), at the cost of fd 0.91 against 0.22 of edm")


def test_the_picture_has_a_name_at_every_point_and_none_on_another() -> None:
    figure = trilemma_picture(four())
    (axes,) = figure.axes
    assert sorted(text.get_text() for text in axes.texts) == ["ddgan", "edm", "edm-dg", "siddm"]
    boxes = [text.get_window_extent() for text in axes.texts]
    assert not any(a.overlaps(b) for number, a in enumerate(boxes) for b in boxes[:number])
