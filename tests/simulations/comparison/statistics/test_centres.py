"""Centres that a comparison names: what the data hold of each, what is absent, and what is none of them."""

from melfed.common.data.records import LesionRecord
from melfed.simulations.comparison.spec import Comparison
from melfed.simulations.comparison.statistics.centres import Centre, centres_of


def record(number: int, source: str, *, target: int = 0, lesion: str | None = None) -> LesionRecord:
    return LesionRecord(f"{number}.jpg", target, None, None, lesion, None, None, None, None, source)


def test_each_centre_has_its_sources_and_the_absent_have_none() -> None:
    names = {"north": ("N_*", "center_0"), "south": ("S",), "east": ("*",)}
    records = [
        record(1, "N_1", target=1, lesion="a"),
        record(2, "N_1", target=1, lesion="a"),
        record(3, "N_2"),
        record(4, "elsewhere"),
    ]
    assert centres_of(Comparison(study={}, centres=names), records) == (
        Centre("north", ("N_1", "N_2"), 3, 2, 2),
        Centre("south", (), 0, 0, 0),
        Centre("east", ("elsewhere",), 1, 0, 1),
    )
    without_east = {name: names[name] for name in ("north", "south")}
    assert centres_of(Comparison(study={}, centres=without_east), records)[-1] == Centre("", ("elsewhere",), 1, 0, 1)
    assert centres_of(Comparison(study={}), records) == ()
