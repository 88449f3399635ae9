"""The demo's training: both libraries step by step, early stopping, the command line, what it leaves behind."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

import nnart_ops
from nnart_ops.demo import __main__ as command_line
from nnart_ops.demo import data, linear_regression, model, train


@pytest.fixture(scope="module")
def digits() -> data.Dataset:
    return data.load("digits", None, seed=0)


@pytest.mark.parametrize("channels", [1, 3])
def test_model(channels: int) -> None:
    theirs, ours = (model.build(layers, channels, 0.0).eval() for layers in (torch.nn, nnart_ops))
    ours.load_state_dict(theirs.state_dict())
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(2, channels, 28, 28)
    assert ours(x).shape == (2, 10)
    torch.testing.assert_close(ours(x), theirs(x))


def losses(library: train.Library, digits: data.Dataset, optimizer: str, steps: int) -> list[float]:
    settings = train.Settings(optimizer=optimizer, learning_rate=0.01 if optimizer == "sgd" else 1e-3, batch_size=16)
    network = train.fresh_model(library, 1, settings).double().train()
    update = train.make_optimizer(library, network, settings)
    generator = torch.Generator().manual_seed(0)
    result: list[float] = []
    while len(result) < steps:
        for images, labels in train.batches(digits.train, 16, generator):
            result.append(train.train_step(library, network, update, images.double(), labels))
            if len(result) == steps:
                break
    return result


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_200_steps_in_float64_end_alike(digits: data.Dataset, optimizer: str) -> None:
    theirs, ours = (losses(library, digits, optimizer, 200) for library in (train.TORCH, train.OURS))
    assert ours[-1] == pytest.approx(theirs[-1], abs=1e-9)
    assert max(abs(a - b) for a, b in zip(theirs, ours)) < 1e-8
    assert theirs[-1] < theirs[0]


def test_training_is_reproducible(digits: data.Dataset) -> None:
    small = data.Dataset("digits", *[data.Split(s.images[:64], s.labels[:64]) for s in (digits.train,) * 3], False, "")
    settings = train.Settings(epochs=2)
    histories = [train.train(train.OURS, small, settings)[1] for _ in range(2)]
    assert histories[0].train_loss == histories[1].train_loss
    assert histories[0].confusion == histories[1].confusion
    assert len(histories[0].learning_rate) == 2


def test_early_stopping_restores_the_best_weights() -> None:
    network = torch.nn.Linear(1, 1)
    stopping = train.EarlyStopping(network, patience=2)
    stops = []
    for epoch, loss in enumerate([3.0, 1.0, 2.0, 2.0, 2.0]):
        torch.nn.init.constant_(network.weight, float(epoch))
        stops.append(stopping.should_stop(epoch, loss))
    assert stops == [False, False, False, True, True]
    stopping.restore()
    assert network.weight.item() == 1.0


def test_evaluate_counts() -> None:
    split = data.Split(torch.eye(10)[:, None, :, None], torch.arange(10).roll(0))
    loss, confusion = train.evaluate(torch.nn.Flatten(), split, "cpu")
    assert torch.equal(confusion, torch.eye(10, dtype=torch.int64))
    assert train.accuracy(confusion) == 1.0
    assert loss == pytest.approx(F.cross_entropy(torch.eye(10), torch.arange(10)).item())


def test_linear_regression() -> None:
    outcome = linear_regression.run()
    assert outcome.autograd_error < 1e-12
    assert outcome.finite_difference_error < 1e-8
    assert outcome.solution_error < 1e-9
    assert outcome.losses[-1] < 0.02 < outcome.losses[0]


def test_command_line_trains_and_reports(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "results here"
    assert command_line.main(["--epochs", "1", "--threads", "1", "--out", str(out)]) == 0
    text = capsys.readouterr().out
    assert "1797 samples" in text
    for name in ("curves.png", "confusion.png"):
        assert (out / name).read_bytes().startswith(b"\x89PNG")
    figures = json.loads((out / "figures.json").read_text())
    assert set(figures["runs"]) == {"torch.nn", "nnart_ops"}
    assert figures["environment"]["torch"] == torch.__version__
    assert figures["peak_bytes_of_a_step"]["nnart_ops"] > 1e6
    theirs, ours = figures["runs"].values()
    assert ours["train_loss"] == pytest.approx(theirs["train_loss"], rel=0.05)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data", "mnist"], "--data mnist reads your own files: give their folder with --root"),
        (["--epochs", "0"], "--epochs must be at least 1, but is 0"),
        (["--dropout", "1"], r"--dropout must be in \[0, 1\), but is 1.0"),
        (["--optimizer", "rprop"], "invalid choice"),
    ],
)
def test_command_line_refuses(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        command_line.main(arguments)
    assert caught.value.code == 2
    import re

    assert re.search(message, capsys.readouterr().err)


def test_command_line_explains_a_bad_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command_line.main(["--data", "mnist", "--root", str(tmp_path)]) == 2
    assert "no data file was found; looked for" in capsys.readouterr().err


def test_missing_extra_is_one_sentence(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def lacks(options: object) -> None:
        raise ModuleNotFoundError("No module named 'rich'", name="rich")

    monkeypatch.setattr(command_line, "run_images", lacks)
    assert command_line.main([]) == 2
    assert "rich is missing; install it with: pip install 'nnart_ops[demo]'" in capsys.readouterr().err
