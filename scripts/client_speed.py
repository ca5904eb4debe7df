"""How many calls a second the server generator makes, and whether its memory stays flat, journal included.

    python scripts/client_speed.py --requests 100000

Against the tests' own server, which answers at once; client and server share the machine. Prints calls a second, and
the client's memory along the way.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from fault_server import serving

from gendistill import Config
from gendistill.generators.base import Request
from gendistill.generators.server import ServerGenerator
from gendistill.store import Store

WORDS = "word " * 150  # a prompt of the length that four exemplars have


def requests(count: int) -> Iterator[Request]:
    for number in range(count):
        yield Request(f"r{number}", None, (("user", f"{WORDS}{number // 8}"),), number, 60, 0.9, 50, 0.95)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=100_000)
    count = parser.parse_args().requests
    process, done, sizes = psutil.Process(), 0, []
    with tempfile.TemporaryDirectory() as folder, serving(Path(folder) / "server", fast=True) as server:
        generator = ServerGenerator("m", [server.url], mode="chat", most_choices=1)
        with Store(Path(folder) / "run", Config()) as store:
            started = time.perf_counter()
            for replies in generator.arrivals(requests(count)):
                done += store.add_replies(replies)
                if done >= count // 10 * (len(sizes) + 1):
                    sizes.append(process.memory_info().rss / 2**20)
                    print(f"{done:>8,} replies journalled, {sizes[-1]:.0f} MB", flush=True)
            seconds = time.perf_counter() - started
    print(f"{done:,} calls in {seconds:.1f} s: {done / seconds:,.0f} a second; {generator.usage}")


if __name__ == "__main__":
    main()
