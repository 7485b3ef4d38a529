"""Generated pictures of a digit's size, as many as a population needs, in files that are mapped into memory."""

from pathlib import Path

import numpy as np

from fedmoe.data.contracts import Dataset, LoadRequest

__all__ = ["stored", "write"]

SIDE = 8
ROWS = 65_536


def write(folder: Path, train: int, test: int, labels: int) -> int:
    """Writes the data set to `folder` and returns its bytes: a noisy copy of its class's picture for each sample.

    Args:
        folder: an empty one.
        train: training samples.
        test: test samples.
        labels: classes; all as frequent.
    """
    rng = np.random.default_rng(0)
    pictures = rng.integers(40, 215, (labels, 1, SIDE, SIDE)).astype(np.uint8)
    size = train + test
    y = rng.permutation(np.arange(size) % labels)
    x = np.lib.format.open_memmap(folder / "x.npy", "w+", np.uint8, (size, 1, SIDE, SIDE))
    for start in range(0, size, ROWS):
        some = y[start : start + ROWS]
        x[start : start + ROWS] = pictures[some] + rng.integers(0, 40, (len(some), 1, SIDE, SIDE), dtype=np.uint8)
    x.flush()
    np.save(folder / "y.npy", y)
    np.save(folder / "num_train.npy", np.array(train))
    return int(x.nbytes + y.nbytes)


def stored(request: LoadRequest) -> Dataset:
    """Returns the data set in the folder `data.root`, memory-mapped."""
    folder = Path(str(request.root))
    y = np.load(folder / "y.npy", mmap_mode="r")
    return Dataset(
        name="scale",
        real=False,
        x_NCHW=np.load(folder / "x.npy", mmap_mode="r"),
        y_N=y,
        num_train=int(np.load(folder / "num_train.npy")),
        class_names=tuple(str(label) for label in range(int(y.max()) + 1)),
    )
