"""Numbers of a variable length, 7 bits a byte, the lowest first: as protocol buffers write them."""


def encode(number: int) -> bytes:
    out = bytearray()
    while number > 0x7F:
        out.append(0x80 | number & 0x7F)
        number >>= 7
    out.append(number)
    return bytes(out)


def decode(packed: bytes, at: int) -> tuple[int, int]:
    """The number that starts at `at`, and where it ends. Raises ValueError when it is cut off."""
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
