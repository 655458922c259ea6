"""Safe by construction: what else happens in a training loop neither explodes nor confuses averaged iterates."""

import copy
from typing import Any

import pytest
import torch
from tests.test_averaged import a_loss, a_model, held_out, train
from torch import Tensor, nn

import multirate
from multirate.averaged import Averaged

CLASSES = ["SGD", "Adam", "AdamW", "RMSprop"]
every_class = pytest.mark.parametrize("name", CLASSES)


def made(name: str, model: nn.Module, **options: Any) -> Averaged:
    optimizer: Averaged = getattr(multirate, name)(model, **options)
    return optimizer


def weights(model: nn.Module) -> list[Tensor]:
    return [parameter.detach().clone() for parameter in model.parameters()]


# -- rates and steps -------------------------------------------------------------------------------------------------


@every_class
@pytest.mark.parametrize("wild", [False, True])
def test_no_rate_more_than_doubles_in_a_step(name: str, wild: bool) -> None:
    """The coarsest level by its own bound; a layer's share of it grows by 12 % a step at most."""
    model = a_model()
    optimizer = made(name, model)
    scales = torch.Generator().manual_seed(0)
    last: dict[str, float] = {}
    for t in range(150):
        optimizer.zero_grad()
        scale = 10.0 ** float(torch.empty(1).uniform_(-4, 4, generator=scales)) if wild else 1.0
        (a_loss(model, t, 2) * scale).backward()
        optimizer.step()
        rates = optimizer.rates()
        now = {"global": rates["global"].item(), **{k: v.item() for k, v in rates["layer"].items()}}
        assert not last or now["global"] <= last["global"] * 2.0 * 1.001
        assert all(now[k] <= last[k] * 2.0 * 1.12 for k in last)
        last = now


@pytest.mark.parametrize(("name", "share"), [("SGD", 3e-3), ("Adam", 3e-3), ("AdamW", 3e-3), ("RMSprop", 3e-2)])
def test_the_first_step_is_short_whatever_lr_says(name: str, share: float) -> None:
    """RMSprop's second moment begins at 0 uncorrected, so that its first direction is ten times as long as later."""
    model = a_model()
    before = torch.cat([p.detach().flatten() for p in model.parameters()])
    train(model, made(name, model, lr=10.0, weight_decay=0.0), 1)
    after = torch.cat([p.detach().flatten() for p in model.parameters()])
    assert (after - before).norm() <= share * before.norm() * 1.01


@every_class
def test_frozen_parameters_have_no_say_in_the_first_step(name: str) -> None:
    steps = []
    for frozen in (True, False):
        model = a_model()
        model.add_module("table", nn.Embedding(2000, 64))
        model.table.requires_grad_(False)
        given = model.named_parameters() if frozen else [(n, p) for n, p in model.named_parameters() if p.requires_grad]
        before = weights(model[:3])
        optimizer = getattr(multirate, name)(given)
        optimizer.zero_grad()
        a_loss(model[:3], 0).backward()
        optimizer.step()
        steps.append(torch.cat([(a - b).flatten() for a, b in zip(weights(model[:3]), before, strict=True)]))
    torch.testing.assert_close(steps[0], steps[1])


@every_class
@pytest.mark.parametrize("first", [1e-3, 1e-6, 1e-9])
def test_a_tiny_first_gradient_does_not_make_the_second_step_huge(name: str, first: float) -> None:
    """By the first gradient the first rate is found; those after it are up to a billion times as long."""
    model = a_model()
    start = held_out(model)
    optimizer = made(name, model)
    worst = 0.0
    for t in range(300):
        optimizer.zero_grad()
        (a_loss(model, t) * (first if t == 0 else 1.0)).backward()
        optimizer.step()
        worst = max(worst, held_out(model))
    assert worst < 1.3 * start
    assert held_out(model) < 0.6 * start


@pytest.mark.parametrize(("name", "scale"), [("SGD", 1e2), ("SGD", 1e4), ("SGD", 1e8), ("AdamW", 1e2), ("Adam", 1e2)])
def test_one_exploding_gradient_is_forgotten_within_tens_of_steps(name: str, scale: float) -> None:
    """What is much longer than a second moment remembers stays in it for long, as in torch's Adam."""
    model = a_model()
    optimizer = made(name, model)
    train(model, optimizer, 100)
    good = held_out(model)
    optimizer.zero_grad()
    (a_loss(model, 100) * scale).backward()
    optimizer.step()
    assert held_out(model) < 1.3 * good
    train(model, optimizer, 50, 101)
    assert held_out(model) < good


