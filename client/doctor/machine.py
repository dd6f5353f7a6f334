"""The doctor's look at the clinic's machine: GPU, memory, threads, disk, ports, services."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from melfed.client.config.clinic import ClinicConfig
from melfed.client.daemon import systemd_units
from melfed.client.daemon.health import ask_health
from melfed.client.rpc.peer_credentials import knock
from melfed.common.doctor.kit import GIB, disk_space
from melfed.common.doctor.ports import ports
from melfed.common.doctor.steps import Finding, Step, bad, doubtful, good, skipped
from melfed.common.process.memory import available_memory

GPU_SECONDS: Final = 60.0
"""Torch takes seconds to load; a driver that hangs takes for ever."""

MEND_GPU: Final = "see that nvidia-smi shows the GPU and its driver suits torch, or set resources.device to cpu"
LITTLE_GPU_GIB: Final = 4
LITTLE_MEMORY_GIB, LEAST_MEMORY_GIB = 4, 1.5
DECODED_BYTES: Final = 3 * 224 * 224
"""An image in the cache, decoded at a usual size."""

MARGIN_BYTES: Final = 2 * GIB
"""For features, stored replies, Flower's files and logs."""

LONGEST_SOCKET: Final = 107
"""Bytes of the path of a Unix socket (Linux)."""


def machine_steps(config: ClinicConfig, images: Callable[[], int]) -> Iterator[Step]:
    """Yield the examinations of the machine, in order.

    Args:
        config: the clinic's.
        images: tells how many images the clinic has, 0 where that is not known.
    """
    yield Step("GPU", lambda: gpu(config), GPU_SECONDS + 5)
    yield Step("memory", memory)
    yield Step("threads", lambda: threads(config))
    yield Step("disk", lambda: disk(config, images()))
    yield Step("ports", lambda: loopback_ports(config))
    yield Step("worker socket", lambda: worker_socket(config))
    yield Step("systemd", lambda: systemd(config))


def gpu(config: ClinicConfig, program: tuple[str, ...] = ("-m", "melfed.client.doctor.gpu")) -> Finding:
    """Judge whether the device that clinic.yaml names is there; `program` is what reports the GPUs."""
    device = config.file.resources.device
    if device == "cpu":
        return skipped("resources.device is cpu")
    try:
        done = subprocess.run(  # noqa: S603 (our own program)
            [sys.executable, "-P", *program], capture_output=True, text=True, timeout=GPU_SECONDS, check=False
        )
        devices = json.loads(done.stdout)["devices"]
    except subprocess.TimeoutExpired:
        return bad(f"torch does not answer within {GPU_SECONDS:g} s", MEND_GPU)
    except (ValueError, KeyError):
        return bad("torch cannot use the GPU, or cannot be loaded", MEND_GPU)
    return _of_gpus(devices, device)


def _of_gpus(devices: Sequence[Mapping[str, Any]], device: str) -> Finding:
    """Judge what torch sees by what is wanted: auto, cuda or cuda:N."""
    index = int(device.partition(":")[2] or 0)
    if not devices and device == "auto":
        return good("none: training runs on the CPU")
    if index >= len(devices):
        return bad(f"torch sees {len(devices)} GPUs, and no {device}", MEND_GPU)
    name, free, total = (devices[index][key] for key in ("name", "free", "total"))
    text = f"{name}, {free / GIB:.1f} of {total / GIB:.1f} GiB free"
    if free < LITTLE_GPU_GIB * GIB:
        return doubtful(text, "end what else uses the GPU: nvidia-smi lists it")
    return good(text)


def memory() -> Finding:
    """Judge how much memory is available, to the machine and to this control group."""
    available = available_memory()
    text = f"{available / GIB:.1f} GiB available"
    mend = f"free memory, or give the machine more: {LITTLE_MEMORY_GIB} GiB are enough for most studies"
    if available < LEAST_MEMORY_GIB * GIB:
        return bad(text, mend)
    return good(text) if available >= LITTLE_MEMORY_GIB * GIB else doubtful(text, mend)


def threads(config: ClinicConfig) -> Finding:
    """Judge the number of threads by that of the cores which this process may use."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    wanted = config.file.resources.threads
    if wanted is not None and wanted > cores:
        return doubtful(f"{wanted} threads on {cores} cores", f"set resources.threads to {cores} or less, or to null")
    return good(f"{wanted or 'all'} of {cores} cores")


def disk(config: ClinicConfig, images: int) -> Finding:
    """Judge the space for decoded images and everything else that is kept."""
    cached = _size(config.cache)
    return disk_space(config.state, max(images * DECODED_BYTES - cached, 0) + MARGIN_BYTES)


def loopback_ports(config: ClinicConfig) -> Finding:
    """Judge the ports of this clinic's processes."""
    named = {
        "messenger.port": config.file.messenger.port,
        "health_port": config.file.health_port,
        "metrics_port": config.file.metrics_port,
    }
    return ports({what: port for what, port in named.items() if port is not None}, config.path)


def worker_socket(config: ClinicConfig) -> Finding:
    """Judge whether the worker's socket can be made, and whether a worker answers this user and the messenger."""
    path = config.socket
    length = len(os.fsencode(path))
    if length > LONGEST_SOCKET:
        return bad(f"its path has {length} bytes, {LONGEST_SOCKET} are possible", "name a shorter state folder")
    if not path.exists():
        return skipped("the worker does not run")
    try:
        heard = knock(path, 3)
    except PermissionError:
        heard = "refuses"
    if heard == "refuses":
        return doubtful("it is not for this user", "run the doctor as root or as the worker's user")
    if heard == "silent":
        return doubtful("nobody answers it", "start the worker; it replaces the socket of one that has died")
    port = config.file.health_port
    # Root is always answered: what the messenger's side hears is another question.
    if port is not None and (ask_health(port, ("worker",)) or {}).get("worker") is False:
        return doubtful(
            "the worker answers, but not the messenger",
            "see that messenger.user in clinic.yaml is the messenger's user, and start the worker again",
        )
    return good("the worker answers")


def systemd(config: ClinicConfig) -> Finding:
    """Tell whether melfed's units are installed, and judge whether their worker answers their messenger."""
    found = systemd_units.installed()
    if not found:
        return skipped("no units; start by hand")
    user, named = systemd_units.setting(systemd_units.MESSENGER, "User"), config.file.messenger.user
    if user is not None and named != user and systemd_units.setting(systemd_units.WORKER, "User") != user:
        return doubtful(
            f"{systemd_units.MESSENGER} runs as {user}, but messenger.user is {named or 'null'}: the worker refuses it",
            f"set messenger.user in clinic.yaml to {user}, then systemctl restart melfed-worker",
        )
    return good(f"{len(found)} units installed")


def _size(folder: Path) -> int:
    """Return the bytes of all files below a folder."""
    total = 0
    for place, _, names in os.walk(folder):
        for name in names:
            try:
                total += (Path(place) / name).stat().st_size
            except OSError:
                continue
    return total
