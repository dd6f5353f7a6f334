"""A small study for the tests of the Python interface, and its run."""

from melfed.simulations import Study

STUDY = Study(
    name="small",
    data={"image_size": 32},
    partition={"minimum_images": 4},
    model={"backbone": "simple_cnn", "pretrained": False},
    federation={"mode": "central", "rounds": 2},
)
