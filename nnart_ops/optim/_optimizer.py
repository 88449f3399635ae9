"""The step that all optimizers share: one plan for all tensors of all groups, kept until something of it changes."""

from __future__ import annotations

import contextlib
import inspect
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.optim.optimizer import (
    Optimizer,
    _get_scalar_dtype,
    _global_optimizer_post_hooks,
    _global_optimizer_pre_hooks,
)

from nnart_ops import _C
from nnart_ops.autograd.function import register_fake
from nnart_ops.functional._native import device_kernel_takes
from nnart_ops.optim import _quantized
from nnart_ops.optim._decision import Decision, inverse
from nnart_ops.optim._distributed import full_norm, is_distributed, local, total_norm_over

_hold = register_fake(torch.ops.nnart_ops.hold_tensors_.default, lambda tensors: None)
register_fake(torch.ops.nnart_ops.optimizer_step_.default, lambda *arguments: None)
register_fake(torch.ops.nnart_ops.optimizer_launch_.default, lambda on, args: None)

LOW_PRECISION = ("master", "kahan", "stochastic")
_CPU = torch.device("cpu")
_HALF = frozenset({torch.bfloat16, torch.float16})
_STATE_DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.uint8)


@dataclass(frozen=True)
class Rule:
    """What a rule of ``csrc/math/optimizers.h`` is given, and by which names a state dict knows its state.

    ``hyper`` are its numbers: a key of the group, ``"betas.0"`` for an item of the tuple there, or a constant.
    ``positive`` are the states that are never negative, ``decay`` says what ``weight_decay`` means outside the rule.
    ``rows``: where the one state is a variance for each column of a matrix, the name of that for each row.
    """

    name: str
    hyper: tuple[str | float, ...]
    states: tuple[str, ...] = ()
    positive: tuple[str, ...] = ()
    decay: str = "l2"
    scalars: tuple[str, ...] = ()
    counts_steps: bool = True
    rows: str | None = None

    def sources(self) -> list[tuple[str | None, int, float]]:
        """``hyper`` as the plan reads it: key, item (-1 for the value itself), constant."""
        found: list[tuple[str | None, int, float]] = []
        for source in self.hyper:
            if isinstance(source, str):
                key, _, item = source.partition(".")
                found.append((key, int(item) if item else -1, 0.0))
            else:
                found.append((None, -1, float(source)))
        return found


