"""Models of timm as backbones: what their entry says, that they compute what timm's own do, and what is refused."""

import sys
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.models import get_pretrained_cfg
from torch import Tensor, nn

from melfed.common.errors import StudyError, WeightsError
from melfed.common.model import hub
from melfed.common.model.backbones import backbone_spec, is_backbone
from melfed.common.model.backbones.timm_models import build, configuration, is_timm, load, require_size
from melfed.common.model.classifier import build_classifier, saved_classifier
from melfed.common.model.frozen_prefix import split
from melfed.common.model.weights import find_weights, load_weights
from melfed.common.study.protocol import ModelSpec, StudyProtocol
from melfed.common.study.recipe import resolve

VIT, CONVNEXT, RESNET, SWIN = (
    "timm/test_vit.r160_in1k",
    "timm/test_convnext.r160_in1k",
    "timm/test_resnet.r160_in1k",
    "timm/swin_tiny_patch4_window7_224.ms_in22k_ft_in1k",
)
SMALL = (VIT, CONVNEXT, RESNET)
"""timm's own small networks for tests, of 160 px."""


def random_model(name: str) -> nn.Module:
    """timm's own model with its classifier, random everywhere."""
    torch.manual_seed(3)
    model = timm.create_model(name.removeprefix("timm/"))
    for key, value in model.state_dict().items():
        if value.is_floating_point():
            value.add_(0.1 * torch.randn_like(value)) if "running_var" not in key else value.uniform_(0.5, 1.5)
    return model.eval()


def kept(model: nn.Module, folder: Path, name: str) -> Path:
    path = folder / f"{name.removeprefix('timm/')}.safetensors"
    save_file({key: value.contiguous() for key, value in model.state_dict().items()}, path)
    return path


def images(size: int) -> Tensor:
    return torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", SMALL)
def test_an_entry_says_what_timms_configuration_says(name: str) -> None:
    spec, told = backbone_spec(name), get_pretrained_cfg(name.removeprefix("timm/"))
    assert told is not None
    assert (spec.mean, spec.std) == (told.mean, told.std)
    assert spec.size == told.input_size[-1] == 160
    assert spec.features == build(name)(images(160)).shape[1]
    assert is_backbone(name)


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("size", [160, 96])
def test_a_file_of_weights_gives_timms_own_features(name: str, size: int, tmp_path: Path) -> None:
    original = random_model(name)
    file = find_weights(name, weights_dir=kept(original, tmp_path, name).parent, download=False)
    assert file.origin == "--weights-dir"
    model = build_classifier(ModelSpec(backbone=name), seed=0, state=load_weights(file, name))
    flexible = {"dynamic_img_size": True} if name == VIT else {}
    wanted = timm.create_model(name.removeprefix("timm/"), num_classes=0, **flexible).eval()
    wanted.load_state_dict(original.state_dict(), strict=False)
    with torch.no_grad():
        expected = wanted(images(size))
        # In training mode too: nothing inside is left to chance, and no statistics are of the batch.
        torch.testing.assert_close(model.train().trunk(images(size)), expected, rtol=1e-4, atol=1e-5)
    again = saved_classifier(ModelSpec(backbone=name), model.state_dict())
    with torch.no_grad():
        assert torch.equal(again.eval().features(images(size)), model.eval().features(images(size)))


def test_tensors_that_no_file_holds_are_there_after_all() -> None:
    """A Swin keeps indices that are in no file; a trunk without values would have anything in their place."""
    expected = timm.create_model("swin_tiny_patch4_window7_224", num_classes=0, strict_img_size=False)
    found = build_classifier(ModelSpec(backbone=SWIN), seed=0, state=dict(expected.state_dict())).trunk
    for key, value in expected.named_buffers():
        assert torch.equal(found.get_buffer(key), value), key


@pytest.mark.parametrize("name", SMALL)
def test_a_file_that_lacks_tensors_or_is_of_another_model_is_refused(name: str, tmp_path: Path) -> None:
    state = dict(random_model(name).state_dict())
    first = next(key for key in state if key.endswith("weight"))
    for wrong in ({key: value for key, value in state.items() if key != first}, {"weight": torch.zeros(3)}):
        with pytest.raises(WeightsError, match="not the weights of") as caught:
            load(name, wrong)
        assert len(str(caught.value)) < 600
    save_file({"weight": torch.zeros(3)}, tmp_path / "a.safetensors")
    with pytest.raises(WeightsError, match=r"a\.safetensors: not the weights of"):
        load_weights(find_weights(name, weights=tmp_path / "a.safetensors"), name)


