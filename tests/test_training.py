"""The training loop takes the steps that are written out here, averages weights, and resumes after a kill."""

from functools import partial

import pytest
import torch

from w2wpp.compute import training
from w2wpp.compute.schedules import cosine_rate, step_generator
from w2wpp.compute.training import Checkpoint, train

STEPS = 7
RATE = partial(cosine_rate, steps=STEPS, lr=0.3)


@pytest.fixture
def network():
    """Returns the same network from 3 numbers to 2 every time."""

    def make() -> torch.nn.Linear:
        network = torch.nn.Linear(3, 2)
        with torch.no_grad():
            network.weight.copy_(torch.arange(6.0).reshape(2, 3) / 6)
            network.bias.fill_(0.1)
        return network

    return make


def losses(network, step: int) -> torch.Tensor:
    """A loss of each of four random inputs."""
    return network(torch.randn(4, 3, generator=step_generator(0, step))).square().sum(1)


def equal(one, other) -> bool:
    return all(torch.equal(mine, other.state_dict()[key]) for key, mine in one.state_dict().items())


@pytest.mark.parametrize("clip", [None, 0.5])
def test_steps_are_those_written_out(network, clip):
    trained, expected = network(), network()
    train(
        "test",
        partial(losses, trained),
        torch.optim.SGD(trained.parameters(), 9.0, momentum=0.9),
        RATE,
        STEPS,
        clip=clip,
    )
    velocity = [torch.zeros_like(parameter) for parameter in expected.parameters()]
    for step in range(STEPS):
        gradients = torch.autograd.grad(losses(expected, step).sum(), list(expected.parameters()))
        norm = torch.cat([gradient.flatten() for gradient in gradients]).norm()
        scale = min(1.0, clip / norm) if clip else 1.0
        for parameter, gradient, past in zip(expected.parameters(), gradients, velocity, strict=True):
            past.mul_(0.9).add_(scale * gradient)
            parameter.data -= RATE(step) * past
    for key, parameter in expected.state_dict().items():
        torch.testing.assert_close(trained.state_dict()[key], parameter, rtol=1e-4, atol=1e-6)
    assert not torch.allclose(trained.weight, network().weight, atol=0.1)


def test_the_average_takes_the_place_of_the_weights(network):
    averaged, seen = network(), [network().weight]
    for steps in range(1, STEPS + 1):
        plain = network()
        train("test", partial(losses, plain), torch.optim.SGD(plain.parameters(), 0.1), lambda step: 0.1, steps)
        seen.append(plain.weight)
    train(
        "test", partial(losses, averaged), torch.optim.SGD(averaged.parameters(), 0.1), lambda step: 0.1, STEPS, ema=0.5
    )
    expected = seen[0]
    for step, weight in enumerate(seen[1:]):
        decay = min(0.5, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * weight
    torch.testing.assert_close(averaged.weight, expected)


@pytest.mark.parametrize("ema", [0.0, 0.9])
def test_interrupted_equals_uninterrupted(network, ema, tmp_path, monkeypatch):
    monkeypatch.setattr(training, "CHECKPOINT_EVERY", 2)
    taken = []

    def run(trained, name: str, stop: int = STEPS) -> None:
        def losses_of(step: int) -> torch.Tensor:
            taken.append(step)
            if step == stop:
                raise KeyboardInterrupt
            return losses(trained, step)

        train(
            "test",
            losses_of,
            torch.optim.AdamW(trained.parameters()),
            RATE,
            STEPS,
            ema=ema,
            checkpoint=Checkpoint(tmp_path / name, {"network": trained}),
        )

    whole, resumed = network(), network()
    run(whole, "whole")
    with pytest.raises(KeyboardInterrupt):
        run(network(), "killed", stop=5)
    taken.clear()
    run(resumed, "killed")
    assert taken == [4, 5, 6]
    assert equal(resumed, whole)

    taken.clear()
    finished = network()
    run(finished, "whole")
    assert taken == []
    assert equal(finished, whole)
