"""The matrix products inside a layer, as AdaRound and bias correction see them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Product:
    """`G` groups of weights `(O, I)` on inputs `(G, N, I)`, by the names of the layer's parameters.

    Args:
        weights: for each group the weights that stand side by side along `I`; a convolution's groups share one.
        biases: what a mean error is taken out of, one for each entry of `weights`; empty where the layer has none.
        groups: `G`.
        suffix: of the product's name, after the layer's.
        own_input: its inputs depend on more than the layer's input (a recurrent state); no other product shares them.
    """

    weights: list[list[str]]
    biases: list[str]
    groups: int = 1
    suffix: str = ""
    own_input: bool = False
