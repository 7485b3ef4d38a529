"""Fashion-MNIST: 70,000 grey 28x28 images of clothes, 10 classes (arXiv:1708.07747)."""

from pathlib import Path

from torchvision.datasets import FashionMNIST

from fedmoe.data.contracts import Dataset, LoadRequest
from fedmoe.data.downloads import download_or_explain
from fedmoe.data.idx import dataset_from_idx, find_idx, idx_file
from fedmoe.data.storage import existing_root

__all__ = ["load_fashion_mnist"]

DEBIAN = Path("/usr/share/datasets/fashion-mnist")


def load_fashion_mnist(request: LoadRequest) -> Dataset:
    """Returns Fashion-MNIST: 60,000 training and 10,000 test images, 1x28x28.

    Its four idx files, gzipped or not, are looked for in `<root>/FashionMNIST/raw` (torchvision's place), in `<root>`,
    and where Debian's package `dataset-fashion-mnist` puts them; then they are downloaded to torchvision's place.

    Raises:
        DataMissingError: the files are nowhere.
        DataError: one of them is broken.
    """
    root = existing_root(request.root)
    raw = root / "FashionMNIST" / "raw"
    packed = [name for name, _ in FashionMNIST.resources]
    files = find_idx([raw, root, DEBIAN], [name.removesuffix(".gz") for name in packed])
    if files is None:
        wanted = {raw / name: (FashionMNIST.mirrors[0] + name, md5) for name, md5 in FashionMNIST.resources}
        hint = f"; or install Debian's package dataset-fashion-mnist ({DEBIAN})"
        download_or_explain("fashion_mnist", wanted, timeout=request.download_timeout, hint=hint)
        files = [idx_file(raw / name) for name in packed]
    return dataset_from_idx("fashion_mnist", tuple(FashionMNIST.classes), files)
