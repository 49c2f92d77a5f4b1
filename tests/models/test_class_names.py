from __future__ import annotations

import pytest

from cofi.models.class_names import class_names, output_order


def test_names_are_in_the_order_of_their_numbers():
    names = {str(i): f"c{i}" for i in (10, 2, 0, 1, *range(3, 10))}
    assert class_names(names) == tuple(f"c{i}" for i in range(11))
    assert class_names(None) == ()


@pytest.mark.parametrize(
    ("have", "want", "order"),
    [
        (("no", "maybe", "yes"), ("no", "maybe", "yes"), [0, 1, 2]),
        (("NO", "Maybe", "yes"), ("maybe", "yes", "no"), [1, 2, 0]),
        (("LABEL_0", "LABEL_1"), ("no", "yes"), [0, 1]),
        (("negative", "positive"), ("0", "1"), [0, 1]),
        (("negative", "positive"), ("entailment", "not_entailment"), None),
        (("no", "yes"), ("no", "maybe", "yes"), None),
        (("LABEL_0", "yes"), ("no", "yes"), None),
        (("no", "no"), ("no", "yes"), None),
        (("no", "no"), ("no", "NO"), [0, 1]),
        (("1", "10", "2"), ("1", "2", "10"), [0, 2, 1]),
        (("LABEL_1", "LABEL_0"), ("label_0", "label_1"), [1, 0]),
        (("US", "us", "a"), ("a", "US", "us"), [2, 0, 1]),
        (("0", "1"), ("1", "2"), [0, 1]),
        ((), ("no", "yes"), None),
    ],
    ids=str,
)
def test_outputs_by_the_names_of_classes(have, want, order):
    assert output_order(have, want) == order
