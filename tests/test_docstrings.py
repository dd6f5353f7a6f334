"""The examples in docstrings give what they show."""

import doctest
import importlib
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY

PACKAGES = ("common", "client", "server", "simulations")
FILES = sorted(
    path.relative_to(REPOSITORY)
    for package in PACKAGES
    for path in (REPOSITORY / package).rglob("*.py")
    if ">>> " in path.read_text(encoding="utf-8")
)
CALLED = (
    "common.aggregation.median",
    "common.aggregation.weighted_mean.WeightedMean",
    "common.audit.log.verify_log",
    "common.data.records.read_table",
    "common.metrics.exact.histogram_metrics",
    "common.metrics.exact.scored_metrics",
    "common.model.backbones.backbone_spec",
    "common.study.file.read_study",
    "common.study.protocol.StudyProtocol",
    "client.config.policy.check_study",
    "client.ledger.ledger.verify",
    "client.privacy.accounting.epsilon",
    "client.privacy.accounting.noise_multiplier",
    "client.privacy.plan.plan_of",
    "simulations.api.run.Run",
    "simulations.api.simulate.simulate",
    "simulations.api.study.Study",
    "simulations.partition.partition.partition",
)
"""What people will call from a notebook: each has an example."""


def module_of(path: Path) -> str:
    return ".".join(["melfed", *path.with_suffix("").parts]).removesuffix(".__init__")


def examples(path: Path) -> list[doctest.DocTest]:
    found = doctest.DocTestFinder().find(importlib.import_module(module_of(path)))
    return [each for each in found if each.examples]


def test_the_functions_that_people_call_have_examples() -> None:
    having = {each.name.removeprefix("melfed.") for path in FILES for each in examples(path)}
    assert [name for name in CALLED if name not in having] == []


@pytest.mark.parametrize("path", FILES, ids=str)
def test_the_examples_hold(path: Path) -> None:
    tests = examples(path)
    assert tests, "its examples are in no docstring"
    told: list[str] = []
    runner = doctest.DocTestRunner(verbose=False)
    for test in tests:
        runner.run(test, out=told.append)
    assert not runner.failures, "".join(told)
    assert runner.tries == sum(len(test.examples) for test in tests)
