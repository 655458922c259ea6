"""The networks: sizes known from elsewhere, forward passes written out, and what a language model must not see."""

import inspect
import math

import pytest
import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

import multirate
from multirate.lab.models.lenet import LeNet5
from multirate.lab.models.lstm import LSTMLanguageModel
from multirate.lab.models.resnet import BasicBlock, ResNet, ResNet18, ResNet34
from multirate.lab.models.transformer import Transformer
from multirate.lab.tasks import TASKS


def count(model):
    return sum(parameter.numel() for parameter in model.parameters())


def model_of(make_problem):
    """Return what makes a task's model: to make its problem would take its data."""
    kept = inspect.getclosurevars(make_problem).nonlocals
    return kept["model"] if "model" in kept else model_of(kept["make"])


@pytest.mark.parametrize(
    ("task", "arguments", "parameters"),
    [
        ("mnist/ffnn-100-100", (), 89_610),
        ("mnist/ffnn-100-100-100", (), 99_710),
        ("mnist/ffnn-1000-100", (), 886_110),
        ("mnist/ffnn-1000-1000", (), 1_796_010),
        ("mnist/mlp", (), 1_796_010),
        ("mnist/logistic", (), 7_850),
        ("mnist/lenet", (), 61_706),
        ("cifar10/lenet", (), 62_006),
        ("cifar10/resnet18", (), 11_173_962),
        ("cifar10/resnet34", (), 21_282_122),
        ("shakespeare/lstm", (65,), 148_801),
    ],
)
def test_the_tasks_train_models_of_the_known_sizes(task, arguments, parameters):
    with torch.device("meta"):
        assert count(model_of(TASKS[task].problem)(*arguments)) == parameters


@pytest.mark.parametrize(("channels", "size", "parameters"), [(1, 28, 61_706), (3, 32, 62_006)])
def test_lenet_has_the_known_size_and_the_classic_shapes(channels, size, parameters):
    model = LeNet5(channels, size)
    assert count(model) == parameters
    assert {name: tuple(parameter.shape) for name, parameter in model.named_parameters() if parameter.ndim > 1} == {
        "conv1.weight": (6, channels, 5, 5),
        "conv2.weight": (16, 6, 5, 5),
        "fc1.weight": (120, 400),
        "fc2.weight": (84, 120),
        "fc3.weight": (10, 84),
    }


@pytest.mark.parametrize(("channels", "size"), [(1, 28), (3, 32)])
def test_lenet_computes_what_it_should(channels, size):
    model = LeNet5(channels, size, classes=4).double()
    images = torch.randn(3, channels, size, size, dtype=torch.float64)
    padded = torch.zeros(3, channels, 32, 32, dtype=torch.float64)
    margin = (32 - size) // 2
    padded[:, :, margin : 32 - margin, margin : 32 - margin] = images
    maps = padded
    for layer in (model.conv1, model.conv2):
        maps = F.conv2d(maps, layer.weight, layer.bias).clamp(min=0)
        maps = maps.unflatten(3, (-1, 2)).unflatten(2, (-1, 2)).amax(dim=(3, 5))
    hidden = maps.reshape(3, 400)
    for layer in (model.fc1, model.fc2):
        hidden = (hidden @ layer.weight.T + layer.bias).clamp(min=0)
    torch.testing.assert_close(model(images), hidden @ model.fc3.weight.T + model.fc3.bias)


def test_lenet_refuses_other_sizes():
    with pytest.raises(ValueError, match=r"size must be 28 or 32 pixels, got 64"):
        LeNet5(3, 64)


@pytest.mark.parametrize(("model", "parameters"), [(ResNet18, 11_173_962), (ResNet34, 21_282_122)])
def test_residual_networks_have_the_known_sizes(model, parameters):
    with torch.device("meta"):
        assert count(model()) == parameters
        # A class more is a row of the last layer; grey images save two thirds of the first.
        assert count(model(classes=11)) == parameters + 513
        assert count(model(channels=1)) == parameters - 2 * 9 * 64


