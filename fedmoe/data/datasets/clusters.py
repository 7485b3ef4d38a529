"""Generated pictures: 100 classes in 20 families of 5, 3x32x32; the shape of CIFAR-100, but not its content."""

import numpy as np

from fedmoe.data.clusters_picture import SIZE, draw
from fedmoe.data.clusters_recipe import FAMILIES, MEMBERS, recipe
from fedmoe.data.contracts import Dataset, LoadRequest
from fedmoe.seeding import numpy_stream

__all__ = ["load_clusters"]


def load_clusters(request: LoadRequest) -> Dataset:
    """Returns 30,000 training and 6,000 test pictures of figures on textured grounds, the same for the same seed.

    Class `c` belongs to family `c // 5`: a family shares colours and background, its members differ in the figure's
    outline, filling and shade. Takes about ten seconds and 110 MB.
    """
    return generate_clusters(request.seed, train_per_class=300, test_per_class=60)


def generate_clusters(seed: int, *, train_per_class: int, test_per_class: int) -> Dataset:
    """Returns the same data in another size; each class is a stream of its own."""
    labels = np.arange(FAMILIES * MEMBERS, dtype=np.int64)
    parts = (("train", train_per_class), ("test", test_per_class))
    x_NCHW = np.empty((len(labels) * (train_per_class + test_per_class), 3, SIZE, SIZE), dtype=np.uint8)
    start = 0
    for part, num in parts:
        for label in labels:
            stream = numpy_stream(seed, "clusters", part, int(label))
            x_NCHW[start : start + num] = draw(recipe(int(label)), num, stream)
            start += num
    return Dataset(
        name="clusters",
        real=False,
        x_NCHW=x_NCHW,
        y_N=np.concatenate([np.repeat(labels, num) for _, num in parts]),
        num_train=len(labels) * train_per_class,
        class_names=tuple(f"family{label // MEMBERS:02d}-member{label % MEMBERS}" for label in labels),
    )
