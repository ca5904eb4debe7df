"""An object store that speaks S3, on this machine: shards of a run, and real data, by the driver that users have."""

from __future__ import annotations

import logging
import pickle
from collections.abc import Iterator
from pathlib import Path

import boto3
import pyarrow as pa
import pytest
from fault_server import serving
from moto.server import ThreadedMotoServer
from pyarrow import fs, parquet
from test_run import final_bytes
from test_server_runs import Dirs, server_config
from test_sharded import at_once, dirs, in_shards, in_this_process  # noqa: F401 (fixtures)
from tiny import tiny_rows

from gendistill import distill
from gendistill.config import DataConfig
from gendistill.data.load import load_real
from gendistill.engines.storage import Storage
from gendistill.errors import RunError
from gendistill.loop import Distilled


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    """An empty one."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            patch.setenv(name, "test")
        patch.setenv("AWS_REGION", "us-east-1")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        boto3.client("s3").create_bucket(Bucket="bucket")
        yield "s3://bucket"
    server.stop()


def test_shards_in_a_bucket(bucket: str, tmp_path: Path) -> None:
    storage = pickle.loads(pickle.dumps(Storage(f"{bucket}/run")))
    storage.check()
    table = pa.table({"a": list(range(10_000))})
    storage.write("round-1/x", table)
    assert storage.has("round-1/x") and not storage.has("round-1/y")
    assert storage.names("round-1") == {"x"} and storage.names("round-2") == set()
    assert storage.read("round-1/x", ["a"]).equals(table)
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "f").write_text("inside")
    storage.send(tmp_path, "teacher")
    assert (storage.bring("teacher") / "sub" / "f").read_text() == "inside"
    storage.drop("teacher")
    storage.drop("teacher")
    assert not storage.within("teacher").names("")


def test_what_fails_half_way_leaves_nothing(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(table: pa.Table, stream: pa.BufferOutputStream) -> None:
        stream.write(b"PAR1")
        raise MemoryError

    storage = Storage(f"{bucket}/other")
    monkeypatch.setattr("gendistill.engines.storage.write_parquet", fails)
    with pytest.raises(MemoryError):
        storage.write("x", pa.table({"a": [1]}))
    assert not storage.has("x")


def test_a_bucket_that_is_not_there(bucket: str) -> None:
    with pytest.raises(RunError, match=r"--storage s3://none/run: cannot be read or written .*none.*not found"):
        Storage("s3://none/run").check()


def test_a_folder_of_an_address_with_options() -> None:
    assert Storage("s3://b/run/?region=x").within("one").address == "s3://b/run/one?region=x"
    assert Storage("/tmp/run/").within("one").address == "/tmp/run/one"


def test_a_run_with_its_shards_in_a_bucket(bucket: str, tmp_path: Path, dirs: Dirs, at_once: Distilled) -> None:  # noqa: F811
    with serving(tmp_path) as server:
        config = server_config(tmp_path / "run", dirs, server.url, candidates=120)
        result = distill(in_shards(config, storage=f"{bucket}/shards"))
    ours, theirs = final_bytes(at_once.out), final_bytes(result.out)
    assert ours["distilled.jsonl"] == theirs["distilled.jsonl"]
    assert len(Storage(f"{bucket}/shards").names("round-1/features")) == 6
    assert not (result.out / "shards").exists()


def test_real_data_in_a_bucket(bucket: str) -> None:
    rows = tiny_rows(30, 3, seed=3)
    s3, _ = fs.FileSystem.from_uri(bucket)
    for number in range(3):
        with s3.open_output_stream(f"bucket/rows/part-{number}.parquet") as stream:
            parquet.write_table(pa.Table.from_pylist(rows[number::3]), stream)
    found = load_real(DataConfig(dataset=f"{bucket}/rows/*.parquet"), per_class=1, seed=0)
    texts = {example.text for part in (found.train, found.dev, found.test) for example in part or []}
    assert texts == {row["text"] for row in rows}
