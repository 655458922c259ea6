import copy
import math
import pickle

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn

from multirate.lab.opponents.salsa import SALSA
from multirate.lab.opponents.sasa import SASAPlus, confidence_interval

CURVATURE = torch.tensor([1.0, 0.5, 0.2], dtype=torch.float64)


def noises(steps, size=1.0):
    return size * torch.randn(steps, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(5))


def start(value=1.0):
    return nn.Parameter(torch.tensor([value, -value, 2 * value], dtype=torch.float64))


def quadratic(x, noise):
    """A batch's loss: its gradient is CURVATURE·x plus the noise."""
    return 0.5 * (CURVATURE * x.square()).sum() + (noise * x).sum()


def train(optimizer, x, batches):
    for noise in batches:
        optimizer.zero_grad()
        quadratic(x, noise).backward()
        if isinstance(optimizer, SALSA):
            optimizer.step(lambda noise=noise: quadratic(x, noise).detach())
        else:
            optimizer.step()


def interval_by_loops(samples, significance):
    count = len(samples)
    size = int(math.sqrt(count))
    mean = sum(samples) / count
    means = [sum(samples[j : j + size]) / size for j in range(count - size + 1)]
    variance = count * size / ((count - size) * (count - size + 1)) * sum((m - mean) ** 2 for m in means)
    half = stats.t.ppf(1 - significance / 2, count - size) * math.sqrt(variance / count)
    return mean - half, mean + half


# The 97.5 % quantile of Student's t with two degrees of freedom has this closed form.
QUANTILE = (2 * 0.975 - 1) * math.sqrt(2 / (4 * 0.975 * 0.025))


def test_the_quantile_is_scipys():
    assert pytest.approx(stats.t.ppf(0.975, 2), rel=1e-9) == QUANTILE


def test_disjoint_batch_means_by_hand():
    # Batches of three have means 2, 5, 8: variance 3/2·(9 + 0 + 9) = 27, with 3 − 1 degrees of freedom.
    half = QUANTILE * math.sqrt(27 / 9)
    assert confidence_interval(range(1, 10), 0.05, "disjoint") == pytest.approx((5 - half, 5 + half), rel=1e-9)


def test_overlapping_batch_means_by_hand():
    # Batches of two have means 1/2, 1/2, 3/2 around 1: variance 4·2/(2·3)·3/4 = 1, with 4 − 2 degrees of freedom.
    half = QUANTILE / 2
    interval = confidence_interval([0.0, 1.0, 0.0, 3.0], 0.05, "overlapping")
    assert interval == pytest.approx((1 - half, 1 + half), rel=1e-9)


@pytest.mark.parametrize("batches", ["overlapping", "disjoint"])
def test_the_interval_of_correlated_samples_is_as_wide_as_it_must_be(batches):
    # For x_k = 0.8 x_{k−1} + e_k the variance of the mean is 1/(1 − 0.8)² / N, 25 times that of independent e_k.
    draws = np.random.default_rng(0).normal(size=20_000)
    values = [draws[0]]
    for draw in draws[1:]:
        values.append(0.8 * values[-1] + draw)
    lower, upper = confidence_interval(values, 0.05, batches)
    assert (upper - lower) / 2 == pytest.approx(1.96 * 5 / math.sqrt(20_000), rel=0.15)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_the_statistic_has_mean_zero_at_stationarity(momentum):
    x = start(0.1)
    optimizer = SASAPlus([x], lr=0.1, momentum=momentum, keep=1.0, minimum_samples=10**6)
    train(optimizer, x, noises(2500))
    samples = optimizer.param_groups[0]["samples"]
    assert len(samples) == 2500
    lower, upper = confidence_interval(samples[500:], 0.01, "overlapping")
    assert lower < 0 < upper
    assert upper - lower < 0.1


