"""The webhook's own certificates, and their next step. Pure: a Secret's data (or a folder's) in, and out.

An authority is renewed in three steps, so that no review is refused on the way: the coming one is published beside the
present one; when every API server knows both, the leaf moves; the leaving one stays published until it ends.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from cryptography import x509

from webhook.pairs import (
    Lifetimes,
    Pair,
    covers,
    hosts_of,
    is_fresh,
    new_authority,
    new_leaf,
    pem_of,
    read_bundle,
    read_pair,
    valid,
)

FILES = (
    *("ca.key", "coming-ca.key", "tls.key"),
    *("ca.crt", "coming-ca.crt", "leaving-ca.crt", "tls.crt"),
)
"""The names of all that there may be: keys before what is shown of them, the leaf last."""


@dataclass(frozen=True)
class Shared:
    """What the Secret holds, or a folder. Under `authority` the leaf is issued."""

    authority: Pair
    leaf: Pair
    coming: Pair | None = None
    leaving: tuple[x509.Certificate, ...] = ()

    @property
    def authorities(self) -> tuple[x509.Certificate, ...]:
        """What is to be published."""
        coming = (self.coming.certificate,) if self.coming is not None else ()
        return (self.authority.certificate, *coming, *self.leaving)

    def data(self) -> dict[str, bytes]:
        """By the names that Kubernetes gives to a serving certificate, and three more."""
        written = {
            "ca.crt": self.authority.certificate_pem,
            "ca.key": self.authority.key_pem,
            "tls.crt": self.leaf.certificate_pem,
            "tls.key": self.leaf.key_pem,
        }
        if self.coming is not None:
            written |= {"coming-ca.crt": self.coming.certificate_pem, "coming-ca.key": self.coming.key_pem}
        if self.leaving:
            written["leaving-ca.crt"] = pem_of(*self.leaving)
        return written


def read_shared(data: Mapping[str, bytes]) -> Shared | None:
    """What a Secret's data says; None where there is no whole authority and leaf in it."""
    authority = read_pair(data.get("ca.crt", b""), data.get("ca.key", b""))
    leaf = read_pair(data.get("tls.crt", b""), data.get("tls.key", b""))
    if authority is None or leaf is None:
        return None
    coming = read_pair(data.get("coming-ca.crt", b""), data.get("coming-ca.key", b""))
    return Shared(authority, leaf, coming, read_bundle(data.get("leaving-ca.crt", b"")))


def next_step(
    shared: Shared | None, hosts: Sequence[str], now: datetime, lifetimes: Lifetimes, *, coming_is_known: bool
) -> Shared:
    """What the Secret should hold now; `shared` itself where nothing is to be done.

    `coming_is_known`: every API server has seen the coming authority.
    """
    if shared is None or not valid(shared.authority.certificate, now):
        # Nothing that is served now would be accepted: there is nothing to be careful with.
        authority = new_authority(now, lifetimes)
        return Shared(authority, new_leaf(authority, hosts, now, lifetimes))
    left = shared.authority.certificate.not_valid_after_utc - now
    # A leaf more fits into what is left, and the time to its renewal.
    if shared.coming is None and left < lifetimes.leaf * 4 / 3:
        shared = replace(shared, coming=new_authority(now, lifetimes))
    elif shared.coming is not None and coming_is_known:
        shared = Shared(
            authority=shared.coming,
            leaf=new_leaf(shared.coming, hosts, now, lifetimes),
            leaving=(shared.authority.certificate, *shared.leaving),
        )
    leaving = tuple(certificate for certificate in shared.leaving if valid(certificate, now))
    if leaving != shared.leaving:
        shared = replace(shared, leaving=leaving)
    leaf = shared.leaf.certificate
    if not is_fresh(leaf, shared.authority.certificate, now):
        return replace(shared, leaf=new_leaf(shared.authority, hosts, now, lifetimes))
    if not covers(leaf, hosts):
        # Those of other replicas stay: two that take turns to write only their own would never end.
        together = tuple(dict.fromkeys((*hosts, *hosts_of(leaf))))
        return replace(shared, leaf=new_leaf(shared.authority, together, now, lifetimes))
    return shared
