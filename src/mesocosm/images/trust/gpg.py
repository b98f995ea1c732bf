"""OpenPGP signatures, checked by the Sequoia library (the extra ``gpg``); no keyring of this host is read.

A key counts while it is valid now: one that has expired or was revoked signs nothing, whenever it signed.
The library asks whether it was valid at the time that the signature names, which is whatever its maker
wrote: whoever has an old subkey dates a new signature back.  So subkeys are judged here, too.
"""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Final

import msgspec

from mesocosm.errors import Corrupt, InvalidConfig, Unsupported
from mesocosm.images.foreign import shown
from mesocosm.images.trust import openpgp

if TYPE_CHECKING:
    from pysequoia import Cert, Decrypted, Sig
    from pysequoia.packet import Packet

KEY_LIMIT: Final = 1 << 20
"""The largest file of public keys, in bytes."""

_KEYS: Final = 64


class Opened(msgspec.Struct, frozen=True):
    """A message whose signature is good: its content, and the fingerprints of the keys that signed it."""

    content: bytes
    signers: tuple[str, ...]


class _Key(msgspec.Struct):
    """A key that may sign, or a subkey: until when, and whether it was revoked."""

    revoked: bool
    expires: datetime.datetime | None = None


class Keyring:
    """The public keys that a rule of the policy names."""

    def __init__(self, certificates: Sequence[Cert]) -> None:
        self._certificates = list(certificates)
        self._known: dict[str, _Key] = {}
        for one in certificates:
            self._known.update(_keys_of(one))

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
            plain = openpgp.unpacked(message)
        except Corrupt as error:
            return error.message
        try:
            return self._judged(sequoia.verify(bytes=plain, store=self._find))
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
        if found.revoked:
            return f"key {signer} was revoked"
        if found.expires is not None and found.expires <= datetime.datetime.now(datetime.UTC):
            return f"key {signer} expired on {found.expires:%Y-%m-%d}"
        return None

    def _judged(self, verified: Decrypted) -> Opened | str:
        signers = tuple(one.signing_key for one in verified.valid_sigs)
        refusals = [self.refusal(signer) for signer in signers]
        if None in refusals:
            return Opened(bytes(verified.bytes or b""), signers)
        return next((one for one in refusals if one is not None), "it holds no signature")

    def _find(self, _: Sequence[str]) -> list[Cert]:
        """Every key: the library finds out whose subkey made a signature."""
        return self._certificates


def _keys_of(certificate: Cert) -> dict[str, _Key]:
    """A certificate's keys by fingerprint.  What a subkey's newest binding says holds, and that no longer
    than for the certificate itself; any revocation of it holds for good.
    """
    from pysequoia.packet import PacketPile, SignatureType, Tag

    top = _Key(certificate.is_revoked, certificate.expiration)
    found = {certificate.fingerprint.lower(): top}
    key, made, bound = top, None, None
    for packet in PacketPile.from_bytes(bytes(certificate)):
        if packet.tag == Tag.PublicSubkey:
            key, made, bound = _Key(top.revoked, top.expires), packet.key_created, None
            found[(packet.fingerprint or "").lower()] = key
        elif packet.tag != Tag.Signature or key is top:
            continue
        elif packet.signature_type == SignatureType.SubkeyRevocation:
            key.revoked = True
        elif packet.signature_type == SignatureType.SubkeyBinding and _is_newer(packet, bound):
            bound = packet.signature_created
            key.expires = _earlier(top.expires, made, packet.key_validity_period)
    return found


def _is_newer(packet: Packet, than: datetime.datetime | None) -> bool:
    return than is None or (packet.signature_created is not None and packet.signature_created >= than)


def _earlier(
    end: datetime.datetime | None, made: datetime.datetime | None, life: datetime.timedelta | None
) -> datetime.datetime | None:
    """The earlier of an end and the end of a life; None where there is neither."""
    own = made + life if made is not None and life else None
    ends = [one for one in (end, own) if one is not None]
    return min(ends, default=None)


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
