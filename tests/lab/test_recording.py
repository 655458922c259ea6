"""What is written down of an optimizer."""

import pytest
import torch
from torch import nn

import multirate
from multirate.lab.recording import Recorder, rounded


class TwoLevels(torch.optim.SGD):
    """Stands for an optimizer whose rates are known."""

    def rates(self):
        return {"global": torch.tensor(0.5), "unit": {"first": torch.tensor([1.0, 3.0])}}

    def weights(self):
        return {"global": torch.tensor(0.25), "unit": torch.tensor(0.75)}

    def agreement(self):
        return {"global": torch.tensor(float("nan")), "unit": {"first": torch.tensor([-1.0, 0.0])}}

    def applied_rates(self):
        return {
            "first.weight": torch.tensor([[1.0], [2.0]]),
            "first.bias": torch.tensor([3.0, 6.0]),
            "scale": torch.tensor(7.0),
        }


@pytest.fixture
def model():
    model = nn.Module()
    model.first = nn.Linear(3, 2)
    model.scale = nn.Parameter(torch.ones(4))
    return model


def test_rates_of_a_layer_are_averaged_over_its_elements(model):
    recorder = Recorder(model, TwoLevels(model.parameters(), lr=1.0))
    recorder.record(0)
    recorder.record(5)
    curves = recorder.curves()
    assert curves["rate_steps"] == [0, 5]
    # Six weights at a mean of 1.5, two biases at a mean of 4.5; a parameter of no module is its own layer.
    assert curves["layer_rates"] == {"first": [2.25, 2.25], "scale": [7.0, 7.0]}
    assert curves["weights"] == {"global": [0.25, 0.25], "unit": [0.75, 0.75]}
    assert curves["rates"] == {"global": {"all": [0.5, 0.5]}, "unit": {"first": [2.0, 2.0]}}
    assert curves["agreement"] == {"global": {"all": [None, None]}, "unit": {"first": [-0.5, -0.5]}}


def test_every_gate_of_a_recurrent_layer_has_a_curve_of_its_own():
    class Recurrent(nn.Module):
        def __init__(self):
            super().__init__()
            self.lstm, self.gru, self.head = nn.LSTM(2, 3), nn.GRU(3, 3), nn.Linear(3, 2)

    model = Recurrent()
    optimizer = multirate.AdamCAMHD(model, lr=1e-2, hyper_lr=1e-2, levels=("global", "gate"), weights=(0.5, 0.5))
    recorder = Recorder(model, optimizer)
    recorder.record(0)
    for step in (1, 2):
        optimizer.zero_grad()
        model.head(model.gru(model.lstm(torch.ones(4, 1, 2))[0])[0]).square().sum().backward()
        optimizer.step()
        recorder.record(step)
    curves = recorder.curves()
    names = [f"lstm_l0 {gate}" for gate in ("input", "forget", "cell", "output")]
    names += [f"gru_l0 {gate}" for gate in ("reset", "update", "new")]
    assert list(curves["rates"]["gate"]) == list(curves["agreement"]["gate"]) == [*names, "head"]
    assert all(len(series) == 3 for series in curves["rates"]["gate"].values())
    final = optimizer.rates()["gate"]
    assert [curves["rates"]["gate"][name][-1] for name in names] == pytest.approx(
        [*final["lstm_l0"].tolist(), *final["gru_l0"].tolist()], rel=1e-5
    )
    # What one gate learned is not what another did.
    assert len({curves["rates"]["gate"][name][-1] for name in names[:4]}) == 4


def test_rates_of_other_optimizers_come_from_their_groups(model):
    optimizer = torch.optim.SGD([{"params": [model.scale], "lr": 0.2}, {"params": model.first.parameters()}], lr=0.1)
    recorder = Recorder(model, optimizer)
    recorder.record(0)
    optimizer.param_groups[0] |= {"d": 10.0}
    optimizer.param_groups[1] |= {"scheduled_lr": 0.01}
    recorder.record(1)
    assert recorder.curves()["layer_rates"] == {"first": [0.1, 0.01], "scale": [0.2, 2.0]}
    assert recorder.curves()["weights"] == {}


def test_numbers_are_rounded_to_what_json_can_say():
    assert rounded(1.23456789e-7) == 1.23457e-7
    assert rounded(float("inf")) is None
