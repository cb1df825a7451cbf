"""Which requests are made."""

import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from octet.bench.serving.lengths import Fixed, Uniform
from octet.bench.serving.orders import Kind, draw_orders, parse_mix

SHARES = st.dictionaries(st.sampled_from(Kind), st.floats(0.01, 100), min_size=1)


@given(SHARES)
def test_shares_add_up(shares: dict[Kind, float]) -> None:
    mix = parse_mix(",".join(f"{kind}={share}" for kind, share in shares.items()))
    assert sum(mix.values()) == pytest.approx(1)
    total = sum(shares.values())
    assert mix == {kind: pytest.approx(share / total) for kind, share in shares.items()}


def test_a_share_of_nothing_is_left_out() -> None:
    assert parse_mix("text=2, picture=0") == {Kind.TEXT: 1.0}


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "'' is no share"),
        ("text", "'text' is no share"),
        ("video=1", "KIND one of text, picture, tools"),
        ("text=1,text=2", "text has two shares"),
        ("text=-1", "the share of text is '-1'"),
        ("text=nan", "the share of text is 'nan'"),
        ("text=inf", "the share of text is 'inf'"),
        ("text=much", "the share of text is 'much'"),
        ("text=0,tools=0", "all shares are 0"),
    ],
)
def test_what_is_no_mix(text: str, sentence: str) -> None:
    with pytest.raises(ValueError) as error:
        parse_mix(text)
    assert sentence in str(error.value)


def test_orders_are_drawn_by_share() -> None:
    mix = {Kind.TEXT: 0.8, Kind.PICTURE: 0.1, Kind.TOOLS: 0.1}
    orders = draw_orders(3000, mix, Uniform(10, 20), Fixed(5), random.Random(0))
    kinds = Counter(order.kind for order in orders)
    assert {kind: number / 3000 for kind, number in kinds.items()} == pytest.approx(mix, abs=0.03)
    assert {order.prompt_tokens for order in orders} == set(range(10, 21))
    assert {order.answer_tokens for order in orders} == {5}
    assert [order.number for order in orders] == list(range(3000))
    assert {order.due for order in orders} == {None}
    assert orders == draw_orders(3000, mix, Uniform(10, 20), Fixed(5), random.Random(0))
