"""How input is normalised: as the published weights expect it."""

import torchvision

from melfed.common.model.backbones import BACKBONES


def test_normalisation_is_that_of_the_published_weights() -> None:
    for name, spec in BACKBONES.items():
        if spec.published:
            transforms = torchvision.models.get_model_weights(name)[spec.published].transforms()
            assert (list(spec.mean), list(spec.std)) == (transforms.mean, transforms.std)
    assert BACKBONES["efficientnet_lite0"].mean == BACKBONES["efficientnet_lite0"].std == (0.5, 0.5, 0.5)