@every_class
def test_a_burst_of_large_gradients_is_survived(name: str) -> None:
    model = a_model()
    optimizer = made(name, model)
    train(model, optimizer, 100)
    good = held_out(model)
    for t in range(5):
        optimizer.zero_grad()
        (a_loss(model, t) * 100).backward()
        optimizer.step()
    assert held_out(model) < 1.5 * good
    train(model, optimizer, 60, 100)
    assert held_out(model) < 1.5 * good
    train(model, optimizer, 240, 160)
    assert held_out(model) < good


def test_a_lasting_change_of_scale_is_followed() -> None:
    """Only the first of many long gradients is held: the rate follows, and learning goes on."""
    model = a_model()
    optimizer = made("SGD", model)
    train(model, optimizer, 100)
    good, rate = held_out(model), optimizer.rates()["global"].item()
    for t in range(100, 500):
        optimizer.zero_grad()
        (a_loss(model, t) * 100).backward()
        optimizer.step()
    assert held_out(model) < 0.7 * good
    assert optimizer.rates()["global"] < 0.1 * rate


# -- what users do between steps -------------------------------------------------------------------------------------


@every_class
def test_clipped_gradients_and_accumulated_ones_train_as_well(name: str) -> None:
    start = held_out(a_model())
    for clip, parts in ((None, 4), (0.1, 1), (1e-3, 1)):
        model = a_model()
        optimizer = made(name, model)
        for t in range(400):
            optimizer.zero_grad()
            for part in range(parts):
                (a_loss(model, t * parts + part) / parts).backward()
            if clip is not None:
                nn.utils.clip_grad_norm_(model.parameters(), clip)
            optimizer.step()
        assert held_out(model) < 0.5 * start, (clip, parts)


@every_class
def test_rows_that_are_seldom_seen_and_tiny_batches(name: str) -> None:
    torch.manual_seed(0)
    table, head = nn.Embedding(50, 8), nn.Linear(8, 1)
    model = nn.Sequential(table, head)
    optimizer = made(name, model, levels=("global", "unit"), weight_decay=0.1 if name == "AdamW" else 0.0)
    generator = torch.Generator().manual_seed(0)
    target = torch.randn(50, generator=generator)
    untouched = table.weight[40:].detach().clone()
    for _ in range(3000):
        i = torch.randint(0, 40, (1,), generator=generator)
        optimizer.zero_grad()
        (model(i).squeeze(1) - target[i]).square().mean().backward()
        optimizer.step()
    model.eval()
    with torch.no_grad():
        error = (model(torch.arange(40)).squeeze(1) - target[:40]).square().mean()
    assert error < 0.1 * target.var()
    torch.testing.assert_close(table.weight[40:], untouched, rtol=1e-4, atol=1e-5)


@every_class
def test_a_layer_frozen_for_a_while_stays_and_trains_on(name: str) -> None:
    model = a_model()
    optimizer = made(name, model)
    train(model, optimizer, 100)
    model[0].requires_grad_(False)
    still = weights(model[0])
    good = held_out(model)
    train(model, optimizer, 100, 100)
    for before, after in zip(still, weights(model[0]), strict=True):
        torch.testing.assert_close(after, before, rtol=1e-6, atol=1e-7)
    model[0].requires_grad_(True)
    train(model, optimizer, 200, 200)
    assert held_out(model) < 0.9 * good


@every_class
def test_a_pass_through_a_frozen_model_leaves_no_trace(name: str) -> None:
    """As a discriminator is frozen while the generator learns, in every step."""
    twins = []
    for toggled in (True, False):
        model = a_model()
        optimizer = made(name, model)
        for t in range(60):
            if toggled:
                model.requires_grad_(False)
                before = weights(model)
                model(torch.randn(3, 4, requires_grad=True)).sum().backward()
                assert all(torch.equal(a, b) for a, b in zip(weights(model), before, strict=True))
                held_out(model)
                assert all(torch.equal(a, b) for a, b in zip(weights(model), before, strict=True))
                model.requires_grad_(True)
            train(model, optimizer, 1, t)
        twins.append(weights(model))
    for a, b in zip(*twins, strict=True):
        assert torch.equal(a, b)