def test_every_stage_halves_the_image_but_the_first_and_none_is_pooled_before():
    model = ResNet18(classes=5, width=2).eval()
    shapes = []
    for module in (model.conv1, model.stage1, model.stage2, model.stage3, model.stage4):
        module.register_forward_hook(lambda module, inputs, output: shapes.append(tuple(output.shape[1:])))
    assert model(torch.randn(2, 3, 32, 32)).shape == (2, 5)
    assert shapes == [(2, 32, 32), (2, 32, 32), (4, 16, 16), (8, 8, 8), (16, 4, 4)]


@pytest.mark.parametrize(("inputs", "outputs", "stride"), [(3, 3, 1), (3, 6, 2)])
def test_a_block_adds_its_shortcut_before_the_last_rectifier(inputs, outputs, stride):
    block = BasicBlock(inputs, outputs, stride).double()
    maps = torch.randn(4, inputs, 6, 6, dtype=torch.float64)

    def normalised(values):
        variance = values.var(dim=(0, 2, 3), unbiased=False, keepdim=True)
        return (values - values.mean(dim=(0, 2, 3), keepdim=True)) / (variance + 1e-5).sqrt()

    residual = normalised(F.conv2d(maps, block.conv1.weight, stride=stride, padding=1)).clamp(min=0)
    residual = normalised(F.conv2d(residual, block.conv2.weight, padding=1))
    shortcut = maps if stride == 1 else normalised(F.conv2d(maps[:, :, ::2, ::2], block.shortcut[0].weight))
    torch.testing.assert_close(block(maps), (residual + shortcut).clamp(min=0))


def test_residual_networks_refuse_impossible_sizes():
    with pytest.raises(ValueError, match="blocks must be four"):
        ResNet((2, 2, 2))
    with pytest.raises(ValueError, match="width must be at least 1"):
        ResNet18(width=0)


def transformer_size(vocabulary, context, layers, width, tied):
    attention = width * 3 * width + 3 * width + width * width + width
    perceptron = width * 4 * width + 4 * width + 4 * width * width + width
    embeddings = vocabulary * width + context * width
    return embeddings + layers * (attention + perceptron + 4 * width) + 2 * width + (not tied) * vocabulary * width


@pytest.mark.parametrize("tied", [True, False])
def test_the_transformer_has_the_size_of_the_formula(tied):
    model = Transformer(vocabulary=11, context=7, layers=3, heads=2, width=8, tied=tied)
    assert count(model) == transformer_size(11, 7, 3, 8, tied)
    assert (model.head.weight is model.tokens.weight) is tied


def test_the_transformer_has_the_size_of_gpt2_small():
    with torch.device("meta"):
        model = Transformer(vocabulary=50257, context=1024, layers=12, heads=12, width=768)
    assert count(model) == 124_439_808


def test_the_transformer_computes_what_it_should():
    model = Transformer(vocabulary=11, context=7, layers=2, heads=3, width=12).double()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    tokens = torch.randint(11, (2, 5))

    def norm(layer, values):
        centred = values - values.mean(dim=-1, keepdim=True)
        return centred / (centred.square().mean(dim=-1, keepdim=True) + 1e-5).sqrt() * layer.weight + layer.bias

    stream = model.tokens.weight[tokens] + model.positions.weight[:5]
    for block in model.blocks:
        queries, keys, values = block.attention.query_key_value(norm(block.norm1, stream)).chunk(3, dim=-1)
        heads = []
        for head in range(3):
            part = slice(4 * head, 4 * head + 4)
            scores = queries[..., part] @ keys[..., part].transpose(1, 2) / 2
            scores = scores.masked_fill(torch.ones(5, 5).triu(1) > 0, -math.inf)
            heads.append(scores.softmax(dim=-1) @ values[..., part])
        stream = stream + block.attention.projection(torch.cat(heads, dim=-1))
        hidden = block.expansion(norm(block.norm2, stream))
        hidden = 0.5 * hidden * (1 + torch.tanh(math.sqrt(2 / math.pi) * (hidden + 0.044715 * hidden**3)))
        stream = stream + block.projection(hidden)
    torch.testing.assert_close(model(tokens), norm(model.norm, stream) @ model.tokens.weight.T)


