"""The demo's command line: ``python -m nnart_ops.demo --help``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from nnart_ops.demo import data as datasets
from nnart_ops.demo import linear_regression, report, train
from nnart_ops.demo.readers import DataFileError

LEARNING_RATE = {"sgd": 0.05, "adamw": 2e-3}
EXTRAS = ("sklearn", "matplotlib", "tqdm", "rich")


def parse(arguments: list[str]) -> argparse.Namespace:
    """The options; leaves with a usage message and status 2 where one makes no sense."""
    defaults = train.Settings()
    parser = argparse.ArgumentParser(
        prog="python -m nnart_ops.demo",
        description="Train the textbook CNN with torch.nn and with nnart_ops from the same initial weights.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("job", nargs="?", choices=["images", "linear-regression"], default="images", help="what to run")
    parser.add_argument("--data", choices=list(datasets.SOURCES), default="digits", help="digits needs no files")
    parser.add_argument("--root", type=Path, help="folder with the IDX or CIFAR-10 binary files of --data")
    parser.add_argument("--out", type=Path, default=Path("runs/demo"), help="folder for pictures and figures")
    parser.add_argument("--corrupt", choices=["drop", "report"], default="drop", help="what to do with corrupt samples")
    parser.add_argument("--optimizer", choices=list(LEARNING_RATE), default=defaults.optimizer, help="update rule")
    parser.add_argument("--lr", type=float, help="peak learning rate; 0.05 for sgd and 0.002 for adamw if not given")
    parser.add_argument("--weight-decay", type=float, default=defaults.weight_decay, help="L2; decoupled with adamw")
    parser.add_argument(
        "--dropout", type=float, default=defaults.dropout, help="share left out before the linear layers"
    )
    parser.add_argument("--batch-size", type=int, default=defaults.batch_size, help="images a step")
    parser.add_argument("--epochs", type=int, default=defaults.epochs, help="at most")
    parser.add_argument("--patience", type=int, default=defaults.patience, help="epochs without improvement")
    parser.add_argument("--seed", type=int, default=defaults.seed, help="of everything random")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of torch's pool")
    parser.add_argument("--device", default=defaults.device, help="cpu or cuda")
    options = parser.parse_args(arguments)
    if options.data != "digits" and options.root is None and options.job == "images":
        parser.error(f"--data {options.data} reads your own files: give their folder with --root")
    for name in ("batch_size", "epochs", "threads", "patience"):
        if getattr(options, name) < 1:
            parser.error(f"--{name.replace('_', '-')} must be at least 1, but is {getattr(options, name)}")
    if not 0 <= options.dropout < 1:
        parser.error(f"--dropout must be in [0, 1), but is {options.dropout}")
    if options.device.startswith("cuda") and not torch.cuda.is_available():
        parser.error("--device cuda: this torch finds no CUDA device")
    return options


def run_images(options: argparse.Namespace) -> None:
    """Trains both libraries, prints the table and saves the figures."""
    settings = train.Settings(
        optimizer=options.optimizer,
        learning_rate=options.lr or LEARNING_RATE[options.optimizer],
        weight_decay=options.weight_decay,
        dropout=options.dropout,
        batch_size=options.batch_size,
        epochs=options.epochs,
        patience=options.patience,
        seed=options.seed,
        device=options.device,
    )
    data = datasets.load(options.data, options.root, seed=options.seed, drop_corrupt=options.corrupt == "drop")
    print(f"{data.name}: {data.summary}")
    print(
        f"training {len(data.train)}, validation {len(data.validation)}, held out for the test {len(data.test)} images"
    )

    libraries = [train.TORCH, train.OURS]
    histories = {}
    for library in libraries:
        with progress(library.name, settings.epochs) as on_epoch:
            _, histories[library.name] = train.train(library, data, settings, on_epoch)
    step_seconds = train.time_steps(libraries, data, settings)
    peak_bytes = {library.name: train.peak_memory(library, data, settings) for library in libraries}

    report.print_table(histories, step_seconds, peak_bytes)
    for path in report.save(options.out, vars(options), histories, step_seconds, peak_bytes):
        print(f"saved {path}")


@contextmanager
def progress(name: str, epochs: int) -> Iterator[Callable[[int, train.History], None]]:
    """A progress bar over epochs that shows the losses; yields what to call after each."""
    from tqdm import tqdm

    with tqdm(total=epochs, desc=f"{name:9s}", unit="epoch", ascii=" =", ncols=110) as bar:

        def update(epoch: int, history: train.History) -> None:
            loss, accuracy = history.validation_loss[-1], history.validation_accuracy[-1]
            bar.set_postfix_str(f"loss {history.train_loss[-1]:.4f}, validation {loss:.4f} {accuracy:.2%}")
            bar.update()

        yield update


def main(arguments: list[str] | None = None) -> int:
    """Runs the job that the arguments name; returns 2 for what the user can mend, after one sentence about it."""
    options = parse(sys.argv[1:] if arguments is None else arguments)
    torch.set_num_threads(options.threads)
    try:
        if options.job == "linear-regression":
            print(linear_regression.describe(linear_regression.run(options.seed)))
        else:
            run_images(options)
    except DataFileError as error:
        print(f"nnart_ops.demo: {error}", file=sys.stderr)
        return 2
    except ModuleNotFoundError as error:
        if error.name not in EXTRAS:
            raise
        print(
            f"nnart_ops.demo: {error.name} is missing; install it with: pip install 'nnart_ops[demo]'", file=sys.stderr
        )
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