def test_a_parameter_frozen_between_pass_and_step_goes_back_to_its_average() -> None:
    model = a_model()
    optimizer = made("AdamW", model)
    train(model, optimizer, 20)
    average = weights(model[0])
    optimizer.zero_grad()
    a_loss(model, 20).backward()
    model[0].requires_grad_(False)
    model[0].zero_grad()
    optimizer.step()
    for before, after in zip(average, weights(model[0]), strict=True):
        torch.testing.assert_close(after, before, rtol=1e-6, atol=1e-7)


def test_a_parameter_with_a_gradient_that_the_pass_found_frozen_is_stepped_like_the_others() -> None:
    model = a_model()
    optimizer = made("AdamW", model)
    train(model, optimizer, 20)
    twin = copy.deepcopy(model)
    follower = made("AdamW", twin)
    follower.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    gradients = [torch.randn_like(p) for p in model.parameters()]
    for one, its, freeze in ((model, optimizer, True), (twin, follower, False)):
        one[0].requires_grad_(not freeze)
        one(torch.randn(2, 4))
        one[0].requires_grad_(True)
        for parameter, gradient in zip(one.parameters(), gradients, strict=True):
            parameter.grad = gradient.clone()
        its.step()
    for a, b in zip(weights(model), weights(twin), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-7)


def test_a_second_optimizer_of_a_part_says_that_it_takes_the_whole_over() -> None:
    model = a_model()
    first = made("AdamW", model)
    train(model, first, 3)
    with pytest.warns(UserWarning, match="2 of the 4 parameters of an earlier optimizer"):
        made("AdamW", model[0])
    assert first.place.released


def test_a_pass_under_functional_transforms_leaves_the_depth_as_it_was() -> None:
    class Outer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = a_model()
            self.depth: list[int] = []

        def forward(self, x: Tensor) -> Tensor:
            values = torch.func.vmap(torch.func.grad(lambda row: self.inner(row).sum()))(x)
            self.depth.append(optimizer.place.depth)
            return self.inner(x + values)

    model = Outer()
    optimizer = made("AdamW", model)
    model(torch.randn(3, 4)).sum().backward()
    assert model.depth == [1]
    optimizer.step()
    assert optimizer.place.depth == 0


# -- states of another make ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", ["optimizer first", "model first"])
@pytest.mark.parametrize(
    ("before", "after"),
    [
        (torch.float32, torch.bfloat16),
        (torch.bfloat16, torch.float32),
        (torch.float32, torch.float64),
        (torch.bfloat16, torch.bfloat16),
    ],
)
def test_a_state_goes_on_in_another_precision(before: torch.dtype, after: torch.dtype, order: str) -> None:
    model = a_model().to(before)
    optimizer = made("AdamW", model)
    train(model, optimizer, 150)
    saved, learned = copy.deepcopy(model.state_dict()), copy.deepcopy(optimizer.state_dict())
    twin = a_model(5).to(after)
    if order == "model first":
        twin.load_state_dict(saved)
    follower = made("AdamW", twin)
    if order != "model first":
        twin.load_state_dict(saved)
    follower.load_state_dict(learned)
    good = held_out(model)
    train(twin, follower, 1, 150)
    assert held_out(twin) < 1.1 * good
    train(twin, follower, 150, 151)
    train(model, optimizer, 151, 150)
    assert held_out(twin) < 1.2 * held_out(model)


@pytest.mark.parametrize(("saved", "built"), [(0.3, 0.8), (0.8, 0.3)])
def test_a_state_goes_on_under_another_weight_of_the_average(saved: float, built: float) -> None:
    model = a_model()
    optimizer = made("AdamW", model, betas=(saved, 0.999))
    train(model, optimizer, 150)
    twin = a_model(5)
    follower = made("AdamW", twin, betas=(built, 0.999))
    twin.load_state_dict(copy.deepcopy(model.state_dict()))
    follower.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    good = held_out(model)
    train(twin, follower, 1, 150)
    assert held_out(twin) < 1.1 * good
