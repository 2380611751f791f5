"""`cdpgen archive` dies in the midst of a request to the store; another run makes the archive whole."""

from __future__ import annotations

import random
import re
import signal
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml

from cdp_runtime.archive import run
from cdp_runtime.dead_letter import FOLDER
from generated.stellar.v1.event_pb2 import Event
from tests.integration.stores import proxy
from tests.integration.stores.conftest import SERVERS, Archive
from tests.integration.stores.proxy import Proxy, Request
from tests.integration.stores.test_faults import behind

pytestmark = pytest.mark.timeout(60)

ROOT = Path(__file__).parents[3]
TABLE = "stellar.v1.Event"
MESSAGES = 9_000
CORRUPT_EVERY = 97
EVERYTHING = Counter(range(MESSAGES))
VALUE_BYTES = 4_000
FILE_ROWS = 3_000
"""Some 9 MB, so that such a file is an upload in parts; the last one is a single put."""


def is_corrupt(number: int) -> bool:
    return number % CORRUPT_EVERY == 0


def write_stream(path: Path, numbers: range) -> None:
    """Appends messages to a length-delimited file; one in `CORRUPT_EVERY` is none."""
    rng = random.Random(numbers.start)
    with path.open("ab") as file:
        for number in numbers:
            message = b"\x0f%d" % number
            if not is_corrupt(number):
                message = Event(id=str(number), value=rng.randbytes(VALUE_BYTES // 2).hex())
                message = message.SerializeToString()
            size = len(message)
            file.write(bytes([size]) if size < 0x80 else bytes([size & 0x7F | 0x80, size >> 7]))
            file.write(message)


def pipeline(folder: Path, archive: Archive) -> Path:
    """What archives `stream.pb` of a folder."""
    path = folder / "pipeline.yaml"
    text = {
        "destination": archive.url,
        "generated": str(ROOT / "generated"),
        "writer": {
            "max_file_rows": FILE_ROWS,
            "row_group_mb": 1,
            "compression": "none",
            "storage_options": archive.options,
        },
        "tables": {TABLE: {"source": "stream.pb"}},
    }
    path.write_text(yaml.safe_dump(text))
    return path


def start(path: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "cdpgen", "archive", str(path)]
    return subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def finished(path: Path) -> str:
    """Archives to the end; what it says of it."""
    process = start(path)
    said, _ = process.communicate(timeout=40)
    assert process.returncode == 0, said
    return said


def numbers_in(archive: Archive) -> Counter[int]:
    """The messages of an archive, rows and dead letters; each file is read whole."""
    found: Counter[int] = Counter()
    for name in archive.names():
        if not name.endswith(".parquet"):
            continue
        assert not name.startswith("_tmp/")
        with archive.filesystem.open(f"{archive.root}/{name}") as file:
            table = pq.read_table(file)
        if name.startswith(f"{FOLDER}/"):
            found.update(int(one[1:]) for one in table["payload"].to_pylist())
        else:
            found.update(map(int, table["id"].to_pylist()))
    return found


def publishes(request: Request) -> bool:
    """Whether a file appears when this request is done: a single one, or the last of an upload in parts."""
    if request.method == "PUT":
        single = "partNumber=" not in request.path and not request.span
    else:
        single = "uploadType=multipart" in request.path
    completed = request.method == "POST" and "uploadId=" in request.path
    return single or completed or re.search(r"-\d+/\d+$", request.span) is not None


def killed(path: Path, wall: Proxy, *, arrives: bool) -> None:
    """Archives until it publishes its first file; SIGKILL then, whether or not the request arrives."""
    once = threading.Lock()

    def choose(request: Request) -> str | None:
        if publishes(request) and once.acquire(blocking=False):
            process.send_signal(signal.SIGKILL)
            return "reset-after" if arrives else "reset"
        return None

    wall.choose = choose
    process = start(path)
    said, _ = process.communicate(timeout=40)
    assert process.returncode == -signal.SIGKILL, said
    wall.settle()


class TestArchiveCommand:
    @pytest.mark.parametrize("archive", SERVERS, indirect=True)
    def test_killed_before_and_after_a_file_appears_and_run_again_each_message_is_there_once(
        self, archive: Archive, tmp_path: Path
    ) -> None:
        write_stream(tmp_path / "stream.pb", range(MESSAGES))
        assert archive.server is not None
        with proxy.before(archive.server.endpoint) as wall:
            walled = behind(archive.server, wall, archive.root.partition("/")[2])
            path = pipeline(tmp_path, walled)
            for arrives in (False, True):
                killed(path, wall, arrives=arrives)
                there = numbers_in(archive)
                assert there <= EVERYTHING
        assert 0 < there.total() < MESSAGES
        said = finished(pipeline(tmp_path, archive))
        assert f"{there.total():,} messages were there already" in said
        assert numbers_in(archive) == EVERYTHING

    def test_what_a_stream_has_grown_by_is_added(self, archive: Archive, tmp_path: Path) -> None:
        path = pipeline(tmp_path, archive)
        for numbers in (range(300), range(300, 500), range(500, 500)):
            write_stream(tmp_path / "stream.pb", numbers)
            before = set(archive.names())
            assert run(str(path)) == 0
            assert numbers_in(archive) == Counter(range(numbers.stop))
            assert (set(archive.names()) > before) == (len(numbers) > 0)