def test_the_transformer_starts_as_gpt2_does():
    torch.manual_seed(0)
    model = Transformer(vocabulary=300, context=200, layers=8, heads=2, width=64, tied=False)
    for name, parameter in model.named_parameters():
        if parameter.ndim == 2:
            # 2 · 8 terms enter the residual stream, whose projections start a quarter as large.
            expected = 0.005 if name.endswith("projection.weight") else 0.02
            assert parameter.std().item() == pytest.approx(expected, rel=0.05), name
            assert abs(parameter.mean().item()) < expected / 10, name
        else:
            assert (parameter == float(name.endswith("weight"))).all(), name


def test_dropout_acts_in_training_only():
    for model in (Transformer(11, 7, 2, 2, 8, dropout=0.5), LSTMLanguageModel(11, 8, layers=2, dropout=0.5)):
        tokens = torch.randint(11, (2, 6))
        assert not torch.equal(model(tokens), model(tokens))
        model.eval()
        torch.testing.assert_close(model(tokens), model(tokens), rtol=0, atol=0)


def test_attention_weights_are_dropped_in_training_only():
    attention = Transformer(11, 7, 1, 2, 8, dropout=0.5).blocks[0].attention
    stream = torch.randn(2, 6, 8)
    assert not torch.equal(attention(stream), attention(stream))
    attention.eval()
    torch.testing.assert_close(attention(stream), attention(stream), rtol=0, atol=0)


@pytest.mark.parametrize(
    "model",
    [lambda: Transformer(11, 7, 2, 2, 8), lambda: LSTMLanguageModel(11, 8, layers=2)],
    ids=["transformer", "lstm"],
)
def test_no_logit_depends_on_a_later_token(model):
    torch.manual_seed(0)
    model = model().eval()
    tokens = torch.randint(11, (2, 7))
    changed = tokens.clone()
    changed[:, 4] = (tokens[:, 4] + 1) % 11
    before, after = model(tokens), model(changed)
    assert before.shape == (2, 7, 11)
    torch.testing.assert_close(before[:, :4], after[:, :4], rtol=0, atol=0)
    # The changed token reaches its own logits and all later ones.
    assert ((before - after)[:, 4:].abs().amax(dim=2) > 1e-6).all()


def test_the_gradient_of_the_transformer_can_be_differentiated_as_its_documentation_says():
    model = Transformer(5, 3, 1, 1, 4).double()
    tokens = torch.tensor([[0, 3, 1]])
    parameter = model.blocks[0].attention.query_key_value.weight
    torch.nn.init.normal_(parameter)
    direction = torch.randn_like(parameter)

    def gradient():
        with sdpa_kernel(SDPBackend.MATH):
            loss = F.cross_entropy(model(tokens)[0], tokens[0])
        return torch.autograd.grad(loss, parameter, create_graph=True)[0]

    (product,) = torch.autograd.grad(gradient(), parameter, direction)
    step = 1e-5
    with torch.no_grad():
        parameter += step * direction
    ahead = gradient()
    with torch.no_grad():
        parameter -= 2 * step * direction
    behind = gradient()
    torch.testing.assert_close(product, (ahead - behind).detach() / (2 * step), rtol=1e-4, atol=1e-9)


def test_the_transformer_refuses_what_does_not_fit():
    with pytest.raises(ValueError, match="heads must divide width, got 3 heads for a width of 8"):
        Transformer(11, 7, 2, 3, 8)
    with pytest.raises(ValueError, match="layers must be at least 1"):
        Transformer(11, 7, 0, 2, 8)
    with pytest.raises(ValueError, match="sequences of 8 tokens exceed the context of 7"):
        Transformer(11, 7, 1, 2, 8)(torch.zeros(1, 8, dtype=torch.int64))


