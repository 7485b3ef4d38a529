import itertools

import numpy as np
import pytest
import torch
from scipy import stats

from fedmoe.evaluation.prior_em import correct_priors


def log_probs(seed: int, size: int = 40, classes: int = 4) -> torch.Tensor:
    stream = torch.Generator().manual_seed(seed)
    return torch.log_softmax(2 * torch.randn(size, classes, generator=stream, dtype=torch.float64), dim=1)


def uniform(classes: int) -> torch.Tensor:
    return torch.full((classes,), 1 / classes, dtype=torch.float64)


def likelihood(log_probs_BC: torch.Tensor, train_prior: np.ndarray, prior: np.ndarray) -> float:
    """Log-likelihood of the batch, up to a constant, under another label prior."""
    return float(np.log((log_probs_BC.exp().numpy() * (prior / train_prior)).sum(axis=1)).mean())


@pytest.mark.parametrize("seed", range(4))
def test_two_classes_get_the_most_likely_prior_of_a_fine_grid(seed: int) -> None:
    scores, train_prior = log_probs(seed, classes=2), np.array([0.7, 0.3])
    grid = np.linspace(0.0005, 0.9995, 2000)
    best = max(grid, key=lambda q: likelihood(scores, train_prior, np.array([q, 1 - q])))
    (posterior,) = correct_priors([scores], torch.tensor(train_prior), max_steps=5000, tolerance=1e-12)
    assert float(posterior.mean(dim=0)[0]) == pytest.approx(best, abs=2e-3)


@pytest.mark.parametrize("seed", range(4))
def test_the_answer_is_a_fixed_point_of_the_formula(seed: int) -> None:
    scores, train_prior = log_probs(seed), torch.tensor([0.4, 0.3, 0.2, 0.1], dtype=torch.float64)
    (posterior,) = correct_priors([scores], train_prior, max_steps=20000, tolerance=1e-14)
    prior = posterior.mean(dim=0)
    again = scores.exp() * prior / train_prior
    torch.testing.assert_close(again / again.sum(dim=1, keepdim=True), posterior, rtol=1e-6, atol=1e-8)
    assert torch.allclose(posterior.sum(dim=1), torch.ones(len(scores), dtype=torch.float64))


@pytest.mark.parametrize("seed", range(4))
def test_each_step_makes_the_batch_more_likely(seed: int) -> None:
    scores, train_prior = log_probs(seed), np.full(4, 0.25)
    priors = [
        correct_priors([scores], uniform(4), max_steps=steps, tolerance=0.0)[0].mean(dim=0).numpy()
        for steps in range(1, 20)
    ]
    found = [likelihood(scores, train_prior, prior) for prior in priors]
    assert all(later >= earlier - 1e-12 for earlier, later in itertools.pairwise(found))


def test_sure_predictions_give_their_own_shares_and_stay() -> None:
    labels = torch.tensor([0] * 6 + [2] * 3)
    scores = torch.log_softmax(torch.nn.functional.one_hot(labels, 3).double() * 60, dim=1)
    (posterior,) = correct_priors([scores], uniform(3))
    assert posterior.argmax(dim=1).tolist() == labels.tolist()
    torch.testing.assert_close(posterior.mean(dim=0), torch.tensor([6 / 9, 0, 3 / 9], dtype=torch.float64))


@pytest.mark.parametrize("steps", [1, 10, 100, 1000])
def test_a_label_that_was_never_trained_stays_impossible(steps: int) -> None:
    train_prior = torch.tensor([0.5, 0.5, 0.0, 0.0], dtype=torch.float64)
    (posterior,) = correct_priors([log_probs(1)], train_prior, max_steps=steps, tolerance=0.0)
    assert posterior[:, 2:].max() == 0
    assert torch.isfinite(posterior).all()


