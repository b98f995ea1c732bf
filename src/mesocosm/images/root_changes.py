"""Changes to a root that outlive their container, in a directory of the user's.

    PATH/upper  PATH/work    overlayfs' own
    PATH/base.json           the image that they are changes to: an overlay's upper layer fits one stack only
    PATH/holder.json         the container that has them
    PATH/lock                held while the two files are looked at or written

They belong to one container at a time: overlayfs lets two mounts have one upper layer and calls the result
undefined.  A holder is believed as long as its own scratch directory exists, in the boot in which it was
written: that directory is made with a container, and goes after its last process, whoever ends it.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import TypeVar

import msgspec

from mesocosm import durable
from mesocosm.errors import Busy, Corrupt, InvalidConfig, NotFound, WrongState
from mesocosm.images.image import ImageRecord
from mesocosm.linux.processes import boot_id
from mesocosm.model import RootChanges
from mesocosm.model.idmap import IDMap

_OURS = {"upper", "work", "base.json", "holder.json", "lock"}
_OVERLAYS = ("upper", "work")
_FRESH = {"lost+found"}  # what mkfs.ext4 leaves in an empty file system


_Kept = TypeVar("_Kept", "Base", "Holder")


class Base(msgspec.Struct, frozen=True, kw_only=True):
    """The image that changes were made to: the stack's chain ID, the manifest's digest, its name then.

    ``idmap`` is the mapping that their owners are written by: an upper layer has the host's IDs.
    """

    chain_id: str
    digest: str
    reference: str
    idmap: IDMap | None = None
    version: int = 1


class Holder(msgspec.Struct, frozen=True, kw_only=True):
    """The container that has the changes, and the ``scratch`` directory that stands for its life."""

    container: str
    scratch: str
    boot_id: str
    version: int = 1


def check(changes: RootChanges, image: ImageRecord, idmap: IDMap | None = None) -> None:
    """Raise what `claim` would for these changes on this image, and change nothing; blocking."""
    path = Path(changes.path)
    if path.exists() or path.is_symlink():
        _check_directory(path)
        _check_base(path, image, changes)
        _check_owners(path, idmap)


def claim(
    changes: RootChanges,
    image: ImageRecord,
    idmap: IDMap | None,
    reference: str,
    container: str,
    scratch: Path,
) -> None:
    """Have the directory for a container whose ``scratch`` directory exists; blocking.

    Raises Busy while another container has it, WrongState for changes to another image unless they are to be
    rebased and for changes with other owners, InvalidConfig for a directory that has something else in it.
    """
    path = Path(changes.path)
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    _check_directory(path)
    path.chmod(0o700)  # the image's set-user-ID programs are nobody else's
    with durable.locked(path / "lock"):
        _check_free(path, container)
        _check_base(path, image, changes)
        _check_owners(path, idmap)
        holder = Holder(container=container, scratch=str(scratch), boot_id=boot_id())
        durable.write(path / "holder.json", msgspec.json.encode(holder))
        base = Base(chain_id=str(image.chain_id), digest=image.digest, reference=reference, idmap=idmap)
        durable.write(path / "base.json", msgspec.json.encode(base))


def kept_for(path: Path, container: str) -> Base:
    """What the changes of an ended container were made to; blocking.

    Raises NotFound when they are gone, WrongState when another container has had them since.
    """
    holder, base = _read(path / "holder.json", Holder), _read(path / "base.json", Base)
    if base is None or not (path / "upper").exists():
        raise NotFound(f"there are no root changes in {path} any more")
    if holder is None or holder.container != container:
        raise WrongState(
            f"the root changes in {path} are not those of container {container} any more",
            hint=f"container {holder.container} has gone on with them" if holder else None,
        )
    _check_directory(path)
    return base


def _check_directory(path: Path) -> None:
    found = path.lstat()
    if not stat.S_ISDIR(found.st_mode):
        raise InvalidConfig(f"root changes cannot be kept in {path}: it is not a directory")
    if found.st_uid != os.geteuid():
        raise InvalidConfig(
            f"root changes cannot be kept in {path}: it belongs to user {found.st_uid}",
            hint="what is in it becomes the container's root; give a directory of your own",
        )
    for name in _OVERLAYS:
        _check_layer(path / name)
    strange = set(os.listdir(path)) - _OURS - _FRESH  # noqa: PTH208
    if strange and not (path / "base.json").exists():
        raise InvalidConfig(
            f"root changes cannot be kept in {path}: it has other files in it",
            hint="give an empty directory, or one that does not exist yet",
        )


def _check_layer(path: Path) -> None:
    """A link there would make changes to whatever it leads to."""
    try:
        found = path.lstat()
    except FileNotFoundError:
        return
    if not stat.S_ISDIR(found.st_mode):
        raise InvalidConfig(
            f"root changes cannot be kept: {path} is not a directory",
            hint="give an empty directory, or one that kept a root's changes before",
        )


def _check_free(path: Path, container: str) -> None:
    holder = _read(path / "holder.json", Holder)
    if holder is None or holder.container == container or holder.boot_id != boot_id():
        return
    if Path(holder.scratch).exists():
        raise Busy(
            f"the root changes in {path} belong to container {holder.container}",
            hint="one container has them at a time; end that one first",
        )


def _check_base(path: Path, image: ImageRecord, changes: RootChanges) -> None:
    base = _read(path / "base.json", Base)
    if base is None or changes.rebase or base.chain_id == str(image.chain_id):
        return
    raise WrongState(
        f"the root changes in {path} were made to image {base.reference} ({base.digest}), "
        f"not to {image.digest}",
        hint="run that image, give another directory, or allow a rebase to lay them over this one",
    )


def _check_owners(path: Path, idmap: IDMap | None) -> None:
    """Files of one mapping are strangers' in another, and root's without one."""
    base = _read(path / "base.json", Base)
    if base is None or base.idmap == idmap:
        return
    then = "without an idmap" if base.idmap is None else f"with the idmap {base.idmap.describe()}"
    raise WrongState(
        f"the root changes in {path} were made {then}: their files would be somebody else's",
        hint="give the same idmap, or another directory",
    )


def _read(path: Path, kind: type[_Kept]) -> _Kept | None:
    try:
        return msgspec.json.decode(durable.read(path), type=kind)
    except FileNotFoundError:
        return None
    except (Corrupt, msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise Corrupt(
            f"{path} cannot be read", hint="remove the file if its directory may be used"
        ) from error