@dataclass
class Options:
    """What every optimizer takes besides torch's own arguments; a group may have its own under the same key."""

    max_grad_norm: float | None = None
    max_grad_value: float | None = None
    ema_decay: float | None = None
    zero_grad_in_step: bool = False
    low_precision: str | None = None
    state_dtype: torch.dtype | None = None
    norm_group: Any = None

    def check(self, owner: str) -> None:
        """Raises for a value that means nothing."""
        for name in ("max_grad_norm", "max_grad_value"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ValueError(f"{owner}: {name} is {value}; allowed are None and numbers above 0")
        if self.ema_decay is not None and not 0 <= self.ema_decay < 1:
            raise ValueError(f"{owner}: ema_decay is {self.ema_decay}; allowed are None and numbers in [0, 1)")
        if self.low_precision is not None and self.low_precision not in LOW_PRECISION:
            raise ValueError(
                f"{owner}: low_precision is {self.low_precision!r}; allowed are None, "
                + ", ".join(map(repr, LOW_PRECISION))
            )
        if self.state_dtype is not None and self.state_dtype not in _STATE_DTYPES:
            allowed = ", ".join(map(str, _STATE_DTYPES))
            raise ValueError(f"{owner}: state_dtype is {self.state_dtype}; allowed are None, {allowed}")

    def any(self) -> bool:
        """Whether anything is asked for that torch's own step cannot do."""
        return self != Options()


_OPTION_NAMES = tuple(Options.__dataclass_fields__)


class FusedOptimizer(Optimizer):
    """The base of this package's optimizers; a class names its rule and, next in its bases, torch's own class.

    Shape: parameters of any shape, dense, in any order of memory; each gradient has its parameter's.

    On a GPU the host waits for nothing: there steps are counted (``state[p]["step"]`` is where ``fused=True`` has it),
    there a learning rate may be a tensor, and there it is decided whether a step takes place. State that was made for a
    step that does not stays, as it was made. A step can be captured in a CUDA graph.

    Besides that class's arguments every optimizer takes these, and they combine. A group's dictionary may hold its own
    ``max_grad_value``, ``ema_decay`` and ``zero_grad_in_step``.

    Args:
        max_grad_norm: clips the norm of all gradients of all groups together, as
            :func:`torch.nn.utils.clip_grad_norm_`; :attr:`grad_norm` is the norm before it.
        max_grad_value: then clamps each gradient to ``[-max_grad_value, max_grad_value]``.
        ema_decay: keeps an exponential moving average of the weights, ``ema = ema + (1 - ema_decay) * (p - ema)`` after
            each step, from the weights before the first step on; :meth:`ema_state_dict`, :meth:`ema_weights`.
        zero_grad_in_step: sets the gradients to zero once they are used.
        low_precision: for bfloat16 and float16 parameters, which lose every update below half an ulp. ``"master"``
            keeps them in float32 too, with float32 moments; ``"kahan"`` keeps what rounding took from them in their own
            dtype; ``"stochastic"`` rounds up or down at random so that the mean is right (``torch.manual_seed`` before
            the first step reproduces it).
        state_dtype: the moments' dtype, by default the parameter's. ``torch.uint8`` is the 8-bit block-wise dynamic
            quantisation of Dettmers et al. 2022 (arXiv:2110.02861) for tensors of 4096 elements and more.
        norm_group: where each rank's optimizer has other parameters (``ZeroRedundancyOptimizer``), the process group
            over which their norm is taken, or ``True`` for the default group.
    """

    _step_supports_amp_scaling = True
    _plan: Any
    _seed: int | None
    _grad_norm: float | Tensor | None
    _decision: Decision | None
    grad_scale: Any  # a GradScaler sets these for the time of a step
    found_inf: Any
    _skips_non_finite: bool
    _watched: ClassVar[tuple[str, ...]] = ()
    _native: ClassVar[type[Optimizer] | None] = None
    _layer_wise: ClassVar[bool] = False

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if cls._native is None or "__init__" in cls.__dict__:
            return
        inherited = inspect.signature(cls._native.__init__)
        own = inspect.signature(Options).parameters.values()
        options = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in own]
        parameters = list(inherited.parameters.values())[1:]
        cls.__signature__ = inspect.Signature([*parameters, *options])  # type: ignore[attr-defined]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        given = {name: kwargs.pop(name) for name in _OPTION_NAMES if name in kwargs}
        self.options = Options(**given)
        self.options.check(f"nnart_ops.optim.{type(self).__name__}")
        self._reset()
        super().__init__(*args, **kwargs)

    # ---- what a class says of itself ----------------------------------------------------------------------------

    def _rule_of(self, group: dict[str, Any]) -> Rule:
        """The rule for a group's settings; those of ``_watched`` whose truth decides it."""
        raise NotImplementedError

    def _initial(self, name: str, group: dict[str, Any]) -> float:
        """The value a state or scalar begins with."""
        return 0.0

    # ---- stepping -----------------------------------------------------------------------------------------------

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Updates all parameters once.

        Args:
            closure: evaluates the model again and returns the loss.

        Returns:
            The closure's loss, or ``None``.

        Raises:
            RuntimeError: for parameters or gradients that the kernels do not take (sparse, complex, on another device)
                where an option of this package is on, and where torch's own optimizer raises.
        """
        if torch.compiler.is_compiling():
            return _uncompiled_step(self, closure)
        if (
            _global_optimizer_pre_hooks
            or _global_optimizer_post_hooks
            or self._optimizer_step_pre_hooks
            or self._optimizer_step_post_hooks
            or torch.autograd._profiler_enabled()
        ):
            return _hooked_step(self, closure)
        return self._step(closure)

    step.hooked = True  # type: ignore[attr-defined]  # torch need not wrap it: it runs the hooks itself

    def _step(self, closure: Callable[[], Any] | None = None) -> Any:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        given = self.__dict__
        found_inf, scale = given.get("found_inf"), given.get("grad_scale")
        skips = given.get("_skips_non_finite", False)
        gpu = self._gpu()
        if gpu is not None:
            wants_norm = skips or self.options.max_grad_norm is not None
            self._took_place = self._update(1.0, skips, Decision(gpu, scale, found_inf, wants_norm))
        elif found_inf is None or not bool(found_inf):
            self._took_place = self._update(inverse(scale), skips)
        return loss

    def _gpu(self) -> torch.device | None:
        """The GPU that decides whether a step takes place, since the host would have to wait for its gradients."""
        if self.options.norm_group is not None:
            return None
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    return p.device if p.is_cuda and not is_distributed(p) else None
        return None

    def _update(self, factor: float, skips_non_finite: bool, decision: Decision | None = None) -> bool:
        """One step with gradients times ``factor``; whether it took place, unless ``decision`` is where that stands."""
        options = self.options
        self._decision = decision
        device = (0, 0, 0) if decision is None else decision.addresses()
        most = math.inf if options.max_grad_norm is None else options.max_grad_norm
        arguments = (factor, most, skips_non_finite)
        plan = self._plan
        result = None
        if plan is not None:
            norm = -1.0 if options.norm_group is None else self._distributed_norm(factor, skips_non_finite)
            result = plan.step(self.param_groups, self.state, *arguments, norm, self._key(), False, device)
        if result is None:
            with torch.no_grad():
                reason = self._native_reason()
                if reason is not None:
                    self._decision = None
                    if decision is not None:
                        if decision.found_bad():
                            return False
                        factor *= decision.factor()
                    return self._native_step(reason, factor, skips_non_finite)
                plan = self._build_plan()
                norm = self._distributed_norm(factor, skips_non_finite)
                result = plan.step(self.param_groups, self.state, *arguments, norm, self._key(), True, device)
                self._plan = None if plan.serves_one_step else plan
        norm, finite = result
        if decision is not None:
            self._grad_norm = decision.grad_norm
        else:
            self._grad_norm = norm if norm >= 0 or norm != norm else None
        if skips_non_finite and not finite:
            self._forget_created()
            return False
        self._created.clear()
        torch.autograd.graph.increment_version(self._updated)
        return True

    def _key(self) -> int:
        """What this step's stochastic rounding draws from."""
        if self.options.low_precision != "stochastic":
            return 0
        if self._seed is None:
            self._seed = int(torch.randint(2**62, (), device="cpu").item())
        self._seed = key = (self._seed + 0x9E3779B97F4A7C15) % 2**64
        return key

    @property
    def grad_norm(self) -> Tensor | None:
        """The norm of all gradients at the last step, unscaled, before clipping; ``None`` if nothing asked for it."""
        norm = self._grad_norm
        return norm if norm is None or isinstance(norm, Tensor) else torch.tensor(norm)

    # ---- the plan -----------------------------------------------------------------------------------------------

    def _reset(self) -> None:
        self._plan = None
        self._updated: list[Tensor] = []
        self._created: list[tuple[Tensor, list[str]]] = []
        self._grad_norm = None
        self._decision = None
        self._took_place = True
        self._seed = getattr(self, "_seed", None)

    def _native_reason(self) -> str | None:
        """Why torch's own step has to do it; ``None`` if the kernels can."""
        if torch.is_inference_mode_enabled():
            return "inference mode is on"
        devices = set()
        for group in self.param_groups:
            if group.get("differentiable"):
                return "differentiable=True"
            lr = group["lr"]
            for p in group["params"]:
                grad = p.grad
                if grad is None:
                    continue
                if group.get("capturable") and not p.is_cuda:  # on a GPU every step is
                    return "capturable=True"
                if isinstance(lr, Tensor) and (group.get("foreach") or lr.device not in (p.device, _CPU)):
                    return "the learning rate is a tensor"
                devices.add(p.device)
                if is_distributed(p):
                    if self._layer_wise:
                        return "a parameter is a DTensor, of whose norm a rank has a part"
                    p, grad = local(p), local(grad, p)
                if not _takes(p) or not _takes(grad):
                    return _why_not(p, grad)
        return "the parameters are on several devices" if len(devices) > 1 else None

    def _native_step(self, reason: str, factor: float, skips_non_finite: bool) -> bool:
        if self._native is None or self.options.any():
            asked = ", ".join(n for n in _OPTION_NAMES if getattr(self.options, n) != getattr(Options, n))
            raise RuntimeError(
                f"nnart_ops.optim.{type(self).__name__}"
                + (f" with {asked}" if asked else "")
                + " updates dense float32, float64, bfloat16 and float16 parameters on one device in eager code, but "
                + reason
            )
        grads = [p.grad for group in self.param_groups for p in group["params"] if p.grad is not None]
        if skips_non_finite and not all(bool(grad.isfinite().all()) for grad in map(_values, grads)):
            return False
        if factor != 1.0:
            for grad in grads:
                grad.mul_(factor)
        names = [name for name in ("grad_scale", "found_inf") if name in self.__dict__]
        kept: dict[str, Any] = {name: self.__dict__.pop(name) for name in names}
        native: Any = self._native.step
        try:
            (native.__wrapped__ if getattr(native, "hooked", False) else native)(self)
        finally:
            self.__dict__.update(kept)
        return True

    def _build_plan(self) -> Any:
        plan = _C.OptimizerPlan(self._plan_options(), self.param_groups, self.state)
        self._updated = []
        for group in self.param_groups:
            rule = self._rule_of(group)
            params = [p for p in group["params"] if p.grad is not None]
            fresh = [self._prepare_state(p, group, rule) for p in params]
            own = not any(map(is_distributed, params))
            self._add_group(plan, group, rule, params, [p.grad for p in params], fresh, own)
        plan.seal()
        return plan

    def _add_group(
        self,
        plan: Any,
        group: dict[str, Any],
        rule: Rule,
        params: list[Tensor],
        grads: list[Any],
        fresh: list[bool],
        own: bool,
    ) -> None:
        """Adds a group and its rows; ``own`` says that ``grads`` are what the parameters' ``.grad`` will be."""
        index = plan.add_group(group, rule.name, rule.sources(), rule.decay, list(self._watched))
        batches: dict[tuple[Any, ...], tuple[list[Tensor], list[Tensor]]] = {}
        for p, grad, first in zip(params, grads, fresh, strict=True):
            layout, tensors = self._row(p, grad, group, rule, first)
            members, held = batches.setdefault(layout, ([], []))
            members.append(p)
            held.extend(tensors)
        self._updated += params
        for layout, (members, held) in batches.items():
            _hold(held)
            plan.add_rows(index, members if own else [], *layout)

    def _plan_options(self) -> dict[str, Any]:
        options = self.options
        return {
            "max_grad_value": options.max_grad_value,
            "ema_decay": options.ema_decay,
            "zero_grad_in_step": options.zero_grad_in_step,
            "stochastic_rounding": options.low_precision == "stochastic",
        }

    def _row(self, p: Tensor, grad: Tensor, group: dict[str, Any], rule: Rule, fresh: bool) -> tuple[Any, list[Tensor]]:
        """The layout of a parameter's row and its tensors, as ``RowLayout`` in csrc/ops/optimizer_plan.h has them."""
        state = self.state.get(p, {})
        quantized = [k for k, name in enumerate(rule.states) if name not in state]
        positive = [k for k in quantized if rule.states[k] in rule.positive]
        tensors: list[Tensor] = [local(p), local(grad, p)]
        tensors += [local(state[n]) if n in state else state[n + _quantized.CODES] for n in rule.states]
        tensors += [state[rule.states[k] + _quantized.SCALES] for k in quantized]
        extras = [name in state and self._keeps(name, p, group) for name in ("master", "compensation", "ema")]
        tensors += [
            local(state[n]) for n, there in zip(("master", "compensation", "ema"), extras, strict=True) if there
        ]
        if rule.counts_steps:
            tensors.append(state["step"])
        tensors += [state[name] for name in rule.scalars]
        factored = rule.rows is not None
        if factored:
            tensors.append(state[rule.rows])
        kinds = (len(rule.states), tuple(quantized), tuple(positive))
        return (*kinds, *extras, rule.counts_steps, len(rule.scalars), factored, 0.0 if fresh else 1.0), tensors

    # ---- state --------------------------------------------------------------------------------------------------

    def _keeps(self, name: str, p: Tensor, group: dict[str, Any]) -> bool:
        """Whether ``master``, ``compensation`` or ``ema`` is kept for a parameter."""
        if name == "ema":
            return group.get("ema_decay", self.options.ema_decay) is not None
        return p.dtype in _HALF and self.options.low_precision == ("master" if name == "master" else "kahan")

    def _state_dtype(self, p: Tensor) -> torch.dtype:
        options = self.options
        default = torch.float32 if options.low_precision == "master" and p.dtype in _HALF else p.dtype
        wanted = options.state_dtype or default
        if wanted is torch.uint8 and (p.numel() < _quantized.LEAST or p.dtype is torch.float64):
            return torch.float32 if p.dtype in _HALF else p.dtype
        if wanted is torch.uint8 and is_distributed(p):
            raise RuntimeError(
                f"nnart_ops.optim.{type(self).__name__}: state_dtype=torch.uint8 does not go with DTensor parameters, "
                "whose state must be sharded as they are; torch.bfloat16 does"
            )
        return wanted

    def _prepare_state(self, p: Tensor, group: dict[str, Any], rule: Rule) -> bool:
        """Creates what a parameter's state lacks and brings the rest into its dtype; whether all of it is new."""
        state = self.state[p]
        before = set(state)
        wanted = self._state_dtype(p)
        codes = [name + _quantized.CODES for name in rule.states]
        fresh = not any(state.get(name) is not None for name in (*rule.states, *codes))
        if rule.counts_steps and "step" not in state:
            state["step"] = torch.zeros((), dtype=_get_scalar_dtype(), device=p.device)
        for name in rule.scalars:
            if name not in state:
                initial = self._initial(name, group)
                state[name] = torch.full((), initial, dtype=_get_scalar_dtype(), device=p.device)
        for name in ("step", *rule.scalars):  # a checkpoint may have them on the CPU, where torch often keeps them
            if name in state and state[name].device != p.device:
                state[name] = state[name].to(p.device)
        for name in rule.states:
            value = state.get(name)
            if value is None:
                state.pop(name, None)
                if name + _quantized.CODES in state and wanted is torch.uint8:
                    continue
                if name + _quantized.CODES in state:
                    state[name] = _quantized.dequantize(state, name, name in rule.positive, p).to(wanted)
                elif wanted is torch.uint8:
                    fill = torch.full_like(p, self._initial(name, group), dtype=torch.float32, requires_grad=False)
                    _quantized.quantize(state, name, name in rule.positive, fill)
                else:
                    state[name] = torch.full_like(p, self._initial(name, group), dtype=wanted, requires_grad=False)
            elif wanted is torch.uint8:
                _quantized.quantize(state, name, name in rule.positive, state.pop(name))
            elif value.dtype is not wanted and (self.options.state_dtype or wanted is torch.float32):
                state[name] = value.to(wanted)
        if self._keeps("master", p, group) and "master" not in state:
            state["master"] = p.detach().to(torch.float32, copy=True)
        if self._keeps("compensation", p, group) and "compensation" not in state:
            state["compensation"] = torch.zeros_like(p, requires_grad=False)
        if self._keeps("ema", p, group) and "ema" not in state:
            exact = p.detach() if "master" not in state else state["master"]
            state["ema"] = exact.to(torch.float32 if p.dtype in _HALF else p.dtype, copy=True)
        if not state:
            del self.state[p]  # the rule keeps nothing
        created = [key for key in state if key not in before]
        if created:
            self._created.append((p, created))
        return fresh

    def _forget_created(self) -> None:
        """Takes back the state made for a step that did not take place."""
        for p, keys in self._created:
            state = self.state[p]
            for key in keys:
                state.pop(key, None)
            if not state:
                del self.state[p]
        if self._created:
            self._plan = None
        self._created.clear()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Loads a state dict of this class or of torch's own, as :meth:`torch.optim.Optimizer.load_state_dict`.

        State that is kept in another dtype than the parameter's (float32 master weights and averages, low-precision
        moments) keeps it.
        """
        loaded: dict[str, Any] = {}

        def remember(_: Optimizer, given: dict[str, Any]) -> None:
            loaded.update(given)

        handle = self.register_load_state_dict_pre_hook(remember)
        try:
            super().load_state_dict(state_dict)
        finally:
            handle.remove()
        ids = chain.from_iterable(group["params"] for group in loaded["param_groups"])
        params = chain.from_iterable(group["params"] for group in self.param_groups)
        for index, p in zip(ids, params, strict=True):
            for key, value in loaded["state"].get(index, {}).items():
                if isinstance(value, Tensor) and value.dtype is not self.state[p][key].dtype and key != "step":
                    self.state[p][key] = value.to(p.device, copy=True)

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "options": self.options, "_seed": self._seed}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._reset()

    # ---- the average --------------------------------------------------------------------------------------------

    def _averages(self) -> Iterator[tuple[Tensor, Tensor]]:
        for group in self.param_groups:
            for p in group["params"]:
                ema = self.state[p].get("ema") if p in self.state else None
                if ema is not None:
                    yield p, ema

    def ema_state_dict(self, module: torch.nn.Module) -> dict[str, Tensor]:
        """``module.state_dict()`` with the averages in the place of the parameters that have one.

        Args:
            module: the module whose parameters this optimizer updates.

        Returns:
            A state dict; the averages have the parameters' dtypes and are copies.

        Raises:
            RuntimeError: if no parameter has an average: ``ema_decay`` is not set or no step was taken.
        """
        averages = {id(p): ema for p, ema in self._averages()}
        if not averages:
            raise RuntimeError(
                f"nnart_ops.optim.{type(self).__name__}: there are no averages; they begin at the first step with "
                "ema_decay set"
            )
        result = module.state_dict()
        for name, p in module.named_parameters(remove_duplicate=False):
            if id(p) in averages and name in result:
                result[name] = averages[id(p)].to(p.dtype, copy=True)
        return result

    @contextlib.contextmanager
    def ema_weights(self) -> Iterator[None]:
        """Within the context the parameters are the averages; after it they are what they were."""
        pairs = list(self._averages())
        with torch.no_grad():
            kept = [p.clone() for p, _ in pairs]
            for p, ema in pairs:
                p.copy_(ema)
        try:
            yield
        finally:
            with torch.no_grad():
                for (p, _), value in zip(pairs, kept, strict=True):
                    p.copy_(value)

    def _distributed_norm(self, factor: float, needed: bool) -> float:
        """The norm over all ranks, where a rank does not have all gradients and a norm is needed; else -1."""
        group = self.options.norm_group
        grads = [p.grad for g in self.param_groups for p in g["params"] if p.grad is not None]
        if not (needed or self.options.max_grad_norm is not None):
            return -1.0
        if group is None and not any(map(is_distributed, grads)):
            return -1.0
        norm = full_norm(grads) * abs(factor)
        return norm if group is None else total_norm_over(norm, group)


_hooked_step: Any = Optimizer.profile_hook_step(FusedOptimizer._step)
# A compiled function breaks here and takes the kernels: there is nothing left to fuse.
_uncompiled_step: Any = torch.compiler.disable(FusedOptimizer.step)


def _values(grad: Tensor) -> Tensor:
    return grad.coalesce().values() if grad.is_sparse else grad


def _takes(t: Tensor) -> bool:
    return device_kernel_takes(t) and not t.is_neg()


def _why_not(p: Tensor, grad: Tensor) -> str:
    for name, t in (("parameter", p), ("gradient", grad)):
        if not _takes(t):
            kind = "" if type(t) in (Tensor, torch.nn.Parameter) else f" of type {type(t).__name__}"
            return f"a {name}{kind} is {t.layout}, {t.dtype}, on {t.device}"
    return "its gradients are not"
