"""What torch sees of GPUs."""

import pytest
import torch

from melfed.client.doctor.gpu import report


def test_without_a_gpu_there_are_no_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert report() == {"devices": []}


def test_each_gpu_is_allocated_on_and_told_with_its_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    touched = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda index: (10 + index, 20))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: f"GPU {index}")
    monkeypatch.setattr(torch, "zeros", lambda size, device: touched.append(device))
    devices = [{"name": f"GPU {index}", "free": 10 + index, "total": 20} for index in range(2)]
    assert report() == {"devices": devices}
    assert touched == ["cuda:0", "cuda:1"]


def test_a_gpu_that_fails_at_its_first_allocation_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(size: int, device: str) -> None:
        raise RuntimeError("CUDA error: an illegal memory access")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch, "zeros", broken)
    with pytest.raises(RuntimeError, match="illegal memory access"):
        report()
