"""How kits are written: with check sums, as a whole, and as an archive."""

import hashlib
import os
import re
import stat
import subprocess
import zipfile
from pathlib import Path

import pytest

from melfed.common.errors import StorageError
from melfed.server.provisioning.kits import SUMS, spoken_fingerprint, summed, template, write_archive, write_folder
from tests.server.kits import content


@pytest.mark.parametrize("kit", ["authority", "server", "clinics/amsterdam", "clinics/berlin"])
def test_check_sums_cover_every_file_but_the_clinics_records(kits: Path, kit: str) -> None:
    folder = kits / kit
    done = subprocess.run(
        ["sha256sum", "--check", "--strict", "SHA256SUMS"], cwd=folder, capture_output=True, timeout=30, check=False
    )
    assert done.returncode == 0, done.stdout
    listed = {line.split("  ", 1)[1] for line in (folder / "SHA256SUMS").read_text().splitlines()}
    there = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert {path for path in there - listed if not path.startswith("clinics/")} == {"SHA256SUMS"}


def test_the_archive_is_the_kit_with_its_permissions(kits: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(kits / "clinics" / "amsterdam.zip") as archive:
        archive.extractall(tmp_path)
        modes = {each.filename: (each.external_attr >> 16) & 0o777 for each in archive.infolist()}
    assert modes["amsterdam/clinic.key"] == modes["amsterdam/node.key"] == 0o600
    assert modes["amsterdam/clinic.yaml"] == 0o644
    unpacked = {name: each[0] for name, each in content(tmp_path / "amsterdam").items()}
    assert unpacked == {name: each[0] for name, each in content(kits / "clinics" / "amsterdam").items()}


def test_a_template_has_its_names_replaced_and_none_without_a_value() -> None:
    text = template("clinic-README.md", Values())
    assert b"<fingerprint>" in text
    assert not re.search(rb"@[a-z_]+@", text)
    with pytest.raises(KeyError):
        template("clinic-README.md", {})


class Values(dict):
    def __missing__(self, name: str) -> str:
        return f"<{name}>"


def test_a_fingerprint_is_spoken_as_openssl_prints_it() -> None:
    assert spoken_fingerprint("0aff10") == "0A:FF:10"


def test_a_folder_is_written_whole_with_its_modes_and_check_sums(tmp_path: Path) -> None:
    (tmp_path / "weights.bin").write_bytes(b"weights")
    (tmp_path / ".kit.new").mkdir()  # of a run that was killed
    (tmp_path / ".kit.new" / "old").touch()
    before = os.umask(0o077)
    try:
        write_folder(tmp_path / "kit", {"a.txt": b"public", "weights/w": tmp_path / "weights.bin"}, {"key": b"secret"})
    finally:
        os.umask(before)
    kit = tmp_path / "kit"
    assert (kit / "weights/w").read_bytes() == b"weights"
    modes = {path: stat.S_IMODE((kit / path).stat().st_mode) for path in ("a.txt", "weights/w", "key", SUMS, ".")}
    assert modes == {"a.txt": 0o644, "weights/w": 0o644, "key": 0o600, SUMS: 0o644, ".": 0o700}
    assert summed(kit) == ["a.txt", "key", "weights/w"]
    assert f"{hashlib.sha256(b'secret').hexdigest()}  key\n" in (kit / SUMS).read_text()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["kit", "weights.bin"]


def test_a_folder_that_cannot_be_written_whole_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"/kit: cannot be written: .*; see that there is space and permission"):
        write_folder(tmp_path / "kit", {"a.txt": b"x", "b.txt": tmp_path / "missing"}, {})
    assert list(tmp_path.iterdir()) == []


def test_an_archive_has_the_files_with_their_permissions(tmp_path: Path) -> None:
    write_folder(tmp_path / "kit", {"a/b.txt": b"public"}, {"key": b"secret"})
    path = write_archive(tmp_path / "kit")
    assert (path.name, stat.S_IMODE(path.stat().st_mode)) == ("kit.zip", 0o600)
    with zipfile.ZipFile(path) as archive:
        modes = {each.filename: each.external_attr >> 16 & 0o777 for each in archive.infolist()}
        assert modes == {"kit/SHA256SUMS": 0o644, "kit/a/b.txt": 0o644, "kit/key": 0o600}
        assert archive.read("kit/key") == b"secret"
