"""The commands about ledgers: a line a charge, totals, and whether the chain is whole."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from melfed.client.config.folders import prepare_worker
from melfed.client.ledger.journal import head_of
from melfed.client.ledger.ledger import Ledger, verify
from melfed.client.ledger.witness import Witness
from melfed.client.privacy import accounting
from melfed.client.privacy.accounting import Mechanism
from melfed.common.audit.log import AuditLog
from melfed.common.errors import LedgerError
from tests.client.clinics import a_clinic
from tests.client.ledger.ledgers import DATA, DELTA, STUDY, charge, cheap_epsilon, spend

REPOSITORY = Path(__file__).resolve().parents[3]


COMMAND = [sys.executable, "-c", "from melfed.client.cli.main import main; main()"]


@pytest.fixture(autouse=True)
def _cheap(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accounting, "epsilon", cheap_epsilon)


def process(*arguments: object) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [*COMMAND, *map(str, arguments)], cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=False
    )


def test_export_is_a_line_a_charge(answer_of, run: Path) -> None:
    code, out, err = answer_of("ledger", "export", run)
    assert (code, err) == (0, "")
    lines = [json.loads(line) for line in out.splitlines()]
    assert [(line["ledger"], line["round"], line["purpose"], line["status"]) for line in lines] == [
        ("north", 1, "training", "released"),
        ("north", 2, "training", "released"),
        ("north", 2, "evaluation", "reserved"),
        ("south", 1, "training", "released"),
    ]
    assert [line["epsilon"] for line in lines] == [0.5, 1.0, 1.25, 0.5]
    for line in lines:
        assert (line["study"], line["run"], line["unit"], line["delta"], line["data"]) == (
            STUDY,
            "run",
            "patient",
            DELTA,
            DATA,
        )
    assert [(line["sampling_rate"], line["noise_multiplier"], line["steps"]) for line in lines[1:3]] == [
        (0.1, 2.0, 10),
        (1.0, 4.0, 1),
    ]


def test_export_has_the_keys_of_the_file_and_each_status_there_has_each_charge_once(answer_of, run: Path) -> None:
    path = run / "ledgers" / "south.jsonl"
    _, out, _ = answer_of("ledger", "export", path)
    exported = json.loads(out)
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    for row, status in zip(rows, ("reserved", "spent", "released"), strict=True):
        assert row["status"] == status
        shared = set(row) - {"sequence", "time", "previous", "hash", "status"}
        assert set(exported) == shared | {"ledger", "time", "status"}
        assert {key: row[key] for key in shared} == {key: exported[key] for key in shared}


def test_export_writes_null_where_there_was_no_noise(answer_of, tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    with Ledger.open(path, DATA) as ledger:
        spend(ledger, charge(1, Mechanism(1.0, 0.0, 1)))
    assert json.loads(answer_of("ledger", "export", path)[1])["epsilon"] is None
    assert "unbounded" in answer_of("ledger", "show", path)[1]


def test_a_run_that_an_older_version_wrote_down_does_not_reach_the_terminal(
    answer_of, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = run / "ledgers" / "north.jsonl"
    with Ledger.open(path, DATA) as ledger:
        terms = ledger._terms(charge(9)).model_copy(update={"run": "\x9b31mred\u202e"})
        monkeypatch.setattr(ledger, "_terms", lambda _charge: terms)
        spend(ledger, charge(9))
    code, out, _ = answer_of("ledger", "show", path)
    assert (code, "31mred" in out) == (0, True)
    assert all(line.isprintable() for line in out.splitlines())


def test_show_prints_a_row_a_charge_and_a_total(answer_of, run: Path) -> None:
    code, out, err = answer_of("ledger", "show", run / "ledgers" / "north.jsonl")
    assert (code, err) == (0, "")
    rows = [line for line in out.splitlines() if STUDY[:12] in line]
    assert len(rows) == 3
    assert rows[2].split()[:5] == [STUDY[:12], "run", "2", "evaluation", "patient"]
    assert rows[2].split()[5:] == ["1", "4", "1", "reserved", "1.2500", "1e-05"]
    assert f"{DATA[:12]}: total ε = 1.2500 at δ = 1e-05, 3 charges, 1 of them never released\n" in out


def test_show_json_has_the_charges_of_each_ledger(answer_of, run: Path) -> None:
    code, out, _ = answer_of("ledger", "show", run, "--json")
    ledgers = json.loads(out)
    assert code == 0
    assert [Path(ledger["ledger"]).stem for ledger in ledgers] == ["north", "south"]
    assert [ledger["rows"] for ledger in ledgers] == [7, 3]
    assert ledgers[0]["head"] == verify(run / "ledgers" / "north.jsonl").head
    exported = [json.loads(line) for line in answer_of("ledger", "export", run)[1].splitlines()]
    assert [line for ledger in ledgers for line in ledger["charges"]] == [
        {key: value for key, value in line.items() if key != "ledger"} for line in exported
    ]


def test_an_empty_ledger_is_shown_and_exported(answer_of, tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.touch()
    assert answer_of("ledger", "export", path) == (0, "", "")
    assert answer_of("ledger", "show", path)[0] == 0
    assert answer_of("ledger", "verify", path)[:2] == (0, f"{path}: 0 rows, chain whole, head {'0' * 64}\n")


def test_verify_says_that_it_is_whole_with_its_head(answer_of, run: Path) -> None:
    path = run / "ledgers" / "south.jsonl"
    head = verify(path).head
    whole = (0, f"{path}: 3 rows, chain whole, head {head}\n", "")
    assert answer_of("ledger", "verify", path) == whole
    first = json.loads(path.read_text().splitlines()[0])["hash"]
    for known in (head, first):
        assert answer_of("ledger", "verify", path, "--head", known) == whole
    assert answer_of("ledger", "verify", run)[1].count("chain whole") == 2


def test_verify_does_not_know_another_head(answer_of, run: Path) -> None:
    path = run / "ledgers" / "south.jsonl"
    other = verify(run / "ledgers" / "north.jsonl").head
    code, out, err = answer_of("ledger", "verify", path, "--head", other)
    assert (code, out) == (LedgerError.exit_code, "")
    assert err.startswith(f"error: {path}: no row has the hash {other}: ")
    assert answer_of("ledger", "verify", run, "--head", other)[0] == 2
    assert answer_of("ledger", "verify", run / "ledgers" / "north.jsonl", "--head", other)[0] == 0


def test_verify_tells_what_a_crash_left(answer_of, run: Path) -> None:
    path = run / "ledgers" / "south.jsonl"
    with path.open("ab") as file:
        file.write(b"{")
    code, out, err = answer_of("ledger", "verify", path)
    assert code == 0
    assert "3 rows, chain whole" in out
    assert err == f"{path}: a crash has left 1 bytes of a row that was not finished; the next worker mends it\n"


@pytest.mark.parametrize("verb", ["show", "verify", "export"])
def test_damage_is_one_line_and_exit_code_10(answer_of, run: Path, verb: str) -> None:
    path = run / "ledgers" / "north.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:-1]))
    for place in (path, run):
        code, out, err = answer_of("ledger", verb, place)
        assert (code, out) == (10, "")
        assert err.startswith(f"error: {path}: line 7: is missing: the last 1 of 7 rows are cut off; ")
        assert err.count("\n") == 1


@pytest.mark.parametrize("verb", ["show", "verify", "export"])
def test_a_removed_ledger_is_missed(answer_of, run: Path, verb: str) -> None:
    (run / "ledgers" / "north.jsonl").unlink()
    code, _, err = answer_of("ledger", verb, run)
    assert code == 10
    assert "north.jsonl: is missing, but its north.jsonl.head is there" in err
    head_of(run / "ledgers" / "north.jsonl").unlink()
    code, _, err = answer_of("ledger", verb, run / "ledgers" / "north.jsonl")
    assert (code, "there is no ledger" in err) == (10, True)


def test_a_folder_without_ledgers_says_so_in_a_real_process(tmp_path: Path) -> None:
    done = process("ledger", "verify", tmp_path)
    assert done.returncode == 10
    assert done.stdout == ""
    words = "no ledgers are there; name a ledger, or the folder of a private run"
    assert done.stderr == f"error: {tmp_path / 'ledgers'}: {words}\n"


def test_a_clinic_without_a_study_yet_has_no_ledger_and_that_is_no_error(answer_of, tmp_path: Path) -> None:
    config = a_clinic(tmp_path)
    said = f"{config.ledger}: no ledger yet: it begins with the first charge\n"
    for verb in ("show", "verify"):
        assert answer_of("ledger", verb, "--config", config.path) == (0, said, "")
    assert answer_of("ledger", "export", "--config", config.path) == (0, "", "")
    code, out, _ = answer_of("ledger", "show", "--json", "--config", config.path)
    (content,) = json.loads(out)
    assert (code, content["rows"], content["charges"], content["studies"]) == (0, 0, [], [])
    # What is asked for by name, by a hash, or remembered by the audit log must be there.
    assert answer_of("ledger", "show", config.ledger)[0] == 10
    assert answer_of("ledger", "verify", "--head", "0" * 64, "--config", config.path)[0] == 10
    prepare_worker(config)
    with Ledger.open(
        config.ledger, DATA, witness=Witness(config.ledger, AuditLog(config.audit_log, "worker"))
    ) as ledger:
        spend(ledger, charge(1, Mechanism(1.0, 2.0, 1)))
    for path in config.ledger.parent.glob(f"{config.ledger.name}*"):
        path.unlink()
    code, _, err = answer_of("ledger", "show", "--config", config.path)
    assert (code, "is missing, but not for the audit log" in err) == (10, True)
