"""What a private study's summary says: the weakest of the clinics, and everything that left them."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from melfed.common.errors import RunError, StudyError
from melfed.common.study.protocol import FederationSpec, PrivacySpec, StudyProtocol, validates
from melfed.common.study.recipe import Choice
from melfed.server.results.privacy import summarise_privacy
from melfed.server.runs.counts import Counts
from melfed.server.runs.outcome import ReportedAccount
from melfed.server.runs.summary import PrivacySummary

HEAD = "0a" * 32
PUBLIC = {"unit": "patient", "epsilon": 3.0, "evaluation": "public"}


def study_of(rounds: int = 20, every: int = 1, cohort: float = 1.0, **privacy: object) -> StudyProtocol:
    federation = FederationSpec(rounds=rounds, validate_every=every, cohort=cohort)
    return StudyProtocol(federation=federation, privacy=PrivacySpec.model_validate({**PUBLIC, **privacy}))


def account(epsilon: float | None = 2.98, noise: float = 8.2, evaluation: float | None = None) -> ReportedAccount:
    return ReportedAccount(epsilon, HEAD, noise, evaluation)


def summary_of(study: StudyProtocol, *accounts: ReportedAccount, counts: float = 9.0) -> PrivacySummary:
    named = {f"clinic-{number}": each for number, each in enumerate(accounts or (account(),))}
    found = summarise_privacy(study, named, dict.fromkeys(named, told(counts)))
    assert found is not None
    return found


def told(noise: float) -> Counts:
    return Counts(numbers={}, noise=noise)


def released(summary: PrivacySummary, beginning: str) -> tuple[str, str, str]:
    rows = [row for row in summary.released if row.quantity.startswith(beginning)]
    assert len(rows) == 1, [row.quantity for row in summary.released]
    return rows[0].quantity, rows[0].protection, rows[0].cost


def test_a_study_without_privacy_has_none() -> None:
    assert summarise_privacy(StudyProtocol(), {"a": account()}, {}) is None


def test_what_the_study_stated_and_the_clinics_spent() -> None:
    choices = (Choice("privacy.steps", 2, "few patients"), Choice("training.learning_rate", 1e-05, "small"))
    found = summarise_privacy(
        study_of(steps=2, sampling_rate=0.25, clipping_norm=0.5, delta=1e-6),
        {"south": account(2.9, 8.3), "north": account(2.98, 8.2)},
        {"south": told(9.0), "north": told(9.0)},
        choices,
        ("δ is large",),
    )
    assert found is not None
    assert (found.unit, found.epsilon, found.epsilon_spent, found.delta) == ("patient", 3.0, 2.98, 1e-6)
    assert (found.noise_multiplier, found.sampling_rate, found.steps, found.clipping_norm) == (8.2, 0.25, 40, 0.5)
    assert [clinic.name for clinic in found.clinics] == ["north", "south"]
    assert [(c.key, c.value, c.reason) for c in found.recipe] == [
        ("privacy.steps", "2", "few patients"),
        ("training.learning_rate", "1e-5", "small"),
    ]
    assert found.warnings == ("δ is large",)
    assert PrivacySummary.model_validate_json(found.model_dump_json()) == found


epsilons = st.none() | st.just(float("inf")) | st.floats(0, 100)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(epsilons, st.floats(0, 100)), min_size=1, max_size=5))
def test_the_weakest_clinic_stands_for_all(clinics: list[tuple[float | None, float]]) -> None:
    found = summary_of(study_of(), *[account(*clinic) for clinic in clinics])
    assert found.noise_multiplier == min(noise for _, noise in clinics)
    unbounded = any(epsilon is None or epsilon == float("inf") for epsilon, _ in clinics)
    if unbounded:
        assert found.epsilon_spent is None
    else:
        assert found.epsilon_spent == max(epsilon or 0.0 for epsilon, _ in clinics)
    assert [clinic.epsilon is None for clinic in found.clinics] == [e in (None, float("inf")) for e, _ in clinics]


def test_everything_that_leaves_is_listed_once_with_its_cost() -> None:
    found = summary_of(study_of(steps=2))
    quantities = [row.quantity for row in found.released]
    assert len(set(quantities)) == len(quantities)
    assert all(row.protection and row.cost for row in found.released)
    words = " ".join(quantities).lower()
    for leaving in (
        *("model updates", "histograms of the scores of the validation", "histogram of the scores of the test"),
        *(
            "with a positive image and of other patients, for training",
            "numbers of validation and test images",
            "weight in the average",
            "time",
        ),
        *("answers, declines or fails", "reason", "name", "digest", "hash of the ledger", "training loss"),
    ):
        assert leaving in words, leaving


def test_model_updates_are_part_of_epsilon() -> None:
    quantity, protection, cost = released(summary_of(study_of(steps=2, clipping_norm=0.5)), "Model updates")
    assert quantity == "Model updates: 20 rounds of 2 steps, 40 in all"
    assert "clipped to norm 0.5" in protection
    assert "noise of 4.1 (σ 8.2 times the norm)" in protection
    assert cost == "part of ε"
    assert "scaled to at most" in released(summary_of(study_of(clipping="normalised")), "Model updates")[1]
    assert "fewer where a clinic is not asked" in released(summary_of(study_of(cohort=0.5)), "Model updates")[0]


def test_without_noise_nothing_is_called_protected() -> None:
    off = {"epsilon": None, "noise_multiplier": 0.0}
    found = summary_of(study_of(**off, evaluation="noised"), account(None, 0.0, 0.0), counts=0.0)
    costs = {beginning: released(found, beginning)[1:] for beginning in ("Model updates", "Histograms", "Histogram of")}
    assert {cost for _, cost in costs.values()} == {"no bound: there is no noise"}
    assert all("there is no noise" in protection for protection, _ in costs.values())
    assert found.epsilon_spent is None
    assert not [row for row in found.released if row.cost == "part of ε"]


@pytest.mark.parametrize(("rounds", "every"), [(1, 1), (7, 3), (6, 3), (5, 9)])
def test_noised_histograms_are_counted_and_charged(rounds: int, every: int) -> None:
    study = study_of(rounds, every, evaluation="noised")
    found = summary_of(study, account(evaluation=41.0), account(evaluation=40.0))
    quantity, protection, cost = released(found, "Histograms of the scores of the validation images")
    times = len([number for number in range(rounds + 1) if validates(study, number)])
    assert quantity.endswith(f": {times} release{'s' * (times > 1)}")
    assert "σ 40 times" in protection
    assert cost == "part of ε"
    assert released(found, "Histogram of the scores of the test")[1:] == (protection, cost)
    assert found.evaluation_noise_multiplier == 40.0


def test_public_histograms_are_exact_and_said_to_be_unprotected() -> None:
    found = summary_of(study_of())
    _, protection, cost = released(found, "Histogram of the scores of the test")
    assert protection == "exact: the study declares these images public"
    assert cost == "not charged: nothing protects these images"
    assert found.evaluation_noise_multiplier is None
    assert released(found, "Numbers of validation")[1].startswith("exact")


COUNTS = "Numbers of lesions with a positive image and of other lesions"


def of_counts(evaluation: str, *noises: float, spent: float | None = 2.98) -> PrivacySummary:
    study = study_of(unit="lesion", evaluation=evaluation)
    clinics = {f"clinic-{number}": told(noise) for number, noise in enumerate(noises)}
    given = account(spent, evaluation=40.0 if evaluation == "noised" else None)
    found = summarise_privacy(study, dict.fromkeys(clinics, given), clinics)
    assert found is not None
    return found


def test_counts_are_noised_once_and_charged() -> None:
    found = of_counts("noised", 9.25, 9.5)
    quantity, protection, cost = released(found, COUNTS)
    assert "in each part" in quantity
    assert "weight in the average" in quantity
    assert protection.startswith("Gaussian noise of 9.25 on each; one lesion changes one of them by 1; drawn once")
    assert cost == "part of ε"
    assert found.count_noise_multiplier == 9.25
    assert not [row for row in found.released if row.quantity.startswith(("Numbers of validation", "The same"))]


def test_of_public_images_counts_are_exact() -> None:
    found = of_counts("public", 9.25)
    assert ", for training; " in released(found, COUNTS)[0]
    assert released(found, "Numbers of validation")[1:] == (
        "exact: the study declares these images public",
        "not covered by ε",
    )


def test_declared_counts_cost_nothing() -> None:
    found = of_counts("noised", 0.0, 0.0)
    assert released(found, COUNTS)[1:] == (
        "public figures that the clinic itself states, and nothing that it counted",
        "none",
    )
    assert found.count_noise_multiplier is None
    some = of_counts("noised", 0.0, 9.25, 0.0)
    assert released(some, COUNTS)[2] == "part of ε"
    assert released(some, "The same, declared (by clinic-0, clinic-2)")[2] == "none"


def test_counts_without_noise_and_without_bound_are_not_called_declared() -> None:
    assert released(of_counts("noised", 0.0, spent=None), COUNTS)[1:] == (
        "there is no noise, unless the clinic states public figures",
        "no bound: there is no noise",
    )


def test_a_run_without_accounts_is_refused() -> None:
    with pytest.raises(RunError, match="no clinic said what it spent"):
        summarise_privacy(study_of(), {}, {})


@pytest.mark.parametrize(("evaluation", "noises"), [("noised", (40.0, None)), ("public", (40.0, None))])
def test_accounts_against_the_study_are_refused(evaluation: str, noises: tuple[float | None, ...]) -> None:
    with pytest.raises(StudyError, match=f"its evaluation is {evaluation}, but 1 of 2 clinics"):
        summary_of(study_of(evaluation=evaluation), *[account(evaluation=noise) for noise in noises])
