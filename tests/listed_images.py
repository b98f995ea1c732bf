"""Two images that share a layer, as listings get them."""

from __future__ import annotations

import msgspec

from mesocosm.images.image import Image, Layer
from mesocosm.images.inspection import LayerUse, Usage
from mesocosm.model import ImageRuntime

NOW = 1_704_067_200.0 + 3 * 86400  # three days into 2024
BASE, TOP, OWN = ("sha256:" + digit * 64 for digit in "123")


def layers(*diff_ids: str) -> tuple[Layer, ...]:
    return tuple(Layer(diff_id=one, digest=one, size=1, media_type="m") for one in diff_ids)


APP = Image(
    references=("docker://docker.io/library/app:1",),
    digest="sha256:" + "a" * 64,
    image_id="sha256:" + "b" * 64,
    platform="linux/amd64",
    size=3 << 20,
    created="2024-01-01T00:00:00Z",
    pulled_at=NOW,
    last_used=NOW,
    checked_at=NOW,
    layers=layers(BASE, TOP),
    runtime=ImageRuntime(),
    source="s",
    in_use=("0123456789abcdef",),
    pinned=True,
)
OTHER = msgspec.structs.replace(
    APP,
    references=(),
    digest="sha256:" + "c" * 64,
    size=2 << 20,
    layers=layers(BASE, OWN),
    in_use=(),
    pinned=False,
)
USAGE = Usage(
    layers=(3 << 20) + (1 << 19),
    blobs=1 << 20,
    shared=2 << 20,
    reclaimable=0,
    images=(APP, OTHER),
    by_layer=(
        LayerUse(
            diff_id=BASE, forms=("erofs",), size=2 << 20, images=(APP.digest, OTHER.digest), mounted=True
        ),
        LayerUse(diff_id=TOP, forms=("erofs", "tree"), size=1 << 20, images=(APP.digest,), mounted=False),
    ),
)
