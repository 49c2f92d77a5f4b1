import pytest

from cofi.masks import MASK_KINDS, ModelShape, parse_kinds


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("all", ("head", "int", "hidden", "mha", "ffn")),
        ("head,int", ("head", "int")),
        ("ffn, head", ("head", "ffn")),
        (["mha", "hidden"], ("hidden", "mha")),
        (("int", "int"), ("int",)),
    ],
)
def test_kinds_come_in_the_order_of_the_registry(given, expected):
    assert parse_kinds(given) == expected


@pytest.mark.parametrize("given", ["heads", "head,", "", [], ["all", "head"], "head+int"])
def test_a_wrong_kind_is_an_error_that_lists_the_valid_ones(given):
    with pytest.raises(ValueError, match="head, int, hidden, mha, ffn"):
        parse_kinds(given)


def test_vectors_divide_the_units_of_each_kind():
    shape = ModelShape(n_layers=3, n_heads=4, head_dim=2, d_hidden=8, d_int=10)
    vectors = {name: (kind.units(shape), kind.vector_size(shape)) for name, kind in MASK_KINDS.items()}
    assert vectors == {
        "head": ((3, 4), 4),
        "int": ((3, 10), 10),
        "hidden": ((8,), 8),
        "mha": ((3,), 1),
        "ffn": ((3,), 1),
    }


def test_costs_of_bert_base_are_those_of_the_paper():
    shape = ModelShape(n_layers=12, n_heads=12, head_dim=64, d_hidden=768, d_int=3072)
    assert (shape.head_cost, shape.int_cost, shape.prunable_size) == (196_864, 1_537, 85_017_600)


def test_cost_of_a_head_counts_the_real_projections_where_heads_do_not_fill_the_hidden_size():
    shape = ModelShape(n_layers=1, n_heads=2, head_dim=3, d_hidden=8, d_int=4)
    q_k_v, out = 3 * (8 * 6 + 6), 6 * 8 + 8
    assert shape.head_cost == (q_k_v + out) // 2


@pytest.mark.parametrize("field", ["n_layers", "n_heads", "head_dim", "d_hidden", "d_int"])
@pytest.mark.parametrize("value", [0, -1, 2.0, True])
def test_a_wrong_size_names_the_argument(field, value):
    sizes = {"n_layers": 1, "n_heads": 1, "head_dim": 1, "d_hidden": 1, "d_int": 1} | {field: value}
    with pytest.raises(ValueError, match=field):
        ModelShape(**sizes)
