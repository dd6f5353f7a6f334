"""How page and terminal speak of privacy: numbers rounded to the safe side, and what they mean to a patient."""

import json
import math
from decimal import ROUND_CEILING, Context
from pathlib import Path

from melfed.server.runs.summary import PrivacySummary

NOISE_OFF = "No privacy: the noise is off"
FALSE_ALARMS = 0.01
NEARLY_ALL = 0.999
HUGE = 300.0  # beyond this e^ε is no sensible number to print

_PLURALS = {"patient": "patients", "lesion": "lesions", "image": "images"}


def ceiling(value: float) -> str:
    """Return a number of three digits that is not below the value: a loss is never stated as less than it is."""
    return f"{float(Context(prec=3, rounding=ROUND_CEILING).create_decimal(repr(value))):g}"


def short(value: float) -> str:
    """Return a number with the digits that it needs, six at most."""
    return f"{value:g}".replace("e-0", "e-").replace("e+0", "e")


def shown(value: object) -> str:
    """Return a study's value as a study writes it, numbers short."""
    if isinstance(value, float):
        return short(value)
    return value if isinstance(value, str) else json.dumps(value)


def units(privacy: PrivacySummary) -> str:
    """Return the plural of what is protected."""
    return _PLURALS[privacy.unit]


def protected(privacy: PrivacySummary) -> str:
    """Return who is protected, as the object of a sentence."""
    who = f"every {privacy.unit}{' in training' if privacy.evaluation == 'public' else ''}"
    return who if privacy.unit == "patient" else f"{who} (not every patient)"


def noise_is_off(privacy: PrivacySummary) -> bool:
    """Tell whether training, or the histograms, left without noise that the study does not call public."""
    return privacy.noise_multiplier == 0 or privacy.evaluation_noise_multiplier == 0


def spent(privacy: PrivacySummary) -> str:
    """Return the largest total of any ledger; never above the stated ε by rounding alone."""
    total, stated = privacy.epsilon_spent, privacy.epsilon
    if total is None:
        return "without bound"
    rounded = ceiling(total)
    return short(stated) if stated is not None and total <= stated < float(rounded) else rounded


def strength(privacy: PrivacySummary) -> str:
    """Return ε, stated and spent, and δ."""
    at = f"at δ = {short(privacy.delta)}"
    if privacy.epsilon is None:
        return f"ε = {spent(privacy)} {at}"
    more = privacy.epsilon_spent is not None and privacy.epsilon_spent > privacy.epsilon
    other = ", other studies of the same data included" if more else ""
    return f"ε = {short(privacy.epsilon)} (spent {spent(privacy)}{other}) {at}"


def headline(privacy: PrivacySummary) -> str:
    """Return the one sentence that a reader should take along."""
    if noise_is_off(privacy):
        return f"{NOISE_OFF}. No {privacy.unit} is protected."
    if privacy.epsilon_spent is None:
        return f"No privacy: a clinic's ledger has no bound. No {privacy.unit} is protected there."
    who = protected(privacy)
    public = " Validation and test images are declared public." if privacy.evaluation == "public" else ""
    return f"{who[:1].upper()}{who[1:]} is protected: {strength(privacy)}.{_counted_apart(privacy)}{public}"


def _counted_apart(privacy: PrivacySummary) -> str:
    if privacy.unit == "patient":
        return ""
    return f" A patient with several {units(privacy)} is protected less: two {units(privacy)} count as two."


def terminal_line(privacy: PrivacySummary, ledgers: Path | str) -> str:
    """Return the privacy of a run in one line."""
    if noise_is_off(privacy) or privacy.epsilon_spent is None:
        said = "none, the noise is off" if noise_is_off(privacy) else "none, a clinic's ledger has no bound"
    elif privacy.epsilon is None:
        said = f"{protected(privacy)}, ε {spent(privacy)}, δ {short(privacy.delta)}"
    else:
        said = f"{protected(privacy)}, ε {short(privacy.epsilon)} (spent {spent(privacy)}), δ {short(privacy.delta)}"
    steps = f"{privacy.steps} step{'' if privacy.steps == 1 else 's'}"
    return f"privacy: {said}, σ {privacy.noise_multiplier:.3g}, {steps}; ledgers: {ledgers}"


