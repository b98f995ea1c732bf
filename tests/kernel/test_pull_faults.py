"""Q-16, for whole pulls: every fault at every request of one, through the image store (G-06, G-07, G-08).

A pull from a registry with tokens asks six things: the manifest (refused), a token, the manifest, the
configuration and two layers.  Each is answered by each fault once.  Of an image in docker's schema 1 it asks
seven: there is no configuration, and the size of each layer comes first.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

import schema1_images
from crash import invariants
from malicious_registry import (
    Answer,
    Fault,
    MaliciousRegistry,
    change,
    end_early,
    flip_bit,
    headers,
    mute,
    redirect,
    reset,
    stall,
    status,
    truncate,
)
from mesocosm.errors import MesocosmError
from mesocosm.images.registry import client
from mesocosm.images.registry.limits import Limits
from provisions import image_of, new_id, opened, shown
from registry_fixtures import sha256
from tarballs import file

IMAGE = image_of([[file(b"one", bytes(range(256)) * 40)], [file(b"two", b"2" * 300)]])
DIFF_IDS = json.loads(IMAGE.config)["rootfs"]["diff_ids"]
PAYLOAD = schema1_images.payload_of(schema1_images.document_of(IMAGE))
OTHER = image_of([[file(b"one", b"another image's")], [file(b"two", b"3")]])
ALLOWED = 'allow-schema1 = ["127.0.0.1:*/**"]\n'
PATIENT = Limits(attempts=2, backoff=0.001, backoff_cap=0.01, retry_after=0.01, deadline=20)
IMPATIENT = Limits(
    connect=0.3, header=0.3, idle=0.3, min_rate=10_000, attempts=1, backoff=0.001, backoff_cap=0.01
)


def other_body(answer: Answer) -> Answer:
    """Bytes of another image, with the header of this one."""
    return replace(
        answer, body=OTHER.manifest if b"schemaVersion" in answer.body else b"x" * len(answer.body)
    )


FAULTS: dict[str, Fault] = {
    "reset": reset(),
    "silent": mute(),
    "stall": stall(10),
    "truncated": truncate(20),
    "ends early": end_early(20),
    "500": status(500),
    "503": status(503, body=b"<html>"),
    "429 for ages": status(429, {"Retry-After": "1000000000"}),
    "429 in the past": status(429, {"Retry-After": "Thu, 01 Jan 1970 00:00:00 GMT"}),
    "429 negative": status(429, {"Retry-After": "-5"}),
    "401": status(401),
    "403": status(403),
    "404": status(404),
    "empty": status(200),
    "not asked for": status(304),
    "wrong range": status(206, {"Content-Range": "bytes 5-9/10"}, b"12345"),
    "mad range": status(206, {"Content-Range": "bytes 9-5/0"}, b""),
    "bit flip": flip_bit(7),
    "other bytes": change(other_body),
    "other digest": headers(Docker_Content_Digest="sha256:" + "0" * 64),
    "other type": headers(Content_Type="text/html"),
    "nowhere": redirect("http://127.0.0.1:1/"),
    "in circles": redirect("/v2/a/b/manifests/latest"),
}


@pytest.mark.parametrize("requests", [6, 7], ids=["", "schema 1"])
@pytest.mark.parametrize("name", list(FAULTS))
async def test_q16_every_fault_at_every_request_of_a_pull(
    name: str, requests: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = name in ("silent", "stall")
    for index in range(requests):
        folder = tmp_path / str(index)
        folder.mkdir()
        async with MaliciousRegistry() as registry:
            registry.require_token()
            if requests == 7:
                schema1_images.serve(registry, IMAGE)
            else:
                registry.add(IMAGE, "a/b", "latest")
            registry.at(index, FAULTS[name])
            reference, at = f"{registry.host}/a/b", f"{name} at request {index}"
            monkeypatch.setattr(client, "Limits", lambda slow=slow: IMPATIENT if slow else PATIENT)
            await _pull_that_may_fail(folder, reference, at)
            assert slow or len(registry.seen) > index, f"{at}: never made"
            monkeypatch.undo()
            await _pull_that_works(folder, reference, at)


async def _pull_that_may_fail(folder: Path, reference: str, at: str) -> None:
    async with opened(folder, ALLOWED) as provisioner:
        try:
            pulled = await provisioner.pull(reference)
            assert [layer.diff_id for layer in pulled.layers] == DIFF_IDS, at
        except MesocosmError as error:
            assert "\n" not in str(error) and str(error).isprintable(), at
            assert await provisioner.images() == [], at
        assert invariants.broken(folder / "state/images") == [], at


async def _pull_that_works(folder: Path, reference: str, at: str) -> None:
    """The next one goes on, gives the right bytes, and leaves nothing unfinished."""
    async with opened(folder, ALLOWED) as provisioner:
        pulled = await provisioner.pull(reference)
        assert [layer.diff_id for layer in pulled.layers] == DIFF_IDS, at
        assert pulled.published in [sha256(data) for data in (IMAGE.manifest, PAYLOAD)], at
        assert (await provisioner.verify(reference)).sound, at
        container = new_id()
        provision = await provisioner.provision(container, reference, pull="never", scratch=folder / "s")
        with shown(provision.root, folder / "root") as root:
            assert (root / "one").read_bytes() == bytes(range(256)) * 40, at
            assert (root / "two").read_bytes() == b"2" * 300, at
        await provisioner.recover(set())
        assert list((folder / "state/images/ingest").iterdir()) == [], at
