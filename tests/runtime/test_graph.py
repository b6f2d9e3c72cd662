"""What the optimised graph computes on integers, and what in float."""

from __future__ import annotations

from qat.runtime.graph import count_nodes, optimised_graph
from tests.runtime.conftest import Exported


def test_every_quantized_layer_runs_on_integers(exported: Exported) -> None:
    counts = count_nodes(optimised_graph(exported.integer.path)).to_dict()
    layers = dict.fromkeys(exported.module.swap_report.swapped, 1)
    layers = {
        name: 2 if "rnn" in name else count for name, count in layers.items()
    }  # one node per stacked layer
    assert counts["integer"] == sum(layers.values())
    assert counts["float_compute"] == 0
    for name in layers:
        assert any(node.startswith(name) for node in counts["names"]["integer"])


def test_attention_products_are_listed_apart(wav2vec2: Exported) -> None:
    counts = count_nodes(optimised_graph(wav2vec2.integer.path)).to_dict()
    assert counts["float_matmul_without_weights"] >= 4  # two layers of two products


def test_float_twin_has_no_integer_node(crdnn: Exported) -> None:
    assert crdnn.float is not None
    counts = count_nodes(optimised_graph(crdnn.float.path)).to_dict()
    assert counts["integer"] == 0 and counts["float_compute"] == 9
    assert counts["frontend"] == 2
