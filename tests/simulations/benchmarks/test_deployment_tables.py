"""The tables of the deployment's figures."""

from io import StringIO

from rich.console import Console

from melfed.simulations.benchmarks.deployment import machine
from melfed.simulations.benchmarks.deployment_tables import show

SPLIT = {
    "rounds": 4,
    "round": 1.234,
    "polling": 0.5,
    "training": 0.1,
    "worker": 0.05,
    "messenger": 0.25,
    "transport": 0.125,
    "overhead": 0.425,
    "overhead_largest": 0.777,
    "second_round_overhead": 0.456,
}
RESULT = {
    "machine": machine(),
    "start_seconds": 12.0,
    "rounds": {
        "deployed": SPLIT,
        "simulated_round": 0.321,
        "rounds": 5,
        "run_seconds": 20.0,
        "simulated_run_seconds": 15.0,
        "bytes_a_round": 32_000,
    },
    "memory": {
        "after": {
            "10": {"client: worker": {"rss_mb": 500.0, "pss_mb": 400.25}},
            "50": {
                "client: worker": {"rss_mb": 501.0, "pss_mb": 401.5},
                "server: serverapp": {"rss_mb": 9, "pss_mb": 8},
            },
        },
        "grown_mb": {"client: worker": 1.25},
    },
    "large": {
        "model_mb": 94.1,
        "round_seconds": [31.0, 22.5],
        "second_round": SPLIT,
        "simulated_round": 3.0,
        "run_seconds": 70.0,
        "peak_mb": {"server: superlink": 612.0},
        "database_mb_peak": 400.0,
        "database_mb_end": 12.0,
    },
}


def shown(*parts: str) -> str:
    out = StringIO()
    show(
        {"machine": RESULT["machine"], "start_seconds": 12.0, **{part: RESULT[part] for part in parts}},
        Console(file=out, width=200),
    )
    return out.getvalue()


def test_all_figures_are_shown() -> None:
    text = shown("rounds", "memory", "large")
    for figure in (
        "1.234",
        "0.321",
        "0.456 s",
        "4.00 s a round",
        "400.2 (500)",
        "+1.2",
        "94.1",
        "31.0, 22.5",
        "612",
        "400, 12",
    ):
        assert figure in text, figure


def test_parts_that_were_not_measured_are_not_shown() -> None:
    text = shown("rounds")
    assert "memory" not in text
    assert "database" not in text
