"""How numbers that clinics tell are spoken of: what they are of, and with what noise."""

import math
from dataclasses import replace
from pathlib import Path

from melfed.server.report.count_words import amounts, headings, is_about, marked, of_data, scope, told, told_unit
from melfed.server.runs.summary import Counted, RunSummary
from tests.server.fake_run import NOISED, PRIVATE, FakeRun

TWO = FakeRun(clinics=("a", "b"), images=(120, 80), melanoma_rates=(0.3, 0.3), rounds=1)


def summary(path: Path, **changes) -> RunSummary:
    return replace(TWO, **changes).write(path / str(len(list(path.iterdir())))).summary()


def test_without_privacy_numbers_are_exact_and_nothing_is_said_of_noise(tmp_path: Path) -> None:
    exact = summary(tmp_path)
    assert (told_unit(exact), told(exact), of_data(exact)) == (None, "", None)
    data = exact.data
    assert amounts(exact) == f"{data.images:,} images, {data.melanomas:,} melanomas, {data.groups:,} lesions"


def test_one_melanoma_is_one(tmp_path: Path) -> None:
    exact = summary(tmp_path, groups_by="image")
    one = exact.model_copy(update={"data": exact.data.model_copy(update={"melanomas": 1, "images": None})})
    assert amounts(one) == "1 melanoma"


def test_noised_numbers_are_of_units_with_their_noise_and_that_of_the_sums(tmp_path: Path) -> None:
    noised = summary(tmp_path, privacy=NOISED, deployed=True)
    assert told_unit(noised) == "patient"
    assert headings("patient") == ("Patients", "With melanoma")
    assert is_about(noised.clinics)
    assert scope(noised) == "all data"
    words = told(noised)
    assert words.startswith(
        "All data are counted in patients, whose numbers each clinic told once, with noise of about "
    )
    noises = [clinic.counted.patients_noise for clinic in noised.clinics]
    assert f"the sums have noise of about {round(math.hypot(*noises))} (" in words  # independent: squares add up
    assert round(math.hypot(*noises)) != round(sum(noises))
    assert "estimates from noisy histograms, which count every patient once" in words
    described = of_data(noised)
    assert described is not None
    assert described.startswith(f"about {noised.data.groups:,} patients, about {noised.data.melanomas:,} of them")
    assert amounts(noised) == described


def test_where_the_evaluation_is_public_training_alone_is_counted_in_units(tmp_path: Path) -> None:
    public = summary(tmp_path, privacy=PRIVATE, deployed=True)
    assert scope(public) == "training data"
    assert told(public).startswith("Training data are counted in patients")
    assert told(public).endswith("exact: the study declares these images public.")
    assert " patients for training, " in (of_data(public) or "")


def test_public_figures_in_place_of_noised_ones_are_told_by_whom(tmp_path: Path) -> None:
    some = summary(tmp_path, privacy=NOISED, declared=("b",))
    assert "b stated public figures in their place, without noise." in told(some)
    everybody = summary(tmp_path, privacy=NOISED, declared=("a", "b"))
    assert told(everybody).startswith(
        "All data are counted in patients: public figures that the clinics state, without noise."
    )
    assert headings("image") == ("Images", "Melanomas")
    assert not is_about(everybody.clinics)


def test_a_number_that_is_not_exact_is_marked_where_others_are(tmp_path: Path) -> None:
    some = summary(tmp_path, privacy=NOISED, declared=("b",))
    assert [is_about([clinic]) for clinic in some.clinics] == [True, False]
    assert is_about(some.clinics), "a sum with one that is not exact is not exact"
    assert (marked(1234, about=True), marked(1234, about=False)) == ("≈ 1,234", "1,234")
    old = [clinic.model_copy(update={"counted": Counted(how="rounded")}) for clinic in some.clinics]
    assert is_about(old)
