"""Training, validating and timing: the part to read first.

Nothing here knows which library the layers come from. A :class:`Library` names the module with the layers and the one
with the optimizers; ``torch.nn`` and ``nnart_ops`` are the two.
"""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from types import ModuleType

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import nnart_ops
from nnart_ops.demo.augmentation import Augmentation
from nnart_ops.demo.data import Dataset, Split
from nnart_ops.demo.model import CLASSES, build


@dataclass(frozen=True)
class Library:
    """Where layers and optimizers come from."""

    name: str
    layers: ModuleType
    optim: ModuleType


TORCH = Library("torch.nn", torch.nn, torch.optim)
OURS = Library("nnart_ops", nnart_ops, nnart_ops.optim)


@dataclass(frozen=True)
class Settings:
    """What a run depends on besides the data."""

    optimizer: str = "sgd"
    learning_rate: float = 0.05
    weight_decay: float = 1e-3  # L2 for SGD, decoupled for AdamW
    dropout: float = 0.4
    batch_size: int = 64
    epochs: int = 40
    patience: int = 15  # epochs without a better validation loss before training stops
    seed: int = 1
    device: str = "cpu"


@dataclass
class History:
    """One entry an epoch, and what came out at the end."""

    train_loss: list[float] = field(default_factory=list)
    validation_loss: list[float] = field(default_factory=list)
    validation_accuracy: list[float] = field(default_factory=list)
    learning_rate: list[float] = field(default_factory=list)
    best_epoch: int = 0
    test_accuracy: float = 0.0
    confusion: list[list[int]] = field(default_factory=list)
    seconds: float = 0.0

    def as_dict(self) -> dict[str, object]:
        return asdict(self)


class EarlyStopping:
    """Keeps the weights of the best epoch and says when ``patience`` epochs have brought nothing better."""

    def __init__(self, model: nn.Module, patience: int) -> None:
        self.model, self.patience = model, patience
        self.best_loss, self.best_epoch = float("inf"), -1
        self.best_weights = copy.deepcopy(model.state_dict())

    def should_stop(self, epoch: int, validation_loss: float) -> bool:
        if validation_loss < self.best_loss:
            self.best_loss, self.best_epoch = validation_loss, epoch
            self.best_weights = copy.deepcopy(self.model.state_dict())
        return epoch - self.best_epoch >= self.patience

    def restore(self) -> None:
        self.model.load_state_dict(self.best_weights)


def make_optimizer(library: Library, model: nn.Module, settings: Settings) -> torch.optim.Optimizer:
    if settings.optimizer == "sgd":
        return library.optim.SGD(
            model.parameters(), lr=settings.learning_rate, momentum=0.9, weight_decay=settings.weight_decay
        )
    return library.optim.AdamW(model.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay)


def make_schedule(
    optimizer: torch.optim.Optimizer, settings: Settings, steps: int
) -> torch.optim.lr_scheduler.LRScheduler:
    """Up over the first tenth of the steps, then down to nothing along a cosine."""
    return torch.optim.lr_scheduler.OneCycleLR(
        optimizer, settings.learning_rate, total_steps=max(steps, 2), pct_start=0.1, cycle_momentum=False
    )


