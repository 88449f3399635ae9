"""Checks, times and prints every case, losses like wins.

python -m benchmarks.run --family activation --dtype float32 bfloat16 --json benchmarks/results/NAME.json
NNART_CUDA_ON_TRIAL=1 python -m benchmarks.run --device cuda --json benchmarks/results/NAME.json
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import math
import os
import random
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import nnart_ops
from benchmarks import timing
from benchmarks.case import DTYPES, Case
from benchmarks.cases import FAMILIES, ON_CPU, ON_CUDA
from nnart_ops._explain import peak_flops


def check(case: Case) -> None:
    """Fails if ours and the peer disagree on the case's first input: a wrong kernel has no speed."""
    a, b = case.ours(0), case.peer(0)
    if isinstance(a, Tensor) and case.tolerance < math.inf:
        torch.testing.assert_close(a, b, rtol=case.tolerance, atol=case.tolerance, msg=lambda m: f"{case.name}: {m}")


def measure(case: Case, rounds: int, compiles: bool, bandwidth: dict[tuple[int, bool], float]) -> dict[str, Any]:
    """One row of the table: times in ms, rates, the share of the roofline, the ratio to the strongest peer."""
    check(case)
    peers = timing.peers_of(case.peer, convolves=case.family in ("conv", "gemm"), compiles=compiles)
    comparison = timing.compare(case.ours, peers, rounds=rounds, inner=case.inner)
    row: dict[str, Any] = {
        "family": case.family,
        "case": case.name,
        "dtype": case.dtype,
        "ours_ms": comparison.ours * 1e3,
        "native_ms": comparison.peers[comparison.strongest] * 1e3,
        "ratio": comparison.ratio,
    }
    if len(peers) > 1:
        row["peer"] = comparison.strongest
        row["peers_ms"] = {name: seconds * 1e3 for name, seconds in comparison.peers.items()}
    if case.flops:
        row["gflops_per_s"] = case.flops / comparison.ours / 1e9
        peak = peak_flops(DTYPES[case.dtype], torch.get_default_device().type)
        row["roofline"] = case.flops / comparison.ours / peak
    elif case.bytes:
        key = (case.bytes, case.in_place)
        if key not in bandwidth:
            measured = timing.in_place_bandwidth if case.in_place else timing.copy_bandwidth
            bandwidth[key] = measured([case.bytes])[case.bytes]
        row["gb_per_s"] = case.bytes / comparison.ours / 1e9
        row["roofline"] = case.bytes / comparison.ours / bandwidth[key]
    return row


RATES = {"gflops_per_s": "GFLOP/s", "gb_per_s": "GB/s"}  # of a row, in the units of the table


def line(row: dict[str, Any]) -> str:
    rates = [f"{row[key]:8.1f} {unit:7s}" for key, unit in RATES.items() if key in row]
    rate = rates[0] if rates else " " * 16
    share = f"{row['roofline']:5.0%}" if "roofline" in row else "     "
    times = f"{row['ours_ms']:9.4f} {row['native_ms']:9.4f}"
    ratio = f"{row['ratio']:6.2f}x {row.get('peer', '')}".rstrip()
    return f"{row['case']:52s} {row['dtype']:9s} {times}  {rate} {share}  {ratio}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument(
        "--family", nargs="+", choices=sorted(FAMILIES), help="default: all with kernels for the device"
    )
    parser.add_argument("--dtype", nargs="+", choices=sorted(DTYPES), default=["float32", "bfloat16"])
    parser.add_argument("--only", default="", help="run the cases whose name contains this")
    parser.add_argument("--rounds", type=int, default=21, help="samples of each side, made an even number")
    parser.add_argument(
        "--compile-every", type=int, default=0, metavar="N", help="torch.compile is a peer of each N-th case; 0: none"
    )
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--every", type=int, default=1, metavar="N", help="run one in N cases of a family")
    parser.add_argument(
        "--seconds", type=float, default=math.inf, help="leave cases out of each family to take no more"
    )
    parser.add_argument(
        "--autotune", action="store_true", help="let convolutions measure their strategies first, with nothing kept"
    )
    parser.add_argument("--commit", default="", help="what was checked out, where there is no .git to ask")
    parser.add_argument("--json", type=Path, help="also write the rows and the environment to this file")
    arguments = parser.parse_args()
    timing.set_allocator_thresholds()
    torch.set_num_threads(arguments.threads)

    if arguments.device != "cpu":  # set, it is a mode that every call from Python goes through: ours makes more of them
        torch.set_default_device(arguments.device)
    with contextlib.ExitStack() as stack:
        if arguments.autotune:
            os.environ["NNART_CACHE_DIR"] = stack.enter_context(tempfile.TemporaryDirectory())
            stack.enter_context(nnart_ops.config(autotune=True))
        run(arguments)


def run(arguments: argparse.Namespace) -> None:
    """Prints and keeps what the arguments ask for."""
    environment = timing.environment(arguments.commit)
    machine, versions = environment["machine"], environment["versions"]
    if arguments.device == "cuda":
        print(f"{machine['cuda']}, driver {machine['driver']}, torch {versions['torch']}, kernels {versions['cuda']}")
    else:
        print(f"{machine['processor']}, {arguments.threads} thread(s), torch {versions['torch']}, ", end="")
        print(f"{versions['cpu_isa']} kernels; allocator thresholds set for both sides; ratio = native time / our time")
    print(f"{'case':52s} {'dtype':9s} {'ours ms':>9s} {'native ms':>9s}  {'our rate':>16s} roof    ratio")
    rows, wrong, bandwidth = [], list[dict[str, str]](), dict[tuple[int, bool], float]()
    end, cases, left_out = time.monotonic() + arguments.seconds, 0, dict[str, str]()
    families = arguments.family or sorted(ON_CPU if arguments.device == "cpu" else ON_CUDA)
    pairs = list(itertools.product(families, arguments.dtype))
    for done, (family, dtype) in enumerate(pairs):
        now = time.monotonic()
        end_of_share = now + (end - now) / (len(pairs) - done)
        wanted = (case for case in FAMILIES[family](dtype) if arguments.only in case.name)
        chance = random.Random(7)  # and not each N-th, which may always be a forward
        for case in wanted:
            if chance.random() >= 1 / arguments.every:
                continue
            if time.monotonic() > end_of_share:
                left_out[f"{family} {dtype}"] = f"all from '{case.name}' on"
                break
            cases += 1
            compiles = arguments.compile_every > 0 and cases % arguments.compile_every == 0
            try:
                rows.append(measure(case, arguments.rounds, compiles, bandwidth))
                print(line(rows[-1]), flush=True)
            except (AssertionError, RuntimeError) as error:
                wrong.append({"family": family, "case": case.name, "dtype": dtype, "error": str(error)})
                print(f"{case.name:52s} {dtype:9s} WRONG: {error}", flush=True)
    for name, which in left_out.items():
        print(f"{name}: {which} left out for want of time")
    if arguments.every > 1:
        print(f"of all others one in {arguments.every}, drawn")
    if arguments.json:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(
            json.dumps(
                {
                    **environment,
                    "rows": rows,
                    **({"wrong": wrong} if wrong else {}),
                    "every": arguments.every,
                    "autotune": arguments.autotune,
                    "left_out": left_out,
                },
                indent=1,
            )
            + "\n"
        )
        print(f"written to {arguments.json}")
    if wrong:
        sys.exit(f"{len(wrong)} case(s) are wrong")


if __name__ == "__main__":
    main()
