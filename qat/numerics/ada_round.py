"""Choosing for each weight whether it is rounded up or down (AdaRound), from second moments of the layer's inputs.

Each row `w` of a layer's weight matrix has its own error, a quadratic form in its change `d = w~ - w`:

    E (w~ x^ - w x)^2 = d A d' + 2 d r' + const,   A = E x^ x^',   r = w E[(x^ - x) x^']

`x` is the layer's input in the float model, `x^` its input after the layers that are already quantized. So no inputs
are kept and no batches drawn: a step costs one product with `A` and uses every calibration frame. Nagel 2020 (arXiv
2004.10568); the polish by coordinate descent is that of CDQuant (Nair & Suggala 2024, arXiv 2406.17542), within {down,
up}.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

ZETA, GAMMA = 1.1, -0.1  # stretch of the sigmoid: both ends of [0, 1] are reached
# lambda; weighed against a row's error per weight, relative to the noise of rounding it to nearest
REGULARIZER = 2.0
WARM_START = 0.2  # share of the steps without the regularizer
BETA = (20.0, 2.0)
LEARNING_RATE = 2e-2
CHECK_EVERY = 100  # steps between two checks whether every rounding is settled, and two calls of progress
SWEEPS = 20
# factors on the scale that has the least weight error
CANDIDATES = tuple(0.6 + 0.04 * step for step in range(23))


@dataclass(frozen=True)
class Problem:
    """The rounding of `G` independent weight matrices that share their shape.

    Args:
        weight: float32 `(G, O, I)`.
        scale: of each weight, broadcastable to it.
        quant_min: smallest level.
        quant_max: largest level.
        gram: `A`, float32 `(G, I, I)`.
        cross: `r` of every row, float32 `(G, O, I)`.
        offset: steps that all levels lie above the whole ones; 0 or a half.
    """

    weight: Tensor
    scale: Tensor
    quant_min: int
    quant_max: int
    gram: Tensor
    cross: Tensor
    offset: float = 0.0

    @property
    def share(self) -> Tensor:
        """`w / s` minus the offset: the weight in steps, whose fraction rounding decides."""
        share = self.weight / self.scale
        return share.sub_(self.offset) if self.offset else share

    @property
    def lower(self) -> Tensor:
        """The whole level below each weight."""
        return self.share.floor_()

    def first_variable(self) -> Tensor:
        """The `V` whose `h(V)` is each weight's place between its two levels: at first nothing is rounded."""
        return first_variable(self.share)

    def change(self, up: Tensor) -> Tensor:
        """`w~ - w` where a share `up` of a level is added to the lower one, float32 `(G, O, I)`."""
        return self.change_to(self.lower + up)

    def change_to(self, levels: Tensor) -> Tensor:
        """`w~ - w` at whole levels; overwrites `levels`."""
        levels.clamp_(self.quant_min, self.quant_max)
        levels = levels.add_(self.offset) if self.offset else levels
        return levels.mul_(self.scale).sub_(self.weight)

    def row_errors(self, change: Tensor) -> Tensor:
        """`d A d' + 2 d r'`, float64 `(G, O)`: the error of each row less its constant part."""
        change = change.double()
        product = change @ self.gram.double() + 2 * self.cross.double()
        return (product * change).sum(-1)

    def noise(self, change: Tensor) -> Tensor:
        """`d A d'` alone, float64 `(G, O)`: what rounding adds to each row's outputs; never negative."""
        change = change.double()
        return ((change @ self.gram.double()) * change).sum(-1)

    def nearest(self) -> Tensor:
        """The start of AdaRound: True where rounding to nearest goes up."""
        share = self.share
        return share - share.floor() >= 0.5


@dataclass
class State:
    """An unfinished AdaRound: continuing from it gives the same bits as never stopping.

    Args:
        variable: `V`, `(G, O, I)`; hardened, a weight goes up where it is at least 0.
        first: Adam's mean of gradients.
        second: Adam's mean of squares.
        step: steps done.
    """

    variable: Tensor
    first: Tensor = field(default_factory=lambda: torch.empty(0, device="cpu"))
    second: Tensor = field(default_factory=lambda: torch.empty(0, device="cpu"))
    step: int = 0

    def __post_init__(self) -> None:
        for name in ("first", "second"):
            if getattr(self, name).shape != self.variable.shape:
                setattr(self, name, torch.zeros_like(self.variable))


