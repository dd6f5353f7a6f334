"""Private studies in real processes: what the ledgers say, after a kill too, who declines, and what was public."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from dp_accounting.pld.privacy_loss_distribution import PrivacyLossDistribution, from_gaussian_mechanism

from melfed.common.model.classifier import build_trunk
from tests.e2e.place import CLIENT, SIM, Place

EPSILON, DELTA = 6.0, 1e-5
CLINICS = ["phantom_east", "phantom_north", "phantom_south"]

STUDY = f"""\
name: private
data: {{image_size: 32, phantom: {{images: 150, clinics: 3, melanoma_rate: 0.4}}}}
partition: {{by: source}}
model: {{backbone: simple_cnn, pretrained: false}}
training: {{optimizer: sgd, learning_rate: 0.1, warmup_steps: 0, augment: false}}
federation: {{rounds: 3}}
privacy: {{unit: patient, epsilon: {EPSILON}, delta: {DELTA}, recipe: manual, sampling_rate: 0.5, steps: 2}}
"""

# A public run gives the private one its features; both are as small as they can be.
MODEL = "backbone: squeezenet1_1, neck: 8, dropout: 0.0"
DATA = "{image_size: 48, phantom: {images: 90, clinics: 3, melanoma_rate: 0.4}}"
PUBLIC = f"""\
name: common-images
data: {DATA}
partition: {{minimum_images: 4}}
model: {{{MODEL}, weights: squeezenet1_1.pth}}
training: {{local_epochs: 0.2, batch_size: 16}}
federation: {{mode: central, rounds: 1}}
"""
PRIVATE = f"""\
name: on-top
data: {DATA}
partition: {{by: source}}
model: {{{MODEL}, weights: public}}
federation: {{rounds: 2, quorum: 0.5}}
privacy: {{unit: patient, epsilon: 3.0, delta: 0.1, evaluation: public}}
seed: 1
"""
POLICY = "policy: {epsilon: 1, delta: 0.2, studies: any, public_evaluation: true, noise_multiplier: 0.1}\n"


def ledgers_of(run: Path) -> dict[str, list[dict[str, Any]]]:
    """The rows of each ledger."""
    return {path.stem: rows_of(path.read_text()) for path in sorted((run / "ledgers").glob("*.jsonl"))}


def rows_of(text: str) -> list[dict[str, Any]]:
    """The whole rows of a ledger; a kill may have cut the last one short."""
    return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]


def epsilon_of(rows: list[dict[str, Any]], delta: float) -> float:
    """The total of a ledger's charges, by dp-accounting alone."""
    total: PrivacyLossDistribution = None
    for row in rows:
        if row["status"] == "reserved":
            rate, sigma = row["sampling_rate"], row["noise_multiplier"]
            step = from_gaussian_mechanism(sigma, sampling_prob=rate, value_discretization_interval=1e-3)
            steps = step.self_compose(row["steps"])
            total = steps if total is None else total.compose(steps)
    return float(total.get_epsilon_for_delta(delta))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    return Place(tmp_path_factory.mktemp("privacy"), STUDY)


@pytest.fixture(scope="module")
def killed(place: Place) -> tuple[Path, dict[str, str], str]:
    """A run that was killed in its second round and gone on with: folder, ledgers at the kill, and what it printed."""
    run = place.folder / "killed"

    def paid() -> bool:
        """Whether a clinic's second training has been paid for, and most likely has not reached a checkpoint yet."""
        rows = [row for path in (run / "ledgers").glob("*.jsonl") for row in rows_of(path.read_text())]
        return any((row["purpose"], row["round"], row["status"]) == ("training", 2, "released") for row in rows)

    place.kill(place.start(SIM, "run", place.study, "--out", run), paid)
    before = {path.stem: path.read_text() for path in (run / "ledgers").glob("*.jsonl")}
    assert not (run / "summary.json").exists()
    return run, before, place.run(SIM, "run", place.study, "--resume", run)


def test_each_clinic_is_charged_once_for_all_that_left_it(killed: tuple[Path, dict[str, str], str]) -> None:
    run, before, _ = killed
    ledgers = ledgers_of(run)
    assert list(ledgers) == CLINICS
    identity = (run / "run-id").read_text().strip()
    for name, rows in ledgers.items():
        # What was paid for before the kill is given again afterwards: three charges of each kind, and no fourth.
        for status in ("reserved", "spent", "released"):
            charged = [(row["purpose"], row["round"]) for row in rows if row["status"] == status]
            rounds = [(purpose, number) for number in (1, 2, 3) for purpose in ("training", "evaluation")]
            assert charged == [("counts", 0), *rounds]
        assert {(row["run"], row["unit"], row["delta"]) for row in rows} == {(identity, "patient", DELTA)}
        whole = before.get(name, "")
        assert (run / "ledgers" / f"{name}.jsonl").read_text().startswith(whole[: whole.rfind("\n") + 1])


def test_epsilon_is_that_of_the_rows_and_within_the_studys(killed: tuple[Path, dict[str, str], str]) -> None:
    run, _, printed = killed
    summary = json.loads((run / "summary.json").read_text())
    ledgers = ledgers_of(run)
    every = {name: rows[-1]["epsilon"] for name, rows in ledgers.items()}
    recomputed = epsilon_of(ledgers["phantom_north"], DELTA)
    assert len(set(every.values())) == 1
    assert every["phantom_north"] == pytest.approx(recomputed, rel=5e-3)
    assert 0.95 * EPSILON < max(every.values()) <= EPSILON
    assert recomputed <= EPSILON
    privacy = summary["privacy"]
    assert privacy["epsilon_spent"] == max(every.values())
    assert {clinic["name"]: clinic["epsilon"] for clinic in privacy["clinics"]} == every
    assert {clinic["name"]: clinic["ledger_head"] for clinic in privacy["clinics"]} == {
        name: rows[-1]["hash"] for name, rows in ledgers.items()
    }
    assert [row["train_loss"] for row in summary["rounds"]] == [None] * 3
    assert re.search(
        r"privacy: every patient, ε 6 \(spent .*\), δ 1e-5, .*, 6 steps; ledgers: .*killed/ledgers", printed
    )
    assert "ε = 6" in (run / "report.html").read_text()


