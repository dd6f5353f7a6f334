"""The clinics' records: who is let in, who is kept out, and that no two are mixed up."""

import json
import os
import stat
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from melfed.common.errors import ServerConfigError
from melfed.server.clinics.certificates import make_node_key, public_line
from melfed.server.clinics.registry import ClinicRecord, approve, read_clinics, read_record, replace_certificate, revoke

KEYS = [public_line(make_node_key()) for _ in range(3)]
TIME = "2026-01-01T00:00:00+00:00"


def record(name: str = "amsterdam", key: int = 0, serial: str = "AA" * 20, **changes: object) -> ClinicRecord:
    content = {"name": name, "node_key": KEYS[key], "serial": serial, "not_after": TIME, "approved_at": TIME}
    return ClinicRecord(**{**content, **changes})


def test_a_clinic_is_let_in_kept_out_and_let_in_again(tmp_path: Path) -> None:
    approve(tmp_path, record())
    assert [each.serials for each in read_clinics(tmp_path)] == [("AA" * 20,)]
    out = revoke(tmp_path, "amsterdam")
    assert out.revoked
    assert out.revoked_at is not None
    assert read_clinics(tmp_path) == (out,)
    assert out.serials == ()
    assert revoke(tmp_path, "amsterdam") == out
    again = approve(tmp_path, tmp_path / "amsterdam.json")
    assert (again.revoked, again.revoked_at, again.serials) == (False, out.revoked_at, ("AA" * 20,))
    assert again.approved_at != TIME


def test_records_are_public_and_written_whole(tmp_path: Path) -> None:
    approve(tmp_path, record())
    assert [path.name for path in tmp_path.iterdir()] == ["amsterdam.json"]
    assert stat.S_IMODE((tmp_path / "amsterdam.json").stat().st_mode) == 0o644
    (tmp_path / ".berlin.json.1234").write_text("half")
    assert len(read_clinics(tmp_path)) == 1


def test_no_clinics_are_none(tmp_path: Path) -> None:
    assert read_clinics(tmp_path / "missing") == ()


@pytest.mark.parametrize("error", [PermissionError(13, "Permission denied"), NotADirectoryError(20, "Not a directory")])
def test_a_folder_that_cannot_be_read_is_not_an_empty_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: OSError
) -> None:
    """Or a slip in its permissions would shut out every clinic."""
    approve(tmp_path, record())

    def refuse(*_path: object) -> None:
        raise error

    for name in ("listdir", "scandir"):
        monkeypatch.setattr(os, name, refuse)
    with pytest.raises(ServerConfigError, match=f"{tmp_path}: cannot be read: {error.strerror}"):
        read_clinics(tmp_path)


def test_a_renewed_certificate_does_beside_the_earlier_ones_until_the_clinic_is_kept_out(tmp_path: Path) -> None:
    approve(tmp_path, record())
    for digit in "BCDEF":
        approve(tmp_path, record(serial=digit * 40))
    assert read_clinics(tmp_path)[0].serials == tuple(digit * 40 for digit in "FEDC")
    revoke(tmp_path, "amsterdam")
    assert approve(tmp_path, record(serial="BB" * 20)).serials == ("BB" * 20,)


def test_a_new_node_key_ends_the_earlier_certificates(tmp_path: Path) -> None:
    approve(tmp_path, record())
    assert approve(tmp_path, record(key=1, serial="BB" * 20)).serials == ("BB" * 20,)


def test_a_renewal_does_not_let_in_who_is_kept_out(tmp_path: Path) -> None:
    approve(tmp_path, record())
    revoke(tmp_path, "amsterdam")
    new = replace_certificate(tmp_path, "amsterdam", "BB" * 20, TIME)
    assert new.revoked
    assert new.serials == ()
    assert approve(tmp_path, tmp_path / "amsterdam.json").serials == ("BB" * 20,)


def test_two_clinics_share_neither_key_nor_certificate(tmp_path: Path) -> None:
    approve(tmp_path, record())
    for other in (record("berlin", serial="BB" * 20), record("berlin", key=1)):
        with pytest.raises(ServerConfigError, match="clinics amsterdam and berlin have the same"):
            approve(tmp_path, other)
    assert [each.name for each in read_clinics(tmp_path)] == ["amsterdam"]
    # Nor when somebody copies the file by hand.
    (tmp_path / "berlin.json").write_text(record("berlin", serial="BB" * 20).model_dump_json())
    with pytest.raises(ServerConfigError, match="same node key"):
        read_clinics(tmp_path)


def test_a_file_of_another_name_is_told(tmp_path: Path) -> None:
    (tmp_path / "berlin.json").write_text(record().model_dump_json())
    with pytest.raises(ServerConfigError, match=r"belongs into amsterdam\.json"):
        read_clinics(tmp_path)


def test_an_unknown_clinic_is_told(tmp_path: Path) -> None:
    approve(tmp_path, record())
    with pytest.raises(ServerConfigError, match="no clinic is called berlin; known: amsterdam"):
        revoke(tmp_path, "berlin")


@pytest.mark.parametrize(
    "changes",
    [
        {"name": "../amsterdam"},
        {"name": 'a" 1; }'},
        {"serial": "aa"},
        {"serial": "A"},
        {"serial": 'AA"; }'},
        {"serial": ""},
        {"node_key": "ecdsa-sha2-nistp384 AAAA"},
        {"node_key": 'x"; }'},
        {"earlier": ["AA" * 20]},
        {"revoked": "no"},
        {"not_after": "2027-01-01"},
        {"not_after": "2027-01-01T00:00:00"},
        {"not_after": "never\n"},
        {"not_after": None},
        {"approved_at": "today"},
        {"revoked_at": "2027-01-01"},
        {"more": 1},
    ],
)
def test_what_is_no_record_is_told_in_one_line(tmp_path: Path, changes: dict[str, object]) -> None:
    path = tmp_path / "amsterdam.json"
    path.write_text(json.dumps(json.loads(record().model_dump_json()) | changes))
    for read in (read_record, lambda path: approve(tmp_path / "other", path)):
        with pytest.raises(ServerConfigError) as caught:
            read(path)
        assert "\n" not in str(caught.value)


def test_a_key_with_a_comment_is_the_same_key(tmp_path: Path) -> None:
    assert record(node_key=f"{KEYS[0]} somebody@somewhere").node_key == KEYS[0]


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["approve", "renew", "revoke"]), st.integers(0, 2)), max_size=8))
def test_who_was_revoked_last_has_no_certificate_that_does(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, int]]
) -> None:
    folder = tmp_path_factory.mktemp("clinics")
    names, let_in = ["a", "b", "c"], {}
    for count, (step, index) in enumerate(steps):
        name = names[index]
        if step == "approve":
            approve(folder, record(name, index, f"{16 * (count + 1) + index:040X}"))
            let_in[name] = True
        elif name in let_in and step == "revoke":
            revoke(folder, name)
            let_in[name] = False
        elif name in let_in:
            replace_certificate(folder, name, f"{16 * (count + 1) + index:040X}", TIME)
    found = {each.name: bool(each.serials) for each in read_clinics(folder)}
    assert found == let_in
