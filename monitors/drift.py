"""Holds a window against a reference with Evidently, in a process of its own: ``python -m monitors.drift TASK RESULT``.

Evidently brings pandas and scikit-learn with it and takes seconds to import, so nothing else imports this module; the
monitor starts it as a child, with a task and a place for the result (`monitors.drifting.task`). Per kind of column:

number      `ks_distance`, registered with Evidently: its own ``ks`` tells a p-value, which no reader can picture
category    Evidently's ``jensenshannon``; categories that the reference hardly has are one, `OTHER`
text        `mean_distance`, registered with Evidently, of hashed words and pairs of words
vector      `mean_distance` of embeddings

Evidently's own test for text trains a classifier for each window, 4 s for 1,000 rows, which cannot be drawn thousands
of times, and its report quotes prompts. Here each text is `DIMENSIONS` numbers that do not depend on a vocabulary, so
there is none to prune away, and the report shows only how far texts lie from the reference's mean.
"""

import os
import re
import sys
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
import pandas as pd
from evidently import DataDefinition, Dataset, Report
from evidently.legacy.calculation_engine.python_engine import PythonEngine
from evidently.legacy.calculations.stattests.registry import (
    StatTest,
    add_stattest_impl,
    create_impl_wrapper,
    get_registered_stattest,
    register_stattest,
)
from evidently.legacy.core import ColumnType
from evidently.legacy.tests.base_test import TestStatus
from evidently.metrics import ValueDrift
from scipy.stats import ks_2samp
from sklearn.feature_extraction.text import HashingVectorizer

from monitors.drifting.calibration import (
    Floats,
    Null,
    from_json,
    holm,
    null_of_categories,
    null_of_numbers,
    null_of_vectors,
    numbers,
    to_json,
)
from monitors.drifting.task import Kind, Result, Task, Values, Verdict

DIMENSIONS = 512
OTHER = "(other)"
_LEAST_OF_CATEGORY = 5  # rows of the reference; what is rarer tells nothing by its absence
_WORD = r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]|\w+"  # scripts without spaces go letter by letter
_DIGIT = re.compile(r"\d")
_NICENESS = 15
_DECIMALS = 9
_METHODS: dict[Kind, str] = {
    "number": "ks_distance",
    "category": "jensenshannon",
    "text": "mean_distance",
    "vector": "mean_distance",
}


@dataclass(frozen=True, slots=True)
class _Column:
    """A column as Evidently takes it; of vectors, the frames hold only how far each lies from the reference's mean.

    Attributes:
        reference, current: what stands in the frames.
        vectors, current_vectors: (rows, dimensions), by position in the frames; None for numbers and categories.
    """

    name: str
    kind: Kind
    reference: pd.Series
    current: pd.Series
    vectors: Floats | None = None
    current_vectors: Floats | None = None

    @property
    def type(self) -> ColumnType:
        return ColumnType.Categorical if self.kind == "category" else ColumnType.Numerical

    @property
    def method(self) -> str:
        """The name of its statistic at Evidently; that of vectors is the column's own."""
        return _METHODS[self.kind] if self.vectors is None else f"{_METHODS[self.kind]} of {self.name}"


@dataclass(frozen=True, slots=True)
class Measured:
    """What a window's columns measure: Evidently's statistic, and how it varies without drift, by column."""

    columns: tuple[_Column, ...]
    statistics: Mapping[str, float]
    nulls: Mapping[str, Null]

    @property
    def p_values(self) -> dict[str, float]:
        """How probable statistics as large as these are without drift."""
        return {name: self.nulls[name].p_value(statistic) for name, statistic in self.statistics.items()}


def measure(task: Task) -> Measured:
    """Everything but verdicts and report."""
    columns = tuple(_prepare(values) for values in task.columns)
    for column in columns:
        _register(column)
    return Measured(
        columns,
        {column.name: _statistic(column) for column in columns},
        {column.name: _null(column, task) for column in columns},
    )


def judge(task: Task) -> Result:
    """Do the task: measure, and have Evidently hold the statistics against the thresholds of Holm's procedure.

    Raises:
        ValueError: Evidently cannot judge a column.
    """
    found = measure(task)
    p_values = found.p_values
    _, level = holm(p_values, task.alpha)
    thresholds = {name: null.threshold(level) for name, null in found.nulls.items()}
    drifted = _report(found.columns, thresholds, task.report)
    verdicts = [
        Verdict(
            name=column.name,
            method=_METHODS[column.kind],
            statistic=found.statistics[column.name],
            threshold=thresholds[column.name],
            p_value=p_values[column.name],
            drifted=drifted[column.name],
            rows=len(column.current),
            reference_rows=len(column.reference),
        )
        for column in found.columns
    ]
    return Result(verdicts, {name: to_json(null) for name, null in found.nulls.items()})


def ks_distance(reference: pd.Series, current: pd.Series, _type: ColumnType, threshold: float) -> tuple[float, bool]:
    """The largest difference of two samples' shares at or below any value, and whether it reaches the threshold."""
    distance = float(ks_2samp(reference, current, method="asymp").statistic)
    return distance, distance >= threshold


register_stattest(StatTest("ks_distance", "Kolmogorov-Smirnov distance", [ColumnType.Numerical]), ks_distance)