def test_the_clinics_command_reads_the_runs_ledgers(killed: tuple[Path, dict[str, str], str], place: Place) -> None:
    run, _, _ = killed
    lines = [json.loads(line) for line in place.run(CLIENT, "ledger", "export", run).splitlines()]
    assert len(lines) == 3 * 7
    assert {line["ledger"] for line in lines} == set(CLINICS)
    keys = {"study", "run", "round", "unit", "sampling_rate", "noise_multiplier", "steps", "status", "epsilon", "delta"}
    assert all(keys <= line.keys() for line in lines)
    assert {line["status"] for line in lines} == {"released"}
    verified = place.run(CLIENT, "ledger", "verify", run).splitlines()
    assert len(verified) == 3
    assert all("chain whole" in line for line in verified)


def edited(path: Path) -> None:
    path.write_text(path.read_text().replace('"steps":2', '"steps":1', 1))


def cut_off(path: Path) -> None:
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))


@pytest.mark.parametrize("tamper", [edited, cut_off, Path.unlink])
def test_a_ledger_that_was_tampered_with_does_not_verify(
    killed: tuple[Path, dict[str, str], str], place: Place, tmp_path: Path, tamper: Callable[[Path], None]
) -> None:
    shutil.copytree(killed[0] / "ledgers", tmp_path / "ledgers")
    tamper(tmp_path / "ledgers" / "phantom_north.jsonl")
    code, out, err = place.answer(CLIENT, "ledger", "verify", tmp_path)
    assert code == 10
    assert "phantom_north" not in out
    assert err.count("\n") == 1
    assert err.startswith("error: ")
    assert "phantom_north.jsonl" in err


@pytest.fixture(scope="module")
def on_top(place: Place) -> tuple[Path, str, str]:
    """A private run on a public one, in which a clinic declines: its folder, and what it printed."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        torch.save(build_trunk("squeezenet1_1", pretrained=True).state_dict(), place.folder / "squeezenet1_1.pth")
    for name, text in (("public.yaml", PUBLIC), ("private.yaml", PRIVATE), ("clinic.yaml", POLICY)):
        (place.folder / name).write_text(text)
    place.run(SIM, "run", "public.yaml", "--out", "public")
    policy = ("--policy", "phantom_east=clinic.yaml")
    code, out, err = place.answer(SIM, "run", "private.yaml", "--out", "on-top", *policy)
    assert code == 0, err
    return place.folder / "on-top", out, err


def test_a_clinic_that_declines_is_told_of_and_the_others_go_on(on_top: tuple[Path, str, str]) -> None:
    run, out, err = on_top
    summary = json.loads((run / "summary.json").read_text())
    reason = "study on-top is declined: it asks for ε 3, more than this clinic allows for its data"
    for row in summary["rounds"]:
        assert row["answered"] == ["phantom_north", "phantom_south"]
        assert row["failed"] == {}
        assert list(row["declined"].values()) == [reason]
    assert list(ledgers_of(run)) == ["phantom_north", "phantom_south"]
    assert [line.partition(" declines: ")[2] for line in err.splitlines() if " declines: " in line] == [reason]
    # It has no row in the table: the one line that names it says that the model has nothing from it.
    (line,) = [line for line in out.splitlines() if "phantom_east" in line]
    assert f"nothing from phantom_east (declined in all 2 rounds: {reason})" in line
    assert reason in (run / "report.html").read_text()


def test_what_was_taken_as_public_is_told(on_top: tuple[Path, str, str], place: Place) -> None:
    run, _, err = on_top
    summary = json.loads((run / "summary.json").read_text())
    public = json.loads((place.folder / "public" / "summary.json").read_text())
    assert public["public"] is None
    assert summary["public"] == {
        "study": "common-images",
        "digest": public["study"]["digest"],
        "images": 90,
        "sources": CLINICS,
    }
    page = (run / "report.html").read_text()
    assert "common-images" in page
    assert "ε = 3" in page
    # The recipe's choices, each with a reason, and the warning of a δ that gives patients away, before the training.
    lines = err.splitlines()
    assert any(re.fullmatch(r"recipe: model\.train = head: .+", line) for line in lines)
    warnings = [
        line for line in lines if line.startswith("warning: phantom_north: delta 0.1 is not below 1/N for N = ")
    ]
    assert len(warnings) == 1
    first = next(number for number, line in enumerate(lines) if line.startswith("round 1: "))
    assert lines.index(warnings[0]) < first
    assert [choice["key"] for choice in summary["privacy"]["recipe"] if choice["key"] == "model.train"]


def test_nothing_is_written_to_the_home_folder_or_sent_out(
    killed: tuple[Path, dict[str, str], str], on_top: tuple[Path, str, str], place: Place
) -> None:
    assert killed[0].exists()
    assert on_top[0].exists()
    assert [str(path) for path in place.home.rglob("*")] == []
    assert not place.log.exists(), place.log.read_text()
