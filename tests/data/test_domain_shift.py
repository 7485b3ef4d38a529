"""Feature shift: every image looks as its sample's domain says, and the cache tells the shifts apart."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fedmoe.data.contracts import Dataset, LoadRequest
from fedmoe.data.prepared import PreparedData, apply_domains, open_prepared, prepare
from fedmoe.errors import DataError, ReferenceError_

CALLS: list[int] = []


@pytest.fixture(autouse=True)
def _alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEDMOE_HOME", str(tmp_path / "home"))
    CALLS.clear()


def ask(seed: int = 0) -> LoadRequest:
    return LoadRequest(root=None, seed=seed, download_timeout=2)


def small(request: LoadRequest) -> Dataset:
    return Dataset(
        name="small",
        real=False,
        x_NCHW=np.random.default_rng(request.seed).integers(0, 256, (50, 3, 6, 6), dtype=np.uint8),
        y_N=np.arange(50, dtype=np.int64) % 5,
        num_train=40,
        class_names=tuple("abcde"),
        natural_N=np.arange(50, dtype=np.int64) // 4,
    )


def here(function) -> str:
    return f"{__name__}:{function.__name__}"


@pytest.fixture
def prepared() -> PreparedData:
    return replace(prepare(here(small), ask(), source=""), stand_in_for="cifar100")


@pytest.mark.parametrize("seed", range(3))
def test_each_image_goes_through_its_own_domain(prepared: PreparedData, seed: int) -> None:
    domain_N = np.random.default_rng(seed).integers(0, 3, 50)
    shifted = apply_domains(prepared, domain_N, ("identity", "negative", "rotate90"))
    before, after = prepared.dataset, shifted.dataset
    wanted = [before.x_NCHW, 255 - before.x_NCHW, np.rot90(before.x_NCHW, axes=(2, 3))]
    for index in range(50):
        assert np.array_equal(after.x_NCHW[index], wanted[domain_N[index]][index])
    for one, two in ((after.y_N, before.y_N), (after.natural_N, before.natural_N)):
        assert np.array_equal(one, two)
    assert (after.name, after.num_train, after.class_names) == (before.name, before.num_train, before.class_names)
    assert shifted.stand_in_for == "cifar100"
    assert np.array_equal(open_prepared(shifted.fingerprint).dataset.x_NCHW, after.x_NCHW)


def test_domains_have_fingerprints_of_their_own(prepared: PreparedData) -> None:
    domain_N = np.arange(50) % 2
    plain = apply_domains(prepared, domain_N, ("identity", "negative"))
    others = [
        apply_domains(prepared, 1 - domain_N, ("identity", "negative")),
        apply_domains(prepared, domain_N, ("identity", "blur")),
        apply_domains(prepare(here(small), ask(1), source=""), domain_N, ("identity", "negative")),
    ]
    fingerprints = {item.fingerprint for item in [prepared, plain, *others]}
    assert len(fingerprints) == 5
    assert apply_domains(prepared, domain_N, ("identity", "negative")).fingerprint == plain.fingerprint


def dark(x_NCHW: np.ndarray) -> np.ndarray:
    CALLS.append(len(x_NCHW))
    return x_NCHW // 2


def cropped(x_NCHW: np.ndarray) -> np.ndarray:
    return x_NCHW[..., :-1]


def test_a_transform_by_reference_runs_once(prepared: PreparedData) -> None:
    for _ in range(2):
        shifted = apply_domains(prepared, np.zeros(50, dtype=np.int64), (here(dark),))
        assert np.array_equal(shifted.dataset.x_NCHW, prepared.dataset.x_NCHW // 2)
    assert len(CALLS) == 1


def test_domains_that_do_not_fit_are_refused(prepared: PreparedData) -> None:
    domain_N = np.zeros(50, dtype=np.int64)
    for wrong in (domain_N[:-1], domain_N - 1, domain_N + 1):
        with pytest.raises(DataError, match=r"one domain in \[0, 1\) for each of 50 samples"):
            apply_domains(prepared, wrong, ("identity",))
    with pytest.raises(DataError, match="must give uint8 images of equal shape"):
        apply_domains(prepared, domain_N, (here(cropped),))
    with pytest.raises(ReferenceError_, match="unknown transform 'rotate45'"):
        apply_domains(prepared, domain_N, ("rotate45",))
