"""Three data sets as three domains: handwritten digits, clothes and CIFAR-10 in grey, ten labels each, 28x28."""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fedmoe.data.contracts import Dataset, Ids, LoadRequest
from fedmoe.data.datasets.digits import load_digits
from fedmoe.data.datasets.fashion_mnist import load_fashion_mnist
from fedmoe.data.datasets.imagefolder import load_imagefolder
from fedmoe.errors import DataError
from fedmoe.seeding import numpy_stream

__all__ = ["load_three_sources"]

SIDE = 28
MOST_TRAIN, MOST_TEST = 20_000, 4_000  # of a source


def load_three_sources(request: LoadRequest) -> Dataset:
    """Returns digits, Fashion-MNIST and CIFAR-10 (in grey) as domains 0, 1 and 2 of one data set, 1x28x28.

    Label c means digit c, garment c or CIFAR-10's class c: domains differ in what inputs look like and in what labels
    mean. Of a source there are 20,000 training and 4,000 test samples at the most, always the same ones; the digits
    have 1,198 and 599. `request.root` is where CIFAR-10's pictures lie (as `imagefolder` reads them); Fashion-MNIST is
    looked for in its own places.

    Raises:
        DataError: files are missing or broken, or the pictures have other than ten classes.
    """
    sources = [load_digits(request), load_fashion_mnist(replace(request, root=None)), load_imagefolder(request)]
    for source in sources:
        if len(source.class_names) != 10:
            raise DataError(
                f"three_sources needs ten classes of each source, got {len(source.class_names)} of {source.name}; "
                "hint: data.root must be CIFAR-10's pictures"
            )
    kept = [_kept(source) for source in sources]
    parts = [(domain, kept[domain][test]) for test in (0, 1) for domain in range(len(sources))]
    return Dataset(
        name="+".join(source.name for source in sources),
        real=True,
        x_NCHW=np.concatenate([_grey(sources[domain].x_NCHW[ids]) for domain, ids in parts]),
        y_N=np.concatenate([sources[domain].y_N[ids] for domain, ids in parts]),
        num_train=sum(len(train) for train, _ in kept),
        class_names=tuple(str(label) for label in range(10)),
        domain_N=np.concatenate([np.full(len(ids), domain, dtype=np.int64) for domain, ids in parts]),
    )


def _kept(source: Dataset) -> tuple[Ids, Ids]:
    train, test = np.arange(source.num_train), np.arange(source.num_train, len(source.y_N))
    stream = numpy_stream(0, "three_sources", source.name)
    return tuple(  # type: ignore[return-value]
        np.sort(stream.permutation(ids)[:most]) for ids, most in ((train, MOST_TRAIN), (test, MOST_TEST))
    )


def _grey(x_NCHW: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Returns the images in grey at 28x28; smaller and larger ones are resized bilinearly."""
    grey_NHW = x_NCHW[:, 0] if x_NCHW.shape[1] == 1 else np.rint(x_NCHW.mean(axis=1)).astype(np.uint8)
    if grey_NHW.shape[1:] == (SIDE, SIDE):
        return grey_NHW[:, None]
    resized = [np.asarray(Image.fromarray(image).resize((SIDE, SIDE), Image.Resampling.BILINEAR)) for image in grey_NHW]
    return np.stack(resized)[:, None]
