"""Starts the server of the client tests on a free port, once for all tests, and stops it."""

import os
import re
import subprocess
import sys
import threading
from collections import deque
from dataclasses import dataclass

import pytest

START_SECONDS = 20
STOP_SECONDS = 5
ADDRESS = re.compile(r"127\.0\.0\.1:([1-9]\d*)")


@dataclass
class Server:
    """A running server: where it listens, and whether it is a reference that lacks what only Tidegate has."""

    url: str
    is_reference: bool


def command(program):
    """A `.mjs` file is a reference server, anything else a binary.

    The reference breaks one-argument handlers when recovery is on; Tidegate must not, and has it on.
    """
    address = "127.0.0.1:0"
    return ["node", program, address, "--no-recovery"] if program.endswith(".mjs") else [program, address]


@pytest.fixture(scope="session")
def server():
    program = os.environ.get("TIDEGATE_REALCLIENTS")
    if not program:
        pytest.fail("TIDEGATE_REALCLIENTS is not set: run these tests with `cargo xtask clients python`")
    process = subprocess.Popen(
        command(program), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    printed = deque(maxlen=200)
    found = threading.Event()

    def read():
        for line in process.stdout:
            printed.append(line)
            if ADDRESS.search(line):
                found.set()
        found.set()

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    found.wait(START_SECONDS)
    match = ADDRESS.search("".join(printed))
    if not match:
        process.kill()
        pytest.fail("the server printed no address:\n" + "".join(printed))
    yield Server(f"http://127.0.0.1:{match.group(1)}", program.endswith(".mjs"))
    gone = process.poll() is not None
    process.terminate()
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
    if gone:
        sys.stderr.write("".join(printed))
        pytest.fail("the server ended during the tests")
