"""Small finished runs and small labelled folders of pictures, for the tests of evaluation and of the command."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from melfed.common.model.classifier import Classifier, build_classifier
from melfed.common.study.protocol import DataSpec, FederationSpec, ModelSpec, StudyProtocol
from melfed.server.results.evaluate import save_model
from melfed.server.runs.folder import RunFolder
from melfed.server.runs.summary import PublicData

SIZE = 32
DATA = PublicData(study="small", digest="0" * 64, images=30, sources=("here", "there"))


def study_with(mode: str = "federated", **model) -> StudyProtocol:
    spec = ModelSpec.model_validate({"backbone": "simple_cnn", "pretrained": False, **model})
    federation = FederationSpec.model_validate({"mode": mode})
    return StudyProtocol(name="small", data=DataSpec(image_size=SIZE), model=spec, federation=federation)


def network(study: StudyProtocol, state: dict[str, torch.Tensor] | None = None) -> Classifier:
    """A network that answers differently to each image: its head is random instead of zero."""
    model = build_classifier(study.model, seed=1, state=state)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        model.head.weight.copy_(torch.randn(model.head.weight.shape, generator=generator))
        model.head.bias.fill_(0.1)
    return model


def finish(path: Path, study: StudyProtocol) -> tuple[RunFolder, Classifier]:
    """A run folder with a final model."""
    folder, model = RunFolder.create(path, study), network(study)
    save_model(folder.model, model, study, DATA)
    return folder, model


def picture(path: Path, seed: int) -> None:
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (4, 5, 3), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(coarse).resize((50, 40)).save(path)


def labelled(root: Path, images: int = 30, patients: int = 20) -> Path:
    """A data folder with melfed's own table; a third of the images are melanomas."""
    rows = ["image,target,patient_id,age,sex,site"]
    for number in range(images):
        name = f"images/{number:03}.png"
        picture(root / name, number)
        rows.append(f"{name},{int(number % 3 == 0)},p{number % patients},{20 + number},male,trunk")
    (root / "metadata.csv").write_text("\n".join(rows) + "\n")
    return root
