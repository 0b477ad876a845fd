"""The first screen of the project's README, written between two marks: verdicts, pictures, one table, what it cost."""

from collections.abc import Iterable, Sequence
from math import isnan, nan

import pandas as pd

from pipeline.config.study import Study
from pipeline.report.costs import spent
from pipeline.report.verdicts import WORDS, Field, Method, answer, statements
from pipeline.store.files import write_file
from pipeline.tables.markdown import bounds, markdown_table

START, END = "<!-- results -->", "<!-- end of results -->"
MOST_ROWS, MOST_VERDICTS = 10, 8


def refresh_readme(study: Study, fields: Sequence[Field], cost: pd.DataFrame) -> None:
    """With the first dataset. Only the project's own study does this; a README without the marks stays as it is."""
    readme = study.folder / "README.md"
    if study.folder != study.root or not readme.is_file() or not fields:
        return
    before, start, rest = readme.read_text().partition(START)
    _, end, after = rest.partition(END)
    if end:
        block = "\n\n".join(_block(study, fields[0], cost))
        write_file(readme, f"{before}{start}\n{block}\n{end}{after}")


def _block(study: Study, of: Field, cost: pd.DataFrame) -> Iterable[str]:
    yield "\n".join(f"- {line}" for line in answer(of))
    pictures = {"trilemma": "quality and coverage of every method", "together": "samples of every method"}
    for name, about in pictures.items():
        if (study.folder / "reports" / "figures" / f"{of.dataset}-{name}.png").is_file():
            yield f"![{about}](reports/figures/{of.dataset}-{name}.png)"
    yield _table(study, of, cost)
    found = statements(of)
    if lines := [f"- {one.text}" for one in found[:MOST_VERDICTS]]:
        rest = len(found) - len(lines)
        lines += [f"- {rest} more comparisons are in [reports/README.md](reports/README.md)."] * bool(rest)
        yield "\n".join(lines)
    yield f"The study took {spent(cost)}"


def _table(study: Study, of: Field, cost: pd.DataFrame) -> str:
    """The best methods by quality, and those that are best in coverage or need the fewest calls."""
    always = [of.ordered("coverage")[0].name, min(of.methods, key=lambda method: method.calls).name]
    rest = [method.name for method in of.methods if method.name not in always]
    chosen = {*always, *rest[: MOST_ROWS - len({*always})]}
    quality, coverage = (of.metrics[kind] for kind in WORDS)
    columns = ["method", "calls per image", f"{quality} [95 %]", f"{coverage} [95 %]", "training, CPU s", "seeds"]
    real = ["*real images*", "", *("" if of.real[k] is None else f"{of.real[k]:.3g}" for k in WORDS), "", ""]
    rows = [real]
    for method in of.methods:
        if method.name in chosen:
            values = [method.values[kind] for kind in WORDS]
            shown = [f"{value.value:.3g}{bounds(value.ci_low, value.ci_high, 3)}" for value in values]
            rows.append(
                [
                    method.name,
                    method.calls_text.partition(" call")[0],
                    *shown,
                    _training(study, method, cost),
                    str(values[0].train_seeds),
                ]
            )
    return markdown_table(columns, rows)


def _training(study: Study, method: Method, cost: pd.DataFrame) -> str:
    """Mean CPU seconds of one training seed, those of guides and their fakes included; empty if one is not known."""
    seconds: dict[tuple[str, str], float] = dict(
        zip(zip(cost["stage"], cost["name"]), cost["cpu_seconds"].astype(float))
    )
    totals = []
    for one in method.arm.repetitions:
        run = study.guided[one.entry].run if one.entry in study.guided else one.entry
        stages = [("pretrain", run)]
        for use in study.guided[one.entry].guides if one.entry in study.guided else ():
            name = use["guide"]
            if name in study.guides:
                trunk = study.guides[name].trunk
                stages += [("generate", name), ("discriminate", name)] + ([("classify", trunk)] if trunk else [])
            else:
                stages.append(("classify", name))
        totals.append(sum(seconds.get(stage, nan) for stage in dict.fromkeys(stages)))
    mean = sum(totals) / len(totals)
    return "" if isnan(mean) else f"{mean:.0f}"
