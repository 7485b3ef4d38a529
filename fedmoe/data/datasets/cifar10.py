"""CIFAR-10: 60,000 colour 32x32 images, 10 classes (Krizhevsky 2009)."""

from torchvision.datasets import CIFAR10

from fedmoe.data.cifar_archive import load_cifar
from fedmoe.data.contracts import Dataset, LoadRequest

__all__ = ["load_cifar10"]


def load_cifar10(request: LoadRequest) -> Dataset:
    """Returns CIFAR-10: 50,000 training and 10,000 test images, 3x32x32.

    Raises:
        DataMissingError: neither its folder nor its archive is under the root, nor can it be downloaded.
        DataError: a file has another hash than the published one.
    """
    return load_cifar("cifar10", CIFAR10, request)
