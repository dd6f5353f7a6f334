"""The clinic's state: which half belongs to whom."""

import os
import stat
import tempfile
from pathlib import Path

import pytest

from melfed.client.config.folders import (
    acting_as_owner,
    messenger_account,
    new_secret,
    prepare_messenger,
    prepare_worker,
)
from melfed.common.errors import PolicyError
from tests.client.clinics import a_clinic


def test_the_state_is_private_and_the_secret_new_each_time(tmp_path: Path) -> None:
    config = a_clinic(tmp_path)
    prepare_worker(config)
    prepare_messenger(config)
    new_secret(config)
    modes = {path: stat.S_IMODE(path.stat().st_mode) for path in (config.worker_state, config.messenger_state)}
    assert set(modes.values()) == {0o700}
    assert stat.S_IMODE(config.run.stat().st_mode) == 0o2750
    assert stat.S_IMODE(config.superexec_secret.stat().st_mode) == 0o600
    first = config.superexec_secret.read_text()
    assert len(first) == 64
    config.worker_state.chmod(0o755)
    prepare_worker(config)
    prepare_messenger(config)
    assert config.superexec_secret.read_text() == first
    new_secret(config)
    assert config.superexec_secret.read_text() != first
    assert stat.S_IMODE(config.worker_state.stat().st_mode) == 0o700


def test_a_messenger_that_does_not_exist_is_said(tmp_path: Path) -> None:
    config = a_clinic(tmp_path, messenger={"user": "no-such-user-here"})
    with pytest.raises(PolicyError, match="no user 'no-such-user-here'"):
        prepare_worker(config)
    if os.geteuid() == 0:
        with pytest.raises(PolicyError, match=r"messenger\.user"):
            messenger_account(config)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can do as others")
def test_root_writes_as_the_folders_owner() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.chown(folder, 65534, 65534)
        groups = os.getgroups()
        with acting_as_owner(folder):
            (folder / "theirs").touch()
            with acting_as_owner(folder):
                pass
        (folder / "roots").touch()
        assert [(folder / each).stat().st_uid for each in ("theirs", "roots")] == [65534, 0]
        assert (os.geteuid(), os.getegid(), os.getgroups()) == (0, 0, groups)
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