@pytest.mark.parametrize("layers", [1, 3])
def test_the_lstm_has_the_size_of_the_formula(layers):
    vocabulary, width = 11, 6
    recurrent = 4 * (2 * width * width + 2 * width)
    expected = vocabulary * width + layers * recurrent + width * vocabulary + vocabulary
    assert count(LSTMLanguageModel(vocabulary, width, layers)) == expected


@pytest.mark.parametrize(("width", "parameters"), [(650, 19_775_200), (1500, 66_022_000)])
def test_the_lstm_has_the_sizes_of_zaremba_s(width, parameters):
    with torch.device("meta"):
        model = LSTMLanguageModel(vocabulary=10_000, width=width, layers=2)
    # torch gives the four gates of a layer a second bias.
    assert count(model) == parameters + 2 * 4 * width


def test_the_lstm_computes_what_it_should():
    model = LSTMLanguageModel(vocabulary=11, width=6).double()
    tokens = torch.randint(11, (2, 4))
    weights = [getattr(model.lstm, name) for name in ("weight_ih_l0", "bias_ih_l0", "weight_hh_l0", "bias_hh_l0")]
    hidden = cell = torch.zeros(2, 6, dtype=torch.float64)
    for time in range(4):
        input = model.tokens.weight[tokens[:, time]]
        gates = input @ weights[0].T + weights[1] + hidden @ weights[2].T + weights[3]
        into, forget, candidate, out = gates.chunk(4, dim=1)
        cell = forget.sigmoid() * cell + into.sigmoid() * candidate.tanh()
        hidden = out.sigmoid() * cell.tanh()
        torch.testing.assert_close(model(tokens)[:, time], hidden @ model.head.weight.T + model.head.bias)


def test_the_lstm_refuses_impossible_sizes():
    with pytest.raises(ValueError, match="layers must be at least 1, got 0"):
        LSTMLanguageModel(11, 8, layers=0)


def test_every_gate_of_the_lstm_learns_a_rate_of_its_own():
    torch.manual_seed(0)
    model = LSTMLanguageModel(vocabulary=11, width=8, layers=2)
    optimizer = multirate.AdamCAMHD(model, levels=("global", "gate"), weights=(0.2, 0.8), hyper_lr=1e-2)
    tokens = torch.randint(11, (4, 6))
    for _ in range(5):
        optimizer.zero_grad()
        F.cross_entropy(model(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten()).backward()
        # Only the second gate of the first layer sees a gradient, so no other may learn.
        for name, parameter in model.named_parameters():
            if name.endswith("l0"):
                parameter.grad[:8] = parameter.grad[16:] = 0
            else:
                parameter.grad.zero_()
        optimizer.step()
    rates = optimizer.rates()["gate"]
    assert {name: tuple(rate.shape) for name, rate in rates.items()} == {
        "tokens": (), "lstm_l0": (4,), "lstm_l1": (4,), "head": (),
    }  # fmt: skip
    unchanged = torch.tensor(1e-3)
    assert rates["lstm_l0"][1] > 1.1e-3
    assert torch.equal(rates["lstm_l0"][[0, 2, 3]], unchanged.expand(3))
    assert torch.equal(rates["lstm_l1"], unchanged.expand(4))
    assert torch.equal(rates["head"], unchanged)


def test_the_tied_weight_of_the_transformer_has_one_rate():
    model = Transformer(11, 7, 1, 2, 8)
    rates = multirate.AdamCAMHD(model, levels=("global", "layer"), weights=(0.2, 0.8)).rates()["layer"]
    assert set(rates) == {
        "tokens", "positions", "norm", "blocks.0.norm1", "blocks.0.attention.query_key_value",
        "blocks.0.attention.projection", "blocks.0.norm2", "blocks.0.expansion", "blocks.0.projection",
    }  # fmt: skip
