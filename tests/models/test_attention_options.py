"""Options of the attention model are checked where they are declared."""

import pytest

from qat.models.attention_options import AttentionOptions
from qat.system.errors import UserError


@pytest.mark.parametrize(
    ("field", "value", "allowed"),
    [
        ("lm", "big", "must be quantize, float or none"),
        ("normalize", "batch", "must be utterance or global"),
        ("ctc_weight", 1.5, "must be from 0 to 1"),
        ("label_smoothing", -0.1, "must be from 0 to 1"),
        ("guide", 0.5, "must be 0 without a CTC model"),
        ("compile", True, "must be false"),
    ],
)
def test_a_value_outside_its_range_is_named(field: str, value: object, allowed: str) -> None:
    with pytest.raises(UserError, match=f"{field}: .*{allowed}"):
        AttentionOptions(**{field: value})  # type: ignore[arg-type]


def test_utterances_are_not_spliced_for_an_attention_decoder() -> None:
    with pytest.raises(UserError, match="splice_share: 0.2, must be 0: an attention decoder"):
        AttentionOptions(teacher="x", splice_share=0.2)
