"""A clinic changes its data: noticed by the next request, refused until somebody says so, and nothing is given back."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from melfed.client.config.clinic import ClinicConfig
from melfed.client.config.folders import prepare_worker
from melfed.client.data.loading import clinic_data, stamp
from melfed.client.doctor.kit import ledger as ledger_check
from melfed.client.ledger.ledger import verify
from melfed.client.worker.guard import Guard, Protection, Request
from melfed.common.doctor.steps import Finding
from melfed.common.errors import DataError, LedgerError
from melfed.common.study.protocol import StudyProtocol
from tests.client.clinics import a_clinic
from tests.client.commands import Command
from tests.client.guards import Work, result
from tests.client.small import small_study

STUDY = small_study(
    partition={"minimum_images": 4}, privacy={"unit": "patient", "noise_multiplier": 2.0, "recipe": "manual"}
)


@pytest.fixture
def config(tmp_path: Path) -> ClinicConfig:
    """A clinic of 24 patients with an image each."""
    config = a_clinic(tmp_path / "kit", policy={"epsilon": 100.0, "studies": "any"})
    config.data_folder.mkdir()
    for number in range(24):
        Image.new("RGB", (40, 40), (number * 10, 80, 90)).save(config.data_folder / f"{number}.png")
    list_patients(config, range(24))
    prepare_worker(config)
    return config


def list_patients(config: ClinicConfig, numbers: range) -> None:
    rows = [f"{number}.png,{number % 2},p{number}" for number in numbers]
    (config.data_folder / "table.csv").write_text("\n".join(["image,target,patient_id", *rows]) + "\n")


def withdraw(config: ClinicConfig) -> None:
    """Eight patients withdraw their consent."""
    list_patients(config, range(8, 24))
    for number in range(8):
        (config.data_folder / f"{number}.png").unlink()


def guard(config: ClinicConfig, study: StudyProtocol = STUDY) -> Guard:
    return Guard(study, Protection(config.ledger, config.policy), clinic_data(config, study))


def asked(number: int) -> Request:
    return Request("run", number, {})


def examined(config: ClinicConfig) -> Finding:
    return ledger_check(config)


@pytest.mark.parametrize(
    "change",
    [
        lambda folder: (folder / "table.csv").write_text((folder / "table.csv").read_text().replace("p7\n", "p6\n")),
        lambda folder: (folder / "7.png").unlink(),
        lambda folder: (folder / "7.png").rename(folder / "x.png"),
        lambda folder: (folder / "7.png").rename(folder / ".7.png"),
        lambda folder: (folder / "more.csv").write_text("image,target\n"),
        lambda folder: (folder / "table.csv").replace(folder / "other.csv"),
    ],
)
def test_every_change_of_the_table_gives_another_stamp(config: ClinicConfig, change: Callable[[Path], object]) -> None:
    before = stamp(config)
    (config.data_folder / "notes.md").write_text("none of ours")
    assert stamp(config) == before
    change(config.data_folder)
    assert stamp(config) != before


def test_data_that_are_gone_have_no_stamp(config: ClinicConfig) -> None:
    config.data_folder.rename(config.folder / "elsewhere")
    with pytest.raises(DataError):
        stamp(config)


def test_patients_who_withdraw_stop_private_studies_until_the_ledger_is_continued(
    config: ClinicConfig, command: Command
) -> None:
    before, work = guard(config), Work()
    before.pay("training", asked(1), work)
    spent = before.account()[0]
    assert examined(config).status == "ok"
    withdraw(config)
    after = guard(config)
    for use in (lambda: after.check([]), after.account, lambda: after.pay("training", asked(2), work)):
        with pytest.raises(LedgerError, match="melfed-client ledger continue --by NAME"):
            use()
    found = examined(config)
    assert (found.status, "ledger continue" in found.mend) == ("failed", True)

    done = command("ledger", "continue", "--by", "Dr. Ada", "--config", config.path)
    assert (done.code, "goes on with 16 images; 1 charge before counts on" in done.out) == (0, True)
    assert after.account()[0] == spent, "nothing is given back"
    assert result(after.pay("training", asked(2), work)) == 2
    assert after.account()[0] > spent
    with pytest.raises(LedgerError):
        before.account()
    assert "on 2 states of the data" in examined(config).detail
    told = json.loads(config.audit_log.read_text().splitlines()[-1])
    assert (told["id"], told["by"], told["charges"]) == (1018, "Dr. Ada", 1)
    assert told["head"] == verify(config.ledger).changes[0].hash
    shown = command("ledger", "show", "--config", config.path)
    assert "continued by Dr. Ada with other data" in shown.out
    content = json.loads(command("ledger", "show", "--json", "--config", config.path).out)
    assert [change["by"] for change in content[0]["continued"]] == ["Dr. Ada"]
    assert content[0]["rows"] == 7


def test_what_cannot_be_continued_is_left_as_it_is(config: ClinicConfig, command: Command) -> None:
    again = ("ledger", "continue", "--config", config.path)
    done = command(*again)
    assert (done.code, "there is no ledger yet" in done.err) == (10, True)
    assert not config.ledger.with_suffix(".key").exists()
    guard(config).pay("training", asked(1), Work())
    before = config.ledger.read_bytes()
    assert "is of these data already" in command(*again).out
    assert command(*again, "--by", "a\nb").code == 2
    assert command(*again, "--by", "a" * 201).code == 2
    withdraw(config)
    config.ledger.with_suffix(".key").unlink()
    assert command(*again).code == 10
    assert config.ledger.read_bytes() == before
    assert not config.audit_log.read_bytes()


@pytest.mark.parametrize("content", [None, b"short"])
def test_the_doctor_finds_a_ledger_without_its_key(config: ClinicConfig, content: bytes | None) -> None:
    guard(config).pay("training", asked(1), Work())
    key = config.ledger.with_suffix(".key")
    key.unlink()
    if content is not None:
        key.write_bytes(content)
    found = examined(config)
    assert found.status == "failed"
    assert "ledger.key" in found.detail
    assert "backup" in found.detail


def test_three_files_are_a_backup(config: ClinicConfig, tmp_path: Path) -> None:
    """As the kit's README says."""
    guard(config).pay("training", asked(1), Work())
    names = ("ledger.jsonl", "ledger.jsonl.head", "ledger.key")
    content = {name: (config.worker_state / name).read_bytes() for name in names}
    for path in config.worker_state.iterdir():
        if path.is_file():
            path.unlink()
    for name in names:
        (config.worker_state / name).write_bytes(content[name])
    assert examined(config).status == "ok"
    guard(config).pay("training", asked(2), Work())
    readme = Path(__file__).resolve().parents[3] / "server" / "provisioning" / "templates" / "clinic-README.md"
    assert all(f"`{name}`" in readme.read_text() for name in names)