@pytest.mark.parametrize("name", SMALL)
def test_the_last_block_is_a_part_and_the_end(name: str) -> None:
    keys = [key for key, _ in build(name).named_parameters()]
    block = tuple(f"{part}." for part in backbone_spec(name).last_block)
    learning = [key for key in keys if key.startswith(block)]
    assert 0 < len(learning) < len(keys)
    assert set(learning) == set(keys[-len(learning) :])
    stage = {VIT: "blocks.5.", CONVNEXT: "stages.3.", RESNET: "layer4."}[name]
    assert {key for key in keys if key.startswith(stage)} == {
        key for key in learning if not key.startswith(("norm.", "fc_norm.", "head."))
    }


def test_outputs_are_kept_before_the_head_alone() -> None:
    state = dict(build(VIT).state_dict())
    head, block = (
        split(build_classifier(ModelSpec(backbone=VIT, train=part), seed=0, state=state))  # type: ignore[arg-type]
        for part in ("head", "last_block")
    )
    assert head is not None
    assert head.name == "head"
    assert block is None


def test_sizes_that_a_model_does_not_take() -> None:
    require_size(VIT, 64)
    require_size(RESNET, 50)
    with pytest.raises(
        StudyError, match=rf"data\.image_size: {VIT} does not take images of 50 px .*own size is 160 px"
    ):
        require_size(VIT, 50)


def test_the_size_is_the_models_own_unless_the_study_states_one() -> None:
    study = StudyProtocol.model_validate_json(f'{{"model": {{"backbone": "{VIT}"}}}}')
    chosen, choices = resolve(study)
    assert chosen.data.image_size == 160
    assert [choice.key for choice in choices] == ["data.image_size"]
    assert resolve(chosen) == (chosen, ())
    assert chosen.digest != study.digest
    stated = study.model_validate_json(f'{{"data": {{"image_size": 96}}, "model": {{"backbone": "{VIT}"}}}}')
    assert resolve(stated) == (stated, ())


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("timm/test_vti", "did you mean timm/test_vit?"),
        ("timm/test_vit.none", "timm/test_vit has no weights 'none': there are r160_in1k"),
        ("timm/hf-hub:someone/model", "is no name of a timm model, such as"),
    ],
)
def test_unknown_names(name: str, words: str) -> None:
    with pytest.raises(StudyError) as caught:
        backbone_spec(name)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    "name", ["timm/hf-hub:someone/model", "timm/../model", "timm/", "timm/a.b.c", "timm/A", "resnet19"]
)
def test_names_of_no_form_are_no_backbones(name: str) -> None:
    assert not is_backbone(name)
    with pytest.raises(ValueError, match="timm/NAME for any model of timm"):
        ModelSpec(backbone=name)


def test_a_study_of_timm_is_checked_without_loading_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm.models", None)
    study = StudyProtocol(model=ModelSpec(backbone="timm/none_of_these"))
    assert len(study.digest) == 64
    assert is_timm(study.model.backbone)
    with pytest.raises(StudyError, match="needs timm: pip install timm"):
        backbone_spec(study.model.backbone)


def test_a_neck_needs_maps() -> None:
    with pytest.raises(StudyError, match="no feature maps at several resolutions"):
        build_classifier(ModelSpec(backbone=VIT, neck=8), seed=0, state=dict(build(VIT).state_dict()))


def test_weights_are_looked_for_where_timm_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MELFED_CACHE", str(tmp_path))
    monkeypatch.delenv("MELFED_WEIGHTS", raising=False)
    path, asked = kept(random_model(VIT), tmp_path, VIT), []

    def hub_file(settings: dict[str, object], folder: Path) -> Path:
        asked.append((settings["hf_hub_id"], folder))
        return path

    monkeypatch.setattr("melfed.common.model.weights.hub_file", hub_file)
    with pytest.raises(WeightsError, match=r"timm/test_vit\.r160_in1k of the Hugging Face hub could not be downloaded"):
        find_weights(VIT, download=False)
    assert find_weights(VIT).path == path
    assert asked == [("timm/test_vit.r160_in1k", tmp_path / "weights" / "hub")]
    assert configuration(VIT)["hf_hub_id"] == "timm/test_vit.r160_in1k"
    assert hub.FILES[0] == "model.safetensors"
