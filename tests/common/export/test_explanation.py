"""Explanations: Grad-CAM where it is that, every family, what is drawn, and what is refused."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from melfed.common.data.augmentation import to_input
from melfed.common.data.images.decoder import ImageProblem
from melfed.common.errors import DataError, RunError
from melfed.common.export.explanation import SHOWN, beside, explain, heat
from melfed.common.model.backbones import backbone_spec
from tests.common.export.models import SIZE, network, pictures
from tests.common.export.test_onnx_graph import SMALLEST
from tests.common.networks import narrow_vgg


def test_where_an_average_and_a_linear_head_end_the_network_it_is_grad_cam() -> None:
    model, (image,) = network("resnet18"), pictures(1, 224, 224)
    spec = backbone_spec("resnet18")
    kept: list[torch.Tensor] = []
    hook = model.trunk.layer4.register_forward_hook(lambda _m, _i, output: kept.append(output.clone()))
    with torch.no_grad():
        model.eval()(to_input(image[None], spec.mean, spec.std, None))
    hook.remove()
    # The gradient of the logit by a channel's mean is the head's weight, so those are Grad-CAM's weights of channels.
    by_hand = torch.relu(torch.einsum("c,chw->hw", model.head.weight[0], kept[0][0])).detach().numpy()
    assert by_hand.shape == (7, 7)
    assert heat(model, image) == pytest.approx(by_hand / by_hand.max(), abs=1e-4)


@pytest.mark.parametrize("backbone", SMALLEST)
def test_every_family_is_explained(backbone: str) -> None:
    with narrow_vgg():
        model = network(backbone)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    found = heat(model, pictures(1, 64, 64)[0])
    assert found.shape[0] == found.shape[1] > 1
    assert np.isfinite(found).all()
    assert found.min() >= 0
    assert found.max() in (0.0, 1.0)
    if not found.any():  # every position may move this logit down; then those of the opposite move it up
        model.head.weight.data.neg_()
        assert heat(model, pictures(1, 64, 64)[0]).max() == 1
        model.head.weight.data.neg_()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not any(parameter.grad is not None for parameter in model.parameters())


def test_a_neck_is_explained() -> None:
    assert heat(network(neck=4), pictures(1, 64, 64)[0]).max() == 1


def test_only_where_something_is_does_it_look() -> None:
    model = network()
    for module in model.modules():
        if isinstance(module, torch.nn.Conv2d):
            module.weight.data.abs_()
            module.bias.data.zero_()
    model.head.weight.data.abs_()
    image = np.full((96, 96, 3), round(255 * 0.45), np.uint8)
    image[:32, 64:] = 255
    found = heat(model, image)
    row, column = np.unravel_index(found.argmax(), found.shape)
    assert row < found.shape[0] / 2 <= column


def test_picture_and_overlay_stand_side_by_side(tmp_path: Path) -> None:
    Image.fromarray(pictures(1)[0]).save(tmp_path / "a.png")
    explain(network(), tmp_path / "a.png", SIZE, tmp_path / "out.png")
    with Image.open(tmp_path / "out.png") as drawn:
        assert drawn.size == (2 * SHOWN, SHOWN)
    assert (tmp_path / "out.png").stat().st_mode & 0o777 == 0o600


def test_what_is_hot_is_red_and_what_is_not_is_the_picture() -> None:
    grey = np.full((SIZE, SIZE, 3), 90, np.uint8)
    cells = np.zeros((7, 7), np.float32)
    cells[:3] = 1
    drawn = np.asarray(beside(grey, cells), int)
    left, top, bottom = drawn[:, :SHOWN], drawn[30, SHOWN + 30], drawn[-30, SHOWN + 30]
    assert (left == 90).all()
    assert list(bottom) == [90, 90, 90]
    assert top[0] > 150 > 90 > top[1]


def test_what_cannot_be_explained_is_one_line(tmp_path: Path) -> None:
    model = network()
    Image.fromarray(pictures(1)[0]).save(tmp_path / "a.png")
    with pytest.raises(DataError, match=r"ends in \.png"):
        explain(model, tmp_path / "a.png", SIZE, tmp_path / "out.jpg")
    with pytest.raises(DataError, match="exists; name another"):
        explain(model, tmp_path / "a.png", SIZE, tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(b"no picture")
    with pytest.raises(ImageProblem, match="no readable image"):
        explain(model, tmp_path / "b.png", SIZE, tmp_path / "out.png")
    with pytest.raises(RunError, match="needs age, sex and site"):
        explain(network(metadata=True), tmp_path / "a.png", SIZE, tmp_path / "out.png")
    assert not (tmp_path / "out.png").exists()
