"""What torch sees of this machine's GPUs, as a process of its own: a sick driver may hang, and torch takes seconds."""

import json
import sys


def report() -> dict[str, object]:
    """Return `devices`: name, free and total memory in bytes of each GPU that works."""
    import torch

    devices = []
    for index in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        torch.zeros(1, device=f"cuda:{index}")  # some faults show at the first allocation only
        free, total = torch.cuda.mem_get_info(index)
        devices.append({"name": torch.cuda.get_device_name(index), "free": free, "total": total})
    return {"devices": devices}


if __name__ == "__main__":
    sys.stdout.write(json.dumps(report()) + "\n")