def rectified_sigmoid(variable: Tensor) -> Tensor:
    """`h(V) = clip(sigmoid(V) (zeta - gamma) + gamma, 0, 1)`.

    >>> rectified_sigmoid(torch.tensor([-9.0, 0.0, 9.0])).tolist()
    [0.0, 0.5, 1.0]
    """
    return variable.sigmoid().mul_(ZETA - GAMMA).add_(GAMMA).clamp_(0.0, 1.0)


def first_variable(share: Tensor) -> Tensor:
    """The `V` whose `h(V)` is the fractional part of `share`, a weight in steps: at first nothing is rounded."""
    share = (share - share.floor() - GAMMA) / (ZETA - GAMMA)
    return share.logit()


def hard_round(weight: Tensor, scale: Tensor, variable: Tensor, quant_min: int, quant_max: int) -> Tensor:
    """`s clip(floor(w / s) + (V >= 0), n, p)`; `scale` broadcasts to the weight."""
    levels = (weight / scale).floor_().add_((variable >= 0).to(weight.dtype))
    return levels.clamp_(quant_min, quant_max).mul_(scale)


def beta_at(step: int, steps: int) -> float | None:
    """Exponent of the regularizer, from 20 to 2 along half a cosine; None during the warm start.

    >>> beta_at(199, 1000), beta_at(200, 1000), beta_at(1000, 1000)
    (None, 20.0, 2.0)
    """
    start = int(WARM_START * steps)
    if step < start:
        return None
    share = (step - start) / max(steps - start, 1)
    return BETA[1] + 0.5 * (BETA[0] - BETA[1]) * (1.0 + math.cos(math.pi * share))


def regularizer(h: Tensor, beta: float) -> Tensor:
    """`sum(1 - |2h - 1|^beta)`: zero where all are decided.

    >>> float(regularizer(torch.tensor([0.0, 0.5, 1.0]), 2.0))
    1.0
    """
    return (1.0 - (2.0 * h - 1.0).abs().pow(beta)).sum()


@torch.no_grad()
def search_scale(problem: Problem, widths: Sequence[int], sweeps: int = 1) -> Tensor:
    """Factors for the scales that give each row the least error at its output, rounded about as well as in the end.

    Args:
        problem: with the scales to start from.
        widths: columns that share a scale within a row, side by side; they sum to I.
        sweeps: of coordinate descent after each candidate; 0 compares roundings to nearest.

    Returns:
        `(G, O, len(widths))`, from `CANDIDATES`.
    """
    groups, outputs, _ = problem.weight.shape
    factors = problem.weight.new_ones(groups, outputs, len(widths))
    for part in range(len(widths)):
        best = torch.full((groups, outputs), torch.inf, dtype=torch.float64, device=problem.weight.device)
        chosen = factors[..., part].clone()
        for candidate in CANDIDATES:
            factors[..., part] = candidate
            tried = replace(problem, scale=problem.scale * spread(factors, widths))
            up = tried.nearest()
            errors = tried.row_errors(tried.change((polish(tried, up, sweeps) if sweeps else up).float()))
            chosen = torch.where(errors < best, candidate, chosen)
            best = torch.minimum(errors, best)
        factors[..., part] = chosen
    return factors


def spread(factors: Tensor, widths: Sequence[int]) -> Tensor:
    """`(G, O, parts)` repeated over the columns of each part, `(G, O, I)`."""
    parts = zip(factors.unbind(2), widths, strict=True)
    return torch.cat([part.unsqueeze(2).expand(-1, -1, width) for part, width in parts], dim=2)


@torch.no_grad()
def optimise(
    problem: Problem, state: State, steps: int, progress: Callable[[State], None] | None = None
) -> Tensor:
    """Run AdaRound to the end of its schedule, or until every rounding is settled; then harden and polish.

    Args:
        problem: what is rounded.
        state: where to start; changed in place.
        steps: of the whole schedule, those done included.
        progress: called every `CHECK_EVERY` steps; what it raises stops the work, which `state` can resume.

    Returns:
        True where a weight is rounded up, bool `(G, O, I)`.
    """
    start = problem.nearest()
    if steps:
        descend_(problem, state, steps, progress)
    hard = state.variable >= 0
    worse = problem.row_errors(problem.change(hard.float())) > problem.row_errors(
        problem.change(start.float())
    )
    return polish(problem, torch.where(worse.unsqueeze(-1), start, hard))