def batches(split: Split, size: int, generator: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
    """Images and labels in a new random order, the incomplete last batch included."""
    for where in torch.randperm(len(split), generator=generator).split(size):
        yield split.images[where], split.labels[where]


def train_step(
    library: Library, model: nn.Module, optimizer: torch.optim.Optimizer, images: Tensor, labels: Tensor
) -> float:
    """Forward, backward, update; returns the batch's mean cross-entropy."""
    optimizer.zero_grad()
    loss = library.layers.CrossEntropyLoss()(model(images), labels)
    loss.backward()
    optimizer.step()
    return float(loss.item())


@torch.no_grad()
def evaluate(model: nn.Module, split: Split, device: str) -> tuple[float, Tensor]:
    """Mean cross-entropy and the confusion matrix (10, 10): rows are labels, columns predictions."""
    model.eval()
    loss, confusion = 0.0, torch.zeros(CLASSES, CLASSES, dtype=torch.int64)
    for images, labels in zip(split.images.split(500), split.labels.split(500)):
        scores = model(images.to(device)).float().cpu()
        loss += F.cross_entropy(scores, labels, reduction="sum").item()
        confusion.index_put_((labels, scores.argmax(1)), torch.ones_like(labels), accumulate=True)
    return loss / max(len(split), 1), confusion


def accuracy(confusion: Tensor) -> float:
    return confusion.diagonal().sum().item() / max(int(confusion.sum()), 1)


def fresh_model(library: Library, channels: int, settings: Settings) -> nn.Module:
    """The same seed gives both libraries the same initial weights, since both draw them as torch.nn does."""
    torch.manual_seed(settings.seed)
    return build(library.layers, channels, settings.dropout).to(settings.device)


def train(
    library: Library, data: Dataset, settings: Settings, on_epoch: Callable[[int, History], None] | None = None
) -> tuple[nn.Module, History]:
    """Trains a fresh model and returns it, with the weights of its best epoch, and its history.

    Everything random (weights, order, augmentation, dropout) follows from ``settings.seed``, so two libraries see the
    same batches. ``on_epoch`` is called after every epoch.
    """
    model = fresh_model(library, data.train.images.size(1), settings)
    optimizer = make_optimizer(library, model, settings)
    steps_an_epoch = -(-len(data.train) // settings.batch_size)
    schedule = make_schedule(optimizer, settings, steps_an_epoch * settings.epochs)
    stopping = EarlyStopping(model, settings.patience)
    augment = Augmentation(flip=data.flip)
    generator = torch.Generator().manual_seed(settings.seed)
    history = History()
    start = time.perf_counter()

    for epoch in range(settings.epochs):
        model.train()
        losses: list[float] = []
        for images, labels in batches(data.train, settings.batch_size, generator):
            images = augment(images, generator)
            losses.append(train_step(library, model, optimizer, images.to(settings.device), labels.to(settings.device)))
            schedule.step()
        validation_loss, confusion = evaluate(model, data.validation, settings.device)
        history.train_loss.append(statistics.fmean(losses))
        history.validation_loss.append(validation_loss)
        history.validation_accuracy.append(accuracy(confusion))
        history.learning_rate.append(float(schedule.get_last_lr()[0]))
        if on_epoch:
            on_epoch(epoch, history)
        if stopping.should_stop(epoch, validation_loss):
            break

    stopping.restore()
    _, confusion = evaluate(model, data.test, settings.device)
    history.best_epoch = stopping.best_epoch
    history.test_accuracy = accuracy(confusion)
    history.confusion = confusion.tolist()
    history.seconds = time.perf_counter() - start
    return model, history


def time_steps(libraries: list[Library], data: Dataset, settings: Settings, rounds: int = 60) -> dict[str, float]:
    """Median seconds of a whole training step, by library.

    The libraries take turns, step by step (A B A B), so that a busy machine slows both alike.
    """
    images = data.train.images[: settings.batch_size].to(settings.device)
    labels = data.train.labels[: settings.batch_size].to(settings.device)
    models = {library.name: fresh_model(library, images.size(1), settings).train() for library in libraries}
    optimizers = {library.name: make_optimizer(library, models[library.name], settings) for library in libraries}
    samples: dict[str, list[float]] = {library.name: [] for library in libraries}
    for _ in range(rounds + 5):
        for library in libraries:
            start = time.perf_counter()
            train_step(library, models[library.name], optimizers[library.name], images, labels)
            samples[library.name].append(time.perf_counter() - start)
    return {name: statistics.median(times[5:]) for name, times in samples.items()}


def peak_memory(library: Library, data: Dataset, settings: Settings) -> int:
    """The most bytes of tensors that one training step holds beyond what it began with.

    On a CPU it adds up the allocations and releases that torch's profiler sees during a step (with the optimizer's
    state in place); on a GPU it asks the caching allocator.
    """
    images = data.train.images[: settings.batch_size].to(settings.device)
    labels = data.train.labels[: settings.batch_size].to(settings.device)
    model = fresh_model(library, images.size(1), settings).train()
    optimizer = make_optimizer(library, model, settings)
    train_step(library, model, optimizer, images, labels)
    if settings.device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        train_step(library, model, optimizer, images, labels)
        return torch.cuda.max_memory_allocated() - before
    return most_bytes_held(lambda: train_step(library, model, optimizer, images, labels))


def most_bytes_held(run: Callable[[], object]) -> int:
    """The most bytes of CPU tensors that ``run()`` holds at a time beyond those that were there before it."""
    activities = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=activities, profile_memory=True) as profiler:
        run()
    held = most = 0
    for event in profiler.profiler.kineto_results.events():
        if event.name() == "[memory]":
            held += event.nbytes()
            most = max(most, held)
    return most
