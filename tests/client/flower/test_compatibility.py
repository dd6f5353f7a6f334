"""Which app bundles may run: those that clinic.yaml lists at that moment."""

import hashlib
from pathlib import Path

import pytest

from melfed.client.flower.compatibility import check_bundle
from melfed.common.audit.log import read_log
from melfed.common.errors import DeclinedError
from tests.client.clinics import a_clinic


def test_the_list_of_bundles_counts_as_it_stands_now(tmp_path: Path) -> None:
    config = a_clinic(tmp_path)
    config.messenger_state.mkdir(parents=True)
    digest = hashlib.sha256(b"bundle").hexdigest()
    with pytest.raises(DeclinedError, match=f"not approved at this clinic: {digest}"):
        check_bundle(config, b"bundle", "messenger")
    a_clinic(tmp_path, apps=[digest])
    check_bundle(config, b"bundle", "messenger")
    a_clinic(tmp_path, apps=[])
    with pytest.raises(DeclinedError, match="not approved at this clinic"):
        check_bundle(config, b"bundle", "messenger")
    assert [row["id"] for row in read_log(config.messenger_audit_log)] == [1010, 1010]


def test_a_list_that_cannot_be_read_lists_nothing(tmp_path: Path) -> None:
    config = a_clinic(tmp_path, apps=[hashlib.sha256(b"bundle").hexdigest()])
    config.messenger_state.mkdir(parents=True)
    config.path.write_text("apps: [")
    with pytest.raises(DeclinedError, match="configuration cannot be used; its own log says why"):
        check_bundle(config, b"bundle", "messenger")
    (row,) = read_log(config.messenger_audit_log)
    assert row["id"] == 1015
    assert str(row["reason"]).startswith("clinic.yaml:1: not valid YAML")