def descend_(problem: Problem, state: State, steps: int, progress: Callable[[State], None] | None) -> None:
    """Adam on `V`, in place. The gradient is explicit: autograd would keep ten tensors of this size alive."""
    scale, lower = problem.scale, problem.lower
    start = problem.noise(problem.change(problem.nearest().float()))
    unit = start.clamp(min=1e-9 * float(start.max()) + 1e-30) / problem.weight.shape[-1]
    relative = (2.0 / unit).float().unsqueeze(-1) * scale
    movable = (lower >= problem.quant_min) & (lower < problem.quant_max)
    relative = relative * movable
    while state.step < steps:
        beta = beta_at(state.step, steps)
        sigmoid = state.variable.sigmoid()
        h = (sigmoid * (ZETA - GAMMA)).add_(GAMMA)
        inside = (h > 0.0) & (h < 1.0)
        h.clamp_(0.0, 1.0)
        change = problem.change_to(lower + h)
        grad = torch.baddbmm(problem.cross, change, problem.gram).mul_(relative)
        if beta is not None:
            side = h.mul_(2.0).sub_(1.0)
            grad.sub_(side.abs().pow_(beta - 1.0).mul_(2.0 * beta * REGULARIZER).mul_(side.sign()))
        grad.mul_(sigmoid).mul_(sigmoid.neg_().add_(1.0)).mul_(inside).mul_(ZETA - GAMMA)
        adam_(state, grad)
        if state.step % CHECK_EVERY == 0:
            if beta is not None and not bool((undecided(state.variable) & movable).any()):
                return
            if progress is not None:
                progress(state)


def undecided(variable: Tensor) -> Tensor:
    """True where `h(V)` is more than a hundredth away from both 0 and 1."""
    return (rectified_sigmoid(variable) - 0.5).abs() < 0.49


def adam_(state: State, grad: Tensor) -> None:
    """One step of Adam (Kingma & Ba 2015) on `state.variable`, in place."""
    state.step += 1
    state.first.lerp_(grad, 0.1)
    state.second.mul_(0.999).addcmul_(grad, grad, value=0.001)
    corrected = LEARNING_RATE / (1.0 - 0.9**state.step)
    root = (state.second / (1.0 - 0.999**state.step)).sqrt_().add_(1e-8)
    state.variable.addcdiv_(state.first, root, value=-corrected)


@torch.no_grad()
def polish(problem: Problem, up: Tensor, sweeps: int = SWEEPS) -> Tensor:
    """Flip single roundings as long as the error of their row falls (coordinate descent); never makes it larger.

    Args:
        problem: what is rounded.
        up: start, bool `(G, O, I)`.
        sweeps: over all columns at most.
    """
    up = up.clone()
    scale = problem.scale.expand_as(problem.weight)
    lower = problem.lower
    low = lower.clamp(problem.quant_min, problem.quant_max).mul_(scale)
    step = (lower + 1).clamp_(problem.quant_min, problem.quant_max).mul_(scale).sub_(low)
    gradient = torch.baddbmm(problem.cross, problem.change(up.float()), problem.gram)
    diagonal = problem.gram.diagonal(dim1=1, dim2=2)
    for _ in range(sweeps):
        flipped = torch.zeros((), dtype=torch.bool, device=up.device)
        for column in range(up.shape[-1]):
            size = torch.where(up[..., column], -step[..., column], step[..., column])
            gain = size * (2 * gradient[..., column] + size * diagonal[:, column, None])
            better = gain < 0
            if not (better.is_cuda or bool(better.any())):
                continue  # on a GPU it takes longer to ask
            flipped |= better.any()
            up[..., column] ^= better
            gradient.addcmul_((size * better).unsqueeze(-1), problem.gram[:, column].unsqueeze(1))
        if not bool(flipped):
            break
    return up
