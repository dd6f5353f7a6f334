"""The classifier around a backbone: what learns, seeds, dropout, metadata, and the tensors that travel."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from melfed.common.data.metadata import METADATA_FEATURES, encode_metadata
from melfed.common.data.records import LesionRecord
from melfed.common.errors import StudyError, WeightsError
from melfed.common.model.backbones import BACKBONES
from melfed.common.model.classifier import (
    build_classifier,
    build_trunk,
    load_trainable,
    saved_classifier,
    trainable_tensors,
)
from melfed.common.model.norms import FrozenStatisticsNorm
from melfed.common.study.protocol import ModelSpec
from melfed.common.tensors import TensorError
from tests.common.networks import Choices, count, images, library_model, plain_state, with_random_head


def test_head_starts_at_zero() -> None:
    model = build_classifier(Choices(), seed=0, state=None)
    assert not model(images()).any()


@pytest.fixture(scope="module")
def mobilenet() -> dict[str, Tensor]:
    torch.manual_seed(0)
    return plain_state(library_model("mobilenet_v2"), "mobilenet_v2")


def test_affine_learns_norms_biases_and_head_only(mobilenet: dict[str, Tensor]) -> None:
    model = build_classifier(Choices("mobilenet_v2", True, "affine"), seed=0, state=mobilenet)
    norms = {
        f"{name}.{kind}"
        for name, m in model.named_modules()
        if isinstance(m, FrozenStatisticsNorm)
        for kind in ("weight", "bias")
    }
    assert set(trainable_tensors(model)) == norms | {"head.weight", "head.bias"}
    assert count(model) == 35_393
    with_random_head(model)(images()).sum().backward()
    assert {name for name, p in model.named_parameters() if p.grad is not None} == set(trainable_tensors(model))


def test_no_parameter_of_the_caller_is_shared(mobilenet: dict[str, Tensor]) -> None:
    before = {name: tensor.clone() for name, tensor in mobilenet.items()}
    model = build_classifier(Choices("mobilenet_v2", True), seed=0, state=mobilenet)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1)
    assert all(torch.equal(mobilenet[name], tensor) for name, tensor in before.items())


def test_weights_of_another_model_are_refused(mobilenet: dict[str, Tensor]) -> None:
    with pytest.raises(WeightsError, match="resnet18: these weights are of another model"):
        build_classifier(Choices("resnet18", True), seed=0, state=mobilenet)


@pytest.mark.parametrize("pretrained", [True, False])
def test_weights_are_given_exactly_where_wanted(pretrained: bool, mobilenet: dict[str, Tensor]) -> None:
    with pytest.raises(StudyError, match="no weights were given" if pretrained else "is false, but weights"):
        build_classifier(Choices("mobilenet_v2", pretrained), seed=0, state=None if pretrained else mobilenet)


# --- seeds, dropout, metadata ----------------------------------------------------------------------------------------


def test_same_seed_same_network_and_the_global_generator_is_untouched() -> None:
    before = torch.get_rng_state()
    first, again, other = (
        trainable_tensors(build_classifier(Choices("squeezenet1_1", metadata=True), seed=s, state=None))
        for s in (1, 1, 2)
    )
    assert torch.equal(torch.get_rng_state(), before)
    assert all(np.array_equal(first[name], again[name]) for name in first)
    for name in ("trunk.features.0.weight", "metadata.0.weight"):
        assert not np.array_equal(first[name], other[name])


def test_pretrained_build_leaves_the_global_generator(mobilenet: dict[str, Tensor]) -> None:
    before = torch.get_rng_state()
    build_classifier(Choices("mobilenet_v2", True), seed=1, state=mobilenet)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("backbone", "asked", "wanted"),
    [("simple_cnn", None, 0.4), ("simple_cnn", 0.0, 0.0), ("simple_cnn", 0.6, 0.6), ("resnet18", None, 0.0)],
)
def test_dropout_is_what_the_study_states_else_the_architectures(
    backbone: str, asked: float | None, wanted: float
) -> None:
    choices = ModelSpec(backbone=backbone, pretrained=False, dropout=asked)
    model = with_random_head(build_classifier(choices, seed=0, state=None))
    assert model.dropout.p == choices.dropout_rate == wanted
    torch.manual_seed(0)
    batch = images(1).expand(8, -1, -1, -1)
    assert (len(model.train()(batch).unique()) > 1) == (wanted > 0)
    assert model.eval()(batch).std() < 1e-6


@pytest.mark.parametrize("size", [32, 64, 100, 224])
def test_simple_cnn_is_the_papers_at_every_size(size: int) -> None:
    model = build_classifier(Choices(), seed=0, state=None)
    layers = [m for m in model.trunk.modules() if isinstance(m, nn.Conv2d)]
    assert [(m.in_channels, m.out_channels, m.kernel_size) for m in layers] == [(3, 11, (4, 4))] + [
        (11, 11, (4, 4))
    ] * 4
    assert model.trunk(images(size=size)).shape == (2, 11)


def lesion(age: float | None, sex: str | None, site: str | None) -> LesionRecord:
    return LesionRecord(
        image="a.jpg",
        target=0,
        diagnosis=None,
        patient_id=None,
        lesion_id=None,
        dup_group=None,
        age=age,
        sex=sex,
        site=site,
        source="a",
    )


def test_metadata_branch_reaches_the_logit_and_travels_with_the_head() -> None:
    model = with_random_head(build_classifier(Choices(train="head", metadata=True), seed=0, state=None)).eval()
    one, two = (torch.from_numpy(encode_metadata([lesion(age, "male", None)] * 2)) for age in (20, 80))
    assert not torch.allclose(model(images(), one), model(images(), two))
    names = set(trainable_tensors(model))
    assert names == {"head.weight", "head.bias"} | {
        f"metadata.{i}.{kind}" for i in (0, 2) for kind in ("weight", "bias")
    }


@pytest.mark.parametrize("branch", [True, False])
def test_metadata_is_given_exactly_where_there_is_a_branch(branch: bool) -> None:
    model = build_classifier(Choices(metadata=branch), seed=0, state=None)
    with pytest.raises(ValueError, match="only there"):
        model(images(), None if branch else torch.zeros(2, METADATA_FEATURES))


# --- tensors that travel ---------------------------------------------------------------------------------------------


def test_tensors_go_out_and_come_back_bit_for_bit() -> None:
    sender, receiver = (build_classifier(Choices(metadata=True), seed=s, state=None) for s in (1, 2))
    sender.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    sent = trainable_tensors(sender)
    assert list(sent) == sorted(sent)
    assert all(tensor.dtype == np.float32 and tensor.flags.c_contiguous for tensor in sent.values())
    load_trainable(receiver, sent)
    arrived = trainable_tensors(receiver)
    assert all(np.array_equal(arrived[name], sent[name]) for name in sent)
    sent["head.bias"][:] = 9
    assert sender.head.bias.item() == receiver.head.bias.item() == 0


def _without(tensors: dict[str, np.ndarray], name: str) -> dict[str, np.ndarray]:
    return {key: value for key, value in tensors.items() if key != name}


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda t: _without(t, "head.bias"), "lacks head.bias"),
        (lambda t: {**t, "head.more": t["head.bias"]}, "unknown head.more"),
        (lambda t: {**t, "head.bias": np.ones(2, np.float32)}, "shape"),
        (lambda t: {**t, "head.bias": np.ones(1, np.float64)}, "float64, not float32"),
        (lambda t: {**t, "head.bias": np.array([np.nan], np.float32)}, "not finite"),
        (lambda t: {**t, "head.bias": np.array([np.inf], np.float32)}, "not finite"),
    ],
)
def test_tensors_that_do_not_fit_change_nothing(spoil, reason: str) -> None:  # type: ignore[no-untyped-def]
    model = build_classifier(Choices(), seed=0, state=None)
    before = trainable_tensors(model)
    sent = spoil({name: tensor + 1 for name, tensor in before.items()})
    with pytest.raises(TensorError, match=reason):
        load_trainable(model, sent)
    assert all(np.array_equal(tensor, before[name]) for name, tensor in trainable_tensors(model).items())


def test_only_trainable_tensors_are_accepted() -> None:
    model = build_classifier(Choices(train="head"), seed=0, state=None)
    everything = {name: p.detach().numpy() for name, p in model.named_parameters()}
    with pytest.raises(TensorError, match="unknown trunk"):
        load_trainable(model, everything)


@pytest.mark.parametrize("pretrained", [True, False])
@pytest.mark.parametrize("backbone", BACKBONES)
def test_a_saved_network_computes_the_same(backbone: str, pretrained: bool) -> None:
    if backbone == "simple_cnn" and pretrained:
        pytest.skip("nobody publishes weights of it")
    choices = Choices(backbone, pretrained=pretrained, metadata=True)
    state = None
    if pretrained:
        with torch.random.fork_rng():
            torch.manual_seed(4)
            weights = build_trunk(backbone, pretrained=True).state_dict()
        state = {name: value for name, value in weights.items() if not name.endswith("num_batches_tracked")}
    model = with_random_head(build_classifier(choices, seed=1, state=state)).eval()
    saved = saved_classifier(choices, model.state_dict()).eval()
    metadata = torch.zeros(2, METADATA_FEATURES)
    with torch.no_grad():
        torch.testing.assert_close(saved(images(), metadata), model(images(), metadata), rtol=0, atol=0)
    learning = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert learning == {name for name, parameter in saved.named_parameters() if parameter.requires_grad}


def test_a_saved_network_of_another_kind_is_refused() -> None:
    tensors = build_classifier(Choices(), seed=0, state=None).state_dict()
    with pytest.raises(WeightsError, match="resnet18: the saved tensors are of another network"):
        saved_classifier(Choices("resnet18"), tensors)
