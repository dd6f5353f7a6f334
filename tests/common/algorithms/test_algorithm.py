"""What algorithms are: which are there, and what each of them asks for."""

import numpy as np

from melfed.common.algorithms import ALGORITHMS, PLAIN, algorithm_of
from melfed.common.algorithms.algorithm import as_control, control_of, zeros_like
from melfed.common.optimizers import OPTIMIZERS, optimizer_of
from melfed.common.study.file import documented_keys


def test_each_file_is_an_algorithm_that_a_study_can_name() -> None:
    assert ALGORITHMS.keys() == {"scaffold", "fednova", "fedbn", "ditto"}
    assert not ALGORITHMS.keys() & OPTIMIZERS.keys()
    listed = next(text for name, _, text in documented_keys() if name == "federation.algorithm")
    assert all(name in listed for name in (*ALGORITHMS, *OPTIMIZERS))


def test_server_optimisers_leave_the_clinics_part_as_it_is() -> None:
    for name in OPTIMIZERS:
        assert algorithm_of(name) is PLAIN
    for name in ALGORITHMS:
        assert optimizer_of(name) is OPTIMIZERS["fedavg"]
    assert (PLAIN.personal, PLAIN.keeps, PLAIN.directed, PLAIN.trainings) == (False, False, False, 1)


def test_what_each_asks_for() -> None:
    asks = {name: (a.personal, a.keeps, a.directed, a.trainings) for name, a in ALGORITHMS.items()}
    assert asks == {
        "scaffold": (False, True, True, 1),
        "fednova": (False, False, True, 1),
        "fedbn": (True, True, False, 1),
        "ditto": (True, True, False, 2),
    }


def test_zeros() -> None:
    assert {n: t.tolist() for n, t in zeros_like({"a": np.ones((1, 2))}).items()} == {"a": [[0.0, 0.0]]}


def test_a_control_variate_travels_beside_the_model() -> None:
    model, control = {"a.weight": np.ones(2, np.float32)}, {"a.weight": np.zeros(2, np.float32)}
    together = {**model, **as_control(control)}
    assert together.keys() == {"a.weight", "control/a.weight"}
    assert control_of(together)["a.weight"] is control["a.weight"]
    assert control_of(model) == {}
