"""Fixtures that all tests share."""

import functools
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings

if TYPE_CHECKING:
    from melfed.simulations.partition.virtual_clinics import VirtualClinics

# How long an example takes depends on the machine and on what else it does.
settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")


def _named(descriptor: int) -> None:
    """Stand in for `os.fsync` in this process: nobody cuts the power here, and tests write thousands of files.

    What is no open file is refused, as ever. Tests of what is flushed, or of a disk that is full, put their own here.
    """
    os.fstat(descriptor)


os.fsync = _named

REPOSITORY = Path(__file__).resolve().parent.parent


def pytest_runtest_setup() -> None:
    """Let Opacus compute a moment of the privacy loss once: its two accountants ask for each three times a plan.

    A pure function of three numbers; it is not imported here, as most tests need none of it.
    """
    moments = sys.modules.get("opacus.accountants.analysis.rdp")
    if moments is not None and not hasattr(moments._compute_log_a, "cache_info"):
        moments._compute_log_a = functools.cache(moments._compute_log_a)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real images and weights; tests that need it are skipped where it is absent."""
    folder = Path(os.environ.get("MELFED_SHARED", REPOSITORY.parent / "shared"))
    if not (folder / "data").is_dir():
        pytest.skip(f"no real data at {folder} (set MELFED_SHARED)")
    return folder


@pytest.fixture(scope="session")
def phantom(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder of 96 small synthetic images of three clinics: 48, 32 and 16 of them."""
    from melfed.simulations.phantom.dataset import PhantomSpec, write_phantom

    return write_phantom(tmp_path_factory.mktemp("phantom") / "data", PhantomSpec(3, 96, 0.4, size=32, seed=5))


@pytest.fixture(scope="session")
def phantom_clinics(phantom: Path, tmp_path_factory: pytest.TempPathFactory) -> "VirtualClinics":
    """The phantom, divided by source among its three clinics and decoded at 32 px."""
    from melfed.common.study.protocol import DataSpec, PartitionSpec, StudyProtocol
    from melfed.simulations.partition.virtual_clinics import divide

    spec = PartitionSpec(by="source", minimum_images=4)
    study = StudyProtocol(data=DataSpec(image_size=32), partition=spec)
    return divide(study, phantom, tmp_path_factory.mktemp("cache"))
