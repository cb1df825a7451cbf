"""Damage to bytes."""

from hypothesis import strategies as st

_INSERTED = st.one_of(
    st.binary(min_size=1, max_size=6),
    st.sampled_from(
        [b"\xff" * 10, b"\0" * 4, b"\x80" * 9 + b"\x01", b"\x0b\x0c", b"\xff\xff\xff\x7f", b"\xed\xa0\x80"]
    ),
)


@st.composite
def mutated(draw: st.DrawFn, data: bytes) -> bytes:
    """`data` with a few bytes changed, left out, repeated or put in, or its end cut off."""
    for _ in range(draw(st.sampled_from([1, 1, 2, 4]))):
        at = draw(st.integers(0, max(0, len(data) - 1)))
        length = draw(st.sampled_from([1, 1, 2, 8, 60]))
        piece = data[at : at + length]
        match draw(st.integers(0, 5)):
            case 0:
                data = data[:at]
            case 1:
                data = data[:at] + data[at + length :]
            case 2:
                data = data[:at] + piece * draw(st.sampled_from([2, 3, 50])) + data[at + length :]
            case 3:
                data = data[:at] + draw(_INSERTED) + data[at:]
            case 4:
                data = data[:at] + bytes([draw(st.integers(0, 255))]) + data[at + 1 :]
            case 5:
                flipped = bytes(byte ^ 1 << draw(st.integers(0, 7)) for byte in piece[:1])
                data = data[:at] + flipped + data[at + 1 :]
    return data