def test_sasa_follows_a_loop():
    batches = noises(60, 2.0)
    options = {"lr": 0.5, "momentum": 0.7, "nu": 0.6, "weight_decay": 0.03, "drop": 0.3, "significance": 0.1}
    x = start()
    optimizer = SASAPlus([x], keep=0.5, minimum_samples=5, test_every=4, **options)

    position = [float(v) for v in x.detach()]
    average = [0.0] * 3
    samples, rate, drops = [], 0.5, 0
    for k, noise in enumerate(batches, start=1):
        gradient = [(float(c) + 0.03) * p + float(n) for c, p, n in zip(CURVATURE, position, noise, strict=True)]
        average = [0.7 * h + 0.3 * g for h, g in zip(average, gradient, strict=True)]
        direction = [0.4 * g + 0.6 * h for g, h in zip(gradient, average, strict=True)]
        inner = sum(p * d for p, d in zip(position, direction, strict=True))
        samples.append(inner - rate / 2 * sum(d * d for d in direction))
        position = [p - rate * d for p, d in zip(position, direction, strict=True)]
        latest = samples[len(samples) // 2 :]
        if len(latest) > 5 and k % 4 == 0:
            lower, upper = interval_by_loops(latest, 0.1)
            if lower < 0 < upper:
                samples, rate, drops, average = [], 0.3 * rate, drops + 1, [0.0] * 3
        train(optimizer, x, [noise])
        torch.testing.assert_close(x.detach(), torch.tensor(position, dtype=torch.float64), rtol=1e-10, atol=1e-12)
    assert drops > 1
    assert optimizer.applied_rates()["0"].item() == pytest.approx(rate)


def test_the_rate_drops_once_the_noise_rules_and_not_far_from_there():
    x = start(300.0)
    optimizer = SASAPlus([x], lr=0.01, keep=0.25, minimum_samples=50, test_every=50)
    train(optimizer, x, noises(1500))
    # The slowest coordinate has kept exp(−0.2·0.01·1500) = 5 % of 600: a long way from the noise.
    assert abs(x[2].item()) > 20
    assert optimizer.factor == 1.0
    near = start(0.1)
    optimizer = SASAPlus([near], lr=0.5, keep=0.25, minimum_samples=50, test_every=50)
    train(optimizer, near, noises(400))
    assert optimizer.factor == pytest.approx(0.1)


def test_halves_that_differ_in_sign_hold_a_drop_back():
    plain, guarded = (
        SASAPlus([start()], minimum_samples=4, test_every=1, keep=1.0, momentum=0.0, halves=halves)
        for halves in (False, True)
    )
    for optimizer in (plain, guarded):
        optimizer.param_groups[0]["samples"] = [1.0, 1.1, 0.9, 1.0, -1.0, -1.1, -0.9, -1.0]
    assert plain._test()
    assert not guarded._test()
    guarded.param_groups[0]["samples"] = [1.0, 1.0, -0.8, -0.9, 1.0, 0.9, -1.0, -0.8]
    assert guarded._test()


def test_a_schedule_and_the_drops_multiply():
    x = start(0.1)
    optimizer = SASAPlus([("weights", x)], lr=0.5, keep=0.25, minimum_samples=50, test_every=50)
    train(optimizer, x, noises(400))
    optimizer.param_groups[0]["lr"] = 0.05
    assert optimizer.applied_rates()["weights"].item() == pytest.approx(0.05 * optimizer.factor)


def test_salsa_follows_a_loop():
    batches = noises(80, 0.3)
    x = start(3.0)
    options = {"lr": 0.01, "smoothing": 0.2, "momentum": 0.5, "weight_decay": 0.02, "most_trials": 2}
    optimizer = SALSA([x], keep=0.5, minimum_samples=8, test_every=5, **options)

    position, average = x.detach().clone(), torch.zeros(3, dtype=torch.float64)
    rate, samples, losses, searching, trials = 0.01, [], [], True, set()
    switched = None
    for k, noise in enumerate(batches, start=1):

        def penalised(at, noise=noise):
            return float(quadratic(at, noise) + 0.01 * at.square().sum())

        gradient = CURVATURE * position + noise + 0.02 * position
        average = 0.5 * average + 0.5 * gradient
        if searching:
            before, squared, eta, tried = penalised(position), float(gradient @ gradient), 2 * rate, 0
            while tried < 2 and penalised(position - eta * gradient) > before - 0.05 * eta * squared:
                eta, tried = eta / 2, tried + 1
            trials.add(tried)
            rate = 0.8 * rate + 0.2 * eta
            losses.append(before)
        samples.append(float(position @ average - rate / 2 * average @ average))
        position = position - rate * average
        latest = samples[len(samples) // 2 :]
        stationary = flat = False
        if len(latest) > 8 and k % 5 == 0:
            lower, upper = interval_by_loops(latest, 0.05)
            stationary = lower < 0 < upper
        window = np.array(losses[len(losses) // 2 :])
        if searching and len(window) > 8 and k % 5 == 0:
            correlation = np.corrcoef(np.arange(len(window)), window)[0, 1]
            freedom = len(window) - 2
            statistic = correlation * math.sqrt(freedom / (1 - correlation**2))
            flat = stats.t.cdf(statistic, freedom) >= 0.05
        if stationary:
            samples, rate, average = [], 0.1 * rate, torch.zeros(3, dtype=torch.float64)
        if searching and (stationary or flat):
            searching, switched = False, k
        train(optimizer, x, [noise])
        torch.testing.assert_close(x.detach(), position, rtol=1e-10, atol=1e-12)
        assert optimizer.applied_rates()["0"].item() == pytest.approx(rate, rel=1e-6)
        assert optimizer.param_groups[0]["searching"] == searching
        assert not searching or optimizer.param_groups[0]["losses"] == pytest.approx(window.tolist(), rel=1e-10)
    assert {0, 1, 2} <= trials
    assert 20 <= switched < 80


def test_salsa_searches_only_during_the_warm_up():
    x = start()
    optimizer = SALSA([x])
    optimizer.param_groups[0]["searching"] = False
    quadratic(x, torch.zeros(3, dtype=torch.float64)).backward()
    calls = []
    optimizer.step(lambda: calls.append(1) or 0.0)
    assert not calls


def test_salsa_backs_off_where_the_loss_is_not_a_number():
    x = start()
    optimizer = SALSA([x], lr=1.0, smoothing=1.0)
    quadratic(x, torch.zeros(3, dtype=torch.float64)).backward()
    answers = iter([1.0, float("nan"), float("nan")])
    assert optimizer.step(lambda: next(answers)) == 1.0
    assert optimizer.factor == 0.5


@pytest.mark.parametrize("kind", [SASAPlus, SALSA])
@pytest.mark.parametrize("way", ["pickle", "deepcopy", "state_dict"])
def test_a_resumed_run_goes_on_exactly(kind, way):
    options = {"lr": 0.3, "keep": 0.5, "minimum_samples": 6, "test_every": 7, "weight_decay": 0.01}
    batches = noises(80)
    whole = start()
    first = kind([whole], **options)
    train(first, whole, batches[:33])
    if way == "pickle":
        x, optimizer = pickle.loads(pickle.dumps((whole, first)))
    elif way == "deepcopy":
        x, optimizer = copy.deepcopy((whole, first))
    else:
        x = nn.Parameter(whole.detach().clone())
        optimizer = kind([x], lr=0.3)
        optimizer.load_state_dict(copy.deepcopy(first.state_dict()))
    train(first, whole, batches[33:])
    assert not torch.equal(x, whole)
    train(optimizer, x, batches[33:])
    assert torch.equal(x, whole)
    assert first.param_groups[0]["drops"] > 0


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        (SASAPlus, {"lr": 0.0}, "lr must be positive"),
        (SASAPlus, {"momentum": 1.0}, "momentum must be"),
        (SASAPlus, {"nu": 1.5}, "nu must be"),
        (SASAPlus, {"weight_decay": -1.0}, "weight_decay must not"),
        (SASAPlus, {"drop": 10.0}, "drop must be"),
        (SASAPlus, {"significance": 0.0}, "significance must be"),
        (SASAPlus, {"keep": 0.0}, "keep must be"),
        (SASAPlus, {"minimum_samples": 3}, "minimum_samples must be"),
        (SASAPlus, {"test_every": 0}, "test_every must be"),
        (SASAPlus, {"batches": "mb"}, "batches must be"),
        (SALSA, {"smoothing": 0.0}, "smoothing must be"),
        (SALSA, {"sufficient": 0.5}, "sufficient must be"),
        (SALSA, {"increase": 0.5}, "increase must be"),
        (SALSA, {"decrease": 1.0}, "decrease must be"),
        (SALSA, {"most_trials": 0}, "most_trials must be"),
    ],
)
def test_wrong_options_are_told(kind, options, message):
    with pytest.raises(ValueError, match=message):
        kind([start()], **options)


def test_salsa_asks_for_its_closure():
    with pytest.raises(ValueError, match="closure must be given"):
        SALSA([start()]).step()
