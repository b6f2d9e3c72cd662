"""Every tensor is made where it is used: without a GPU, nothing else would tell."""

from __future__ import annotations

import ast
from collections.abc import Iterator

import pytest

from tests.conftest import ROOT

ROOMS = ("qat/numerics", "qat/layers", "qat/models", "qat/methods")
MAKERS = {
    *("tensor", "zeros", "ones", "empty", "full", "eye", "scalar_tensor", "from_numpy", "Generator"),
    *("arange", "range", "linspace", "logspace", "tril_indices", "triu_indices", "empty_strided"),
    *("rand", "randn", "randint", "randperm", "normal", "hann_window", "hamming_window"),
}
REASON = "# on the CPU: "


def without_device(source: str) -> Iterator[str]:
    """`line: code` of each tensor or generator that is made with neither a device nor, beside it, a reason."""
    lines = source.splitlines()
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
            continue
        if not (
            isinstance(node.func.value, ast.Name)
            and node.func.value.id == "torch"
            and node.func.attr in MAKERS
        ):
            continue
        given = any(keyword.arg == "device" for keyword in node.keywords)
        given |= node.func.attr == "Generator" and bool(node.args)
        own = lines[node.lineno - 1 : node.end_lineno]
        if not given and not any(line.partition(REASON)[2].strip() for line in own):
            yield f"{node.lineno}: {ast.unparse(node)}"


@pytest.mark.parametrize("room", ROOMS)
def test_every_tensor_is_made_on_a_device_or_says_why_on_the_cpu(room: str) -> None:
    missing = {
        path.relative_to(ROOT).as_posix(): found
        for path in sorted((ROOT / room).rglob("*.py"))
        if (found := list(without_device(path.read_text())))
    }
    assert not missing, "give device=, or `# on the CPU: reason` on the line"


def test_tensors_without_device_or_reason_are_found() -> None:
    source = """
        mask = torch.arange(total)[None] < lengths
        noise = torch.randn(
            2, 3,  # on the CPU:
            generator=torch.Generator().manual_seed(0),
        )
        right = torch.zeros(3, device=x.device)
        drawn = torch.rand([])  # on the CPU: read at once
        seeded = torch.Generator("cpu")
        like = torch.zeros_like(x) + x.new_ones(3)
    """
    body = "\n".join(line.removeprefix("        ") for line in source.splitlines())
    assert sorted(found.partition(":")[0] for found in without_device(body)) == ["2", "3", "5"]
