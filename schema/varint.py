"""Variable-length integers as in Protocol Buffers: 7 bits per byte, lowest bits first."""


def encode(number: int) -> bytes:
    out = bytearray()
    while number > 0x7F:
        out.append(0x80 | number & 0x7F)
        number >>= 7
    out.append(number)
    return bytes(out)


def decode(packed: bytes, at: int) -> tuple[int, int]:
    """Return the number that starts at `at`, and the position after it. Raises ValueError when it is cut off."""
    number = shift = 0
    while True:
        if at >= len(packed):
            raise ValueError("a number is cut off")
        byte = packed[at]
        number |= (byte & 0x7F) << shift
        at += 1
        shift += 7
        if byte < 0x80:
            return number, at