def _prepare(values: Values) -> _Column:
    if values.kind == "category":
        known = {name for name, rows in Counter(values.reference).items() if rows >= _LEAST_OF_CATEGORY}
        reference, current = (
            pd.Series([each if each in known else OTHER for each in side], dtype=object)
            for side in (values.reference, values.current)
        )
        return _Column(values.name, values.kind, reference, current)
    if values.kind == "number":
        reference, current = _plotted(numbers(values.reference)), _plotted(numbers(values.current))
        return _Column(values.name, values.kind, reference, current)
    vectors = _hashed if values.kind == "text" else _normalized
    return _of_vectors(values, vectors(values.reference), vectors(values.current))


def _of_vectors(values: Values, reference: Floats, current: Floats) -> _Column:
    """Dimensions that vary much count less, so that the words of every text do not drown the others.

    Those that hardly vary in the reference are not blown up: there, what they are worth is not known well.
    """
    variance = reference.var(axis=0)
    weights = 1 / np.sqrt(variance + (variance.mean() or 1.0))
    reference, current = reference * weights, current * weights
    middle = reference.mean(axis=0)
    far, current_far = (_plotted(np.linalg.norm(side - middle, axis=1)) for side in (reference, current))
    return _Column(values.name, values.kind, far, current_far, reference, current)


def _plotted(values: Floats) -> pd.Series:
    """Without differences so small that no histogram has room for them, which raises."""
    return pd.Series(np.round(values, _DECIMALS))


def _hashed(texts: Sequence[str]) -> Floats:
    """Counts of words and pairs of words as (texts, `DIMENSIONS`), each text of length 1."""
    hashing = HashingVectorizer(
        n_features=DIMENSIONS, ngram_range=(1, 2), token_pattern=_WORD, preprocessor=_plain, norm="l2"
    )
    return np.asarray(hashing.transform(texts).toarray(), dtype=np.float64)


def _plain(text: str) -> str:
    """Numbers count by their length: no two order numbers are the same, and none is news."""
    return _DIGIT.sub("0", text.casefold())


def _normalized(vectors: Sequence[Sequence[float]]) -> Floats:
    found = np.asarray(vectors, dtype=np.float64)
    return np.asarray(found / np.maximum(np.linalg.norm(found, axis=1, keepdims=True), 1e-12))


def _register(column: _Column) -> None:
    """Tell Evidently the statistic of a column of vectors. It knows the rows by their positions in its frames."""
    vectors, current_vectors = column.vectors, column.current_vectors
    if vectors is None or current_vectors is None:
        return

    def mean_distance(
        reference: pd.Series, current: pd.Series, _type: ColumnType, threshold: float
    ) -> tuple[float, bool]:
        means = vectors[reference.index].mean(axis=0), current_vectors[current.index].mean(axis=0)
        distance = float(np.linalg.norm(means[0] - means[1]))
        return distance, distance >= threshold

    test = StatTest(column.method, "distance of the means", [ColumnType.Numerical])
    register_stattest(test)
    add_stattest_impl(test, PythonEngine, create_impl_wrapper(mean_distance))  # which is forgotten with the next one


def _null(column: _Column, task: Task) -> Null:
    """How its statistic varies without drift, from an earlier result if that was for the same sizes."""
    rows, reference_rows = len(column.current), len(column.reference)
    if stored := task.nulls.get(column.name):
        null = from_json(stored)
        if (null.rows, null.reference_rows) == (rows, reference_rows):
            return null
    rng = np.random.default_rng(task.seed)
    if column.vectors is not None:
        return null_of_vectors(column.vectors, rows, rng, task.draws)
    if column.kind == "category":
        return null_of_categories(column.reference.tolist(), rows, rng, task.draws)
    return null_of_numbers(numbers(column.reference), rows, rng, task.draws)


def _statistic(column: _Column) -> float:
    test = get_registered_stattest(column.method, column.type)
    return float(test(column.reference, column.current, column.type, None).drift_score)


def _report(columns: Sequence[_Column], thresholds: Mapping[str, float], html: str | None) -> dict[str, bool]:
    """Evidently's verdicts by column, and its report at `html`."""
    drifts = [
        ValueDrift(column=column.name, method=column.method, threshold=thresholds[column.name]) for column in columns
    ]
    definition = DataDefinition(
        numerical_columns=[column.name for column in columns if column.type == ColumnType.Numerical],
        categorical_columns=[column.name for column in columns if column.type == ColumnType.Categorical],
    )
    frames = (
        pd.DataFrame({column.name: column.current for column in columns}),
        pd.DataFrame({column.name: column.reference for column in columns}),
    )
    current, reference = (Dataset.from_pandas(frame, data_definition=definition) for frame in frames)
    snapshot = Report(drifts, include_tests=True).run(current, reference)
    if html is not None:
        snapshot.save_html(html)
    verdicts = snapshot.dict()["tests"]
    return {test["metric_config"]["params"]["column"]: test["status"] == TestStatus.FAIL for test in verdicts}


def main(task: Path, result: Path) -> None:
    """Do the task in one file and write the result into another."""
    os.nice(_NICENESS)
    warnings.simplefilter("ignore")
    found = judge(msgspec.json.decode(task.read_bytes(), type=Task))
    result.write_bytes(msgspec.json.encode(found))


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1]), Path(sys.argv[2]))
    except Exception as error:
        # The error's own words may quote what it was given.
        sys.exit(type(error).__name__)