@pytest.mark.parametrize("shift", [[0.8, 0.1, 0.1], [0.05, 0.05, 0.9], [1 / 3, 1 / 3, 1 / 3]])
@pytest.mark.parametrize("seed", [0, 1])
def test_it_finds_a_shifted_prior_and_helps(seed: int, shift: list[float]) -> None:
    # Three Gaussians on a line; the classifier is the Bayes posterior under the prior of the training data.
    rng, centres, train_prior = np.random.default_rng(seed), np.array([-1.0, 0.0, 1.0]), np.array([0.2, 0.6, 0.2])
    labels = rng.choice(3, 4000, p=shift)
    x = rng.normal(centres[labels], 0.7)
    joint = np.exp(-((x[:, None] - centres) ** 2) / (2 * 0.7**2)) * train_prior
    scores = torch.from_numpy(np.log(joint / joint.sum(axis=1, keepdims=True)))
    (posterior,) = correct_priors([scores], torch.from_numpy(train_prior), max_steps=2000)
    np.testing.assert_allclose(posterior.mean(dim=0).numpy(), shift, atol=0.06)
    before = float((scores.argmax(dim=1).numpy() == labels).mean())
    after = float((posterior.argmax(dim=1).numpy() == labels).mean())
    assert after > before


def by_hand(log_probs_BC: torch.Tensor, train_prior: torch.Tensor, doubt: float = 0.0) -> torch.Tensor:
    """The two formulas in turn, in logarithms, for one batch, and with doubt the test whether they pay."""
    prior, scores = train_prior, log_probs_BC.double() - train_prior.log()
    scores[:, train_prior == 0] = float("-inf")
    void = (train_prior > 0).double() / int((train_prior > 0).sum())
    doubted = ((1 - doubt) * torch.softmax(scores, dim=1) + doubt * void).log()
    for _ in range(100):
        before, prior = prior, torch.softmax(doubted + prior.clamp_min(1e-300).log(), dim=1).mean(dim=0)
        if (prior - before).abs().max() < 1e-6:
            break
    gain = [torch.logsumexp(doubted + q.clamp_min(1e-300).log(), dim=1).sum() for q in (before, train_prior)]
    quantile = stats.chi2.ppf(0.99, max(1, int((train_prior > 0).sum()) - 1))
    if doubt and float(gain[0] - gain[1]) <= max(quantile / 2, 0.05 * len(scores)):
        return torch.softmax(log_probs_BC.double(), dim=1)
    return torch.softmax(scores + before.clamp_min(1e-300).log(), dim=1)


def ragged(seed: int, clients: int, most: int) -> tuple[list[torch.Tensor], torch.Tensor]:
    rng = np.random.default_rng(seed)
    classes, sharpness = int(rng.integers(2, 30)), float(rng.uniform(0.2, 6))
    stream = torch.Generator().manual_seed(seed)
    batches = [
        torch.log_softmax(sharpness * torch.randn(int(size), classes, generator=stream), dim=1)
        for size in rng.integers(1, most, clients)
    ]
    prior = torch.from_numpy(rng.dirichlet(np.ones(classes)))
    if seed % 2:
        prior[0] = 0
    return batches, prior / prior.sum()


@pytest.mark.parametrize("doubt", [0.0, 0.2, 0.9])
@pytest.mark.parametrize("seed", range(10))
def test_many_batches_get_what_the_formulas_give_each(seed: int, doubt: float) -> None:
    batches, prior = ragged(seed, clients=25, most=120)
    for log_probs_BC, posterior_BC in zip(batches, correct_priors(batches, prior, doubt=doubt), strict=True):
        expected_BC = by_hand(log_probs_BC, prior, doubt)
        torch.testing.assert_close(posterior_BC, expected_BC, rtol=0, atol=1e-12)
        assert torch.equal(posterior_BC.argmax(dim=1), expected_BC.argmax(dim=1))


@pytest.mark.parametrize("doubt", [0.0, 0.2])
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("seed", range(5))
def test_a_batch_gets_the_same_bits_alone_and_among_others(seed: int, threads: int, doubt: float) -> None:
    # 30 ragged batches of 200 rows and up to 29 classes: in one go of `VALUES`, or in two or three.
    batches, prior = ragged(seed, clients=30, most=400)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    order = np.random.default_rng(seed).permutation(30)
    together = correct_priors(batches, prior, doubt=doubt)
    shuffled = correct_priors([batches[n] for n in order], prior, doubt=doubt)
    for n, posterior_BC in zip(order, shuffled, strict=True):
        assert posterior_BC.numpy().tobytes() == together[n].numpy().tobytes()
    for n in order[:10]:
        (alone_BC,) = correct_priors([batches[n]], prior, doubt=doubt)
        assert alone_BC.numpy().tobytes() == together[n].numpy().tobytes()
    torch.set_num_threads(before)


