"""The built `tidegate`, started as its users start it."""

import contextlib
import os
import queue
import re
import subprocess
import threading

import pytest

START_SECONDS = 30
STOP_SECONDS = 15
ADDRESS = re.compile(r"listening on http://(127\.0\.0\.1:[1-9]\d*)")


@contextlib.contextmanager
def running(*arguments):
    """Runs `tidegate` with these arguments; its URL, as soon as it prints where it listens."""
    program = os.environ.get("TIDEGATE_BIN")
    if not program:
        pytest.fail("TIDEGATE_BIN is not set: run these tests with `cargo xtask clients python`")
    command = [program, *arguments]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    addresses = queue.Queue()

    def read():
        for line in process.stdout:
            if found := ADDRESS.search(line):
                addresses.put(found.group(1))

    threading.Thread(target=read, daemon=True).start()
    try:
        yield f"http://{addresses.get(timeout=START_SECONDS)}"
    finally:
        process.terminate()
        process.wait(STOP_SECONDS)
