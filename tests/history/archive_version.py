"""Archives messages with one version's own generated code; run in a process of its own for each version.

    python archive_version.py GENERATED MESSAGES.ndjson ARCHIVE

The messages are objects of that version's generated class. Their bytes go to standard output, hex, a line each.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from google.protobuf import json_format

from cdp_runtime.archive import load_tables


def main(generated: str, messages: str, archive: str) -> None:
    writer_class = load_tables(generated)["shop.v1.Order"]
    message_class = writer_class.message_type()
    with writer_class(archive) as writer:
        for line in Path(messages).read_text("utf-8").splitlines():
            record = json.loads(line)
            message = json_format.ParseDict(record, message_class())
            writer.write(message, source=generated, position=int(record["number"]))
            print(message.SerializeToString().hex())


main(*sys.argv[1:])