@pytest.mark.parametrize("doubt", [0.0, 0.2])
def test_a_prior_that_dies_out_leaves_finite_probabilities(doubt: float) -> None:
    sure = torch.log_softmax(torch.tensor([[900.0, 0.0, -900.0]] * 5), dim=1)
    mixed = torch.log_softmax(torch.tensor([[900.0, 0.0, -900.0]] * 50 + [[-3000.0, 0.0, -900.0]]), dim=1)
    for posterior in correct_priors([sure, mixed], uniform(3), doubt=doubt, max_steps=1000, tolerance=0.0):
        assert torch.isfinite(posterior).all()
        torch.testing.assert_close(posterior.sum(dim=1), torch.ones(len(posterior)).double())


@pytest.mark.parametrize("seed", range(5))
def test_doubt_buries_labels_that_live_on_sure_errors_and_costs_a_calibrated_classifier_nothing(seed: int) -> None:
    # Labels 0 and 1 of ten. Sharpness 1 is the Bayes posterior of these scores; a model of sharpness 2 is too sure.
    rng, gain = np.random.default_rng(seed), 2.5
    labels = torch.from_numpy(rng.integers(0, 2, 600))
    z = torch.from_numpy(rng.normal(0, 1, (600, 10)))
    z[torch.arange(600), labels] += gain
    found: dict[int, tuple[float, float, float]] = {}
    for sharpness in (1, 2):
        scores = torch.log_softmax(sharpness * gain * z, dim=1)
        (plain,), (guarded,) = (correct_priors([scores], uniform(10), doubt=doubt) for doubt in (0.0, 0.15))
        right = [float((posterior.argmax(dim=1) == labels).double().mean()) for posterior in (plain, guarded)]
        found[sharpness] = (right[0], right[1], float(guarded.mean(dim=0)[2:].sum()))
    assert found[1][1] >= found[1][0]
    assert found[2][1] > found[2][0] + 0.02
    assert max(found[1][2], found[2][2]) < 0.02


def overlapping(seed: int, shares: np.ndarray, size: int, sure: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns log-probabilities of a classifier that is `sure` times too sure, and the labels of a batch."""
    rng = np.random.default_rng(seed)
    labels = torch.from_numpy(rng.choice(len(shares), size, p=shares))
    z = torch.from_numpy(rng.normal(0, 1, (size, len(shares))))
    z[torch.arange(size), labels] += 1.5
    return torch.log_softmax(sure * 1.5 * z, dim=1), labels


@pytest.mark.parametrize("sure", [0.7, 1.0, 1.5])
@pytest.mark.parametrize("size", [1, 10, 30, 100, 1000])
def test_where_the_labels_are_dealt_as_in_training_guarded_correction_leaves_the_answers_alone(
    size: int, sure: float
) -> None:
    changed, worse = 0, 0.0
    for seed in range(40):
        scores, labels = overlapping(seed, np.full(10, 0.1), size, sure)
        (plain,), (guarded,) = (correct_priors([scores], uniform(10), doubt=doubt) for doubt in (0.0, 0.15))
        if not torch.allclose(guarded, scores.exp()):
            changed += 1
        worse += float((plain.argmax(1) == labels).double().mean() - (scores.argmax(1) == labels).double().mean())
    assert changed <= 2, "at 1 %, and a little for what n is too small for"
    assert worse < 0 or size == 1, "plain EM would have cost something on average"


@pytest.mark.parametrize(("size", "least"), [(30, 7), (100, 10), (1000, 10)])
def test_where_a_batch_has_few_of_the_labels_it_pays(size: int, least: int) -> None:
    shares, helped = np.array([0.5, 0.5, *[0.0] * 8]), 0
    for seed in range(10):
        scores, labels = overlapping(seed, shares, size, 1.0)
        (guarded,) = correct_priors([scores], uniform(10), doubt=0.15)
        right = [float((found.argmax(dim=1) == labels).double().mean()) for found in (scores, guarded)]
        assert right[1] >= right[0]
        helped += right[1] > right[0] + 0.1
    assert helped >= least


def test_where_one_label_alone_was_trained_no_correction_pays() -> None:
    train_prior = torch.tensor([0.0, 1.0, 0.0], dtype=torch.float64)
    scores = log_probs(3, classes=3)
    (plain,), (guarded,) = (correct_priors([scores], train_prior, doubt=doubt) for doubt in (0.0, 0.2))
    assert (plain[:, 1] == 1).all()
    torch.testing.assert_close(guarded, scores.exp())
