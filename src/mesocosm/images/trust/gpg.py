"""OpenPGP signatures, checked by the Sequoia library (the extra ``gpg``); no keyring of this host is read.

A key counts while it is valid now: one that has expired or was revoked signs nothing, whenever it signed.
"""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Final

import msgspec

from mesocosm.errors import InvalidConfig, Unsupported
from mesocosm.images.foreign import shown

if TYPE_CHECKING:
    from pysequoia import Cert, Decrypted, Sig

KEY_LIMIT: Final = 1 << 20
"""The largest file of public keys, in bytes."""

_KEYS: Final = 64


class Opened(msgspec.Struct, frozen=True):
    """A message whose signature is good: its content, and the fingerprints of the keys that signed it."""

    content: bytes
    signers: tuple[str, ...]


class Keyring:
    """The public keys that a rule of the policy names."""

    def __init__(self, certificates: Sequence[Cert]) -> None:
        self._known = {one.fingerprint.lower(): one for one in certificates}

    @classmethod
    def load(cls, paths: Sequence[str]) -> Keyring:
        """Read keys, armoured or not, any number in each file; blocking.

        Raises InvalidConfig for a file that holds none, Unsupported where the library is missing.
        """
        return cls([key for path in paths for key in _load(Path(path))])

    def open_message(self, message: bytes) -> Opened | str:
        """Return the content of a signed message (``gpg --sign``), or why it counts for nothing."""
        sequoia = _library()
        try:
            return self._judged(sequoia.verify(bytes=message, store=self._find))
        except (RuntimeError, OSError, ValueError) as error:
            return _reason(error)

    def check_file(self, path: Path, signature: bytes) -> Opened | str:
        """As `open_message`, for a detached signature of a file, whose content is not returned."""
        sequoia = _library()
        try:
            made: Sig = sequoia.Sig.from_bytes(signature)
            return self._judged(sequoia.verify(file=str(path), store=self._find, signature=made))
        except (RuntimeError, OSError, ValueError) as error:
            return _reason(error)

    def refusal(self, signer: str) -> str | None:
        """Return why a key counts for nothing now; None when it counts."""
        found = self._known.get(signer.lower())
        if found is None:
            return f"key {shown(signer, 64)} is none of those that policy names"
        if found.is_revoked:
            return f"key {signer} was revoked"
        if found.expiration is not None and found.expiration <= datetime.datetime.now(datetime.UTC):
            return f"key {signer} expired on {found.expiration:%Y-%m-%d}"
        return None

    def _judged(self, verified: Decrypted) -> Opened | str:
        signers = tuple(one.certificate for one in verified.valid_sigs)
        refusals = [self.refusal(signer) for signer in signers]
        if None in refusals:
            return Opened(bytes(verified.bytes or b""), signers)
        return next((one for one in refusals if one is not None), "it holds no signature")

    def _find(self, _: Sequence[str]) -> list[Cert]:
        """Every key: the library finds out whose subkey made a signature."""
        return list(self._known.values())


def _load(path: Path) -> list[Cert]:
    sequoia = _library()
    try:
        with open(path, "rb") as file:
            data = file.read(KEY_LIMIT + 1)
        found = list(sequoia.Cert.split_bytes(data)) if len(data) <= KEY_LIMIT else []
    except OSError as error:
        raise InvalidConfig(f"key {path} cannot be read: {error.strerror}") from error
    except (RuntimeError, ValueError) as error:
        raise InvalidConfig(f"key {path} holds no OpenPGP keys: {_reason(error)}") from None
    if not 0 < len(found) <= _KEYS:
        raise InvalidConfig(f"key {path} holds no OpenPGP keys, or more than {_KEYS}")
    return found


def _reason(error: Exception) -> str:
    """The library's first line: what follows is a trace of its own calls."""
    return shown(str(error).partition("\n")[0], 160) or "it cannot be read"


def _library() -> ModuleType:
    try:
        import pysequoia
    except ImportError:
        raise Unsupported(
            "OpenPGP signatures cannot be checked: pysequoia is not installed",
            hint="pip install 'mesocosm[gpg]'",
        ) from None
    return pysequoia
