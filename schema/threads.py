"""A call in a thread of its own, which may hang: nobody has to wait for its end, not even the process."""

import threading
from collections.abc import Callable
from concurrent.futures import Future


def start_in_thread(call: Callable[[], object], name: str) -> Future[None]:
    """Start the call in a daemon thread; the future has its end, or its error."""
    ended: Future[None] = Future()

    def run() -> None:
        try:
            call()
        except BaseException as error:  # noqa: BLE001  # raised by result()
            ended.set_exception(error)
        else:
            ended.set_result(None)

    threading.Thread(target=run, name=name, daemon=True).start()
    return ended