def right_guesses(epsilon: float, delta: float) -> float:
    """Return the largest share of right answers of whoever guesses, at even odds, whether a unit is in the data.

    (e^ε + δ) / (e^ε + 1), from Kairouz, Oh & Viswanath 2015 (arXiv 1311.0776), theorem 2.1: no test has
    P(right alarm) > e^ε P(false alarm) + δ, nor the same with "in" and "out" exchanged.
    """
    return (1 + delta * math.exp(-epsilon)) / (1 + math.exp(-epsilon))


def found(epsilon: float, delta: float, false_alarms: float) -> float:
    """Return the largest share of the units in the data that a test with so many false alarms can recognise."""
    return min(1.0, false_alarms * math.exp(min(epsilon, HUGE)) + delta)


def meanings(privacy: PrivacySummary) -> list[tuple[str, str]]:
    """Return heading and text of what a reader should know before relying on the privacy of a run."""
    if noise_is_off(privacy) or privacy.epsilon_spent is None:
        return [("No protection", _UNPROTECTED)]
    points = [("What ε says", _says(privacy, privacy.epsilon_spent)), ("What δ says", _delta(privacy))]
    if privacy.unit != "patient":
        points.append((f"Patients with several {units(privacy)}", _several(privacy, privacy.epsilon_spent)))
    points.append(("What it does not say", _NOT_SAID))
    points.append(("What is not counted", _NOT_COUNTED))
    return points


def _says(privacy: PrivacySummary, epsilon: float) -> str:
    unit, at = privacy.unit, ceiling(epsilon)
    guess = right_guesses(epsilon, privacy.delta)
    who = (
        f"Suppose someone sees all that left a clinic under noise, knows every other image there, and asks whether one "
        f"{unit} was in its data."
    )
    if guess > NEARLY_ALL:
        return (
            f"{who} At ε = {at} the mathematics still allows them to be right practically always: so large an ε limits "
            "what can be learnt, but excludes next to nothing. What real attacks reach is usually less; nobody can "
            "promise that."
        )
    alarms = found(epsilon, privacy.delta, FALSE_ALARMS)
    seen = "all" if alarms == 1 else f"no more than {ceiling(100 * alarms)} in 100"
    return (
        f"{who} Whatever their method, an alarm multiplies the odds by at most e^ε = {ceiling(math.exp(epsilon))}, up "
        f"to δ. A method with a false alarm for 1 in 100 {units(privacy)} that were not there recognises {seen} of "
        f"those that were; a guess at even odds is right at most {ceiling(100 * guess)} times in 100, where tossing a "
        "coin gives 50. These are limits for the worst case, which real attacks usually do not reach. A smaller ε is "
        f"stronger: at ε = 1 the last number is {ceiling(100 * right_guesses(1.0, 0.0))}."
    )


def _delta(privacy: PrivacySummary) -> str:
    return (
        f"δ = {short(privacy.delta)} is what the promise may fail by: it is added to every probability beside it. It "
        f"should be far below one in the number of a clinic's {units(privacy)}, or giving one of them away would be "
        "allowed."
    )


def _several(privacy: PrivacySummary, epsilon: float) -> str:
    return (
        f"The noise hides one {privacy.unit}. All {units(privacy)} of a patient with two of them are hidden at "
        f"2 ε = {ceiling(2 * epsilon)} only, with three at {ceiling(3 * epsilon)}, and at a larger δ. Patients are the "
        "better unit wherever the data name them."
    )


_UNPROTECTED = (
    "Gradients were clipped, but what left the clinics has no noise, or too little to bound what it tells. Nothing "
    "limits what can be learnt about a patient. Such a run shows what noise costs, and is for images that may be "
    "public."
)
_NOT_SAID = (
    "Privacy here means that a result hardly depends on whether one takes part. It does not keep the model from being "
    "right: what holds for many patients is learnt, and tells about someone who never took part as well. Who is at two "
    "clinics is protected by each on its own, and the two ε add up."
)
_NOT_COUNTED = (
    "ε covers what the table above calls part of ε, in all runs that the clinics' ledgers hold. Runs that are in no "
    "ledger, such as earlier ones in other folders by which a setting was chosen, are not in it; nor is what the table "
    "calls not covered. Images that the study or the warm start takes as public are not protected at all."
)
