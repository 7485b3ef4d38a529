"""Digits in three domains: plenty of samples a client, few, plenty with wrong labels; all are tested on right ones."""

from dataclasses import replace

import numpy as np

from fedmoe.data.contracts import Dataset, LoadRequest
from fedmoe.data.datasets.digits import load_digits
from fedmoe.seeding import numpy_stream

__all__ = ["DOMAINS", "load_noisy_digits"]

DOMAINS = ("plenty", "few", "wrong labels")
SHARES = (0.45, 0.1, 0.45)  # of the training samples
WRONG = 0.4  # of the third domain's labels: drawn anew, evenly


def load_noisy_digits(request: LoadRequest) -> Dataset:
    """Returns scikit-learn's digits in domains 0, 1 and 2; which sample is where, and which label is wrong, by lot."""
    data = load_digits(request)
    stream, size, y_N = numpy_stream(request.seed, "noisy_digits"), len(data.y_N), data.y_N.copy()
    domain_N = stream.choice(len(DOMAINS), size=size, p=SHARES)
    domain_N[data.num_train :] = stream.integers(len(DOMAINS), size=size - data.num_train)
    spoilt_N = (domain_N == 2) & (stream.random(size) < WRONG) & (np.arange(size) < data.num_train)
    y_N[spoilt_N] = stream.integers(len(data.class_names), size=int(spoilt_N.sum()))
    return replace(data, name="digits, some labels wrong", y_N=y_N, domain_N=domain_N.astype(np.int64))
