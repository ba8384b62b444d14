"""Certificates are made once, kept while good, and renewed in time; an authority's renewal leaves no gap."""

from __future__ import annotations

import contextlib
import ssl
import stat
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from webhook.certificates import ensure_certificates
from webhook.pairs import LIFETIMES, Lifetimes, Pair, hosts_of, new_authority, new_leaf, pem_of, read_bundle, verifies
from webhook.rotation import Shared, next_step, read_shared
from webhook.serving import Served

NOW = datetime(2026, 5, 1, tzinfo=UTC)


def _leaf(folder: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate((folder / "tls.crt").read_bytes())


def test_new_certificates(tmp_path: Path) -> None:
    files = ensure_certificates(tmp_path / "tls", ["webhook.example.svc", "10.0.0.7"], NOW)
    assert files.expires == NOW + LIFETIMES.leaf
    leaf = _leaf(files.folder)
    authority = x509.load_pem_x509_certificate(files.ca.read_bytes())
    leaf.verify_directly_issued_by(authority)
    assert authority.not_valid_after_utc == NOW + LIFETIMES.authority
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["webhook.example.svc", "localhost"]
    assert [str(address) for address in names.get_values_for_type(x509.IPAddress)] == ["10.0.0.7", "127.0.0.1"]
    for name in ("tls.key", "ca.key"):
        assert stat.S_IMODE((files.folder / name).stat().st_mode) == 0o600
    ssl.create_default_context(ssl.Purpose.CLIENT_AUTH).load_cert_chain(files.certificate, files.key)
    # API servers whose clock is five minutes behind still accept it.
    assert leaf.not_valid_before_utc <= NOW - timedelta(minutes=5)


def test_good_ones_are_kept(tmp_path: Path) -> None:
    ensure_certificates(tmp_path, now=NOW)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    ensure_certificates(tmp_path, now=NOW + timedelta(days=59))
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize(
    ("later", "hosts", "same_authority"),
    [
        (timedelta(days=61), (), True),
        (timedelta(days=1), ("another.host",), True),
        (LIFETIMES.authority, (), False),
        # The clock was wrong: what it made is not valid yet.
        (timedelta(days=-1), (), False),
    ],
)
def test_renewed(tmp_path: Path, later: timedelta, hosts: tuple[str, ...], same_authority: bool) -> None:
    ensure_certificates(tmp_path, now=NOW)
    authority, leaf = (tmp_path / "ca.crt").read_bytes(), (tmp_path / "tls.crt").read_bytes()
    files = ensure_certificates(tmp_path, hosts, NOW + later)
    assert (tmp_path / "tls.crt").read_bytes() != leaf
    assert ((tmp_path / "ca.crt").read_bytes() == authority) is same_authority
    assert files.expires == NOW + later + LIFETIMES.leaf


def test_an_authority_in_a_folder_is_renewed_without_a_gap(tmp_path: Path) -> None:
    """Whoever took the `ca.crt` before a step, and whoever takes it after, believes what is served on both sides."""
    ensure_certificates(tmp_path, now=NOW)
    now = NOW + LIFETIMES.authority - timedelta(days=119)
    steps = [(_leaf(tmp_path), read_bundle((tmp_path / "ca.crt").read_bytes()))]
    for later in (timedelta(0), timedelta(minutes=4), timedelta(minutes=6), timedelta(days=1)):
        ensure_certificates(tmp_path, now=now + later)
        steps.append((_leaf(tmp_path), read_bundle((tmp_path / "ca.crt").read_bytes())))
    assert [len(bundle) for _, bundle in steps] == [1, 2, 2, 2, 2]
    first, waiting, moved = steps[0][1], steps[2], steps[3]
    assert verifies(waiting[0], first, now), "the leaf waits until callers know the coming authority"
    assert not verifies(moved[0], first, now)
    for (old_leaf, old), (new_leaf_, new) in pairwise(steps[1:]):
        for leaf, bundle in ((old_leaf, new), (new_leaf_, old)):
            assert verifies(leaf, bundle, now)
    ensure_certificates(tmp_path, now=NOW + LIFETIMES.authority + timedelta(seconds=1))
    assert {path.name for path in tmp_path.iterdir()} == {"ca.crt", "ca.key", "tls.crt", "tls.key"}


@pytest.mark.parametrize("name", ["tls.crt", "tls.key", "ca.crt", "ca.key"])
@pytest.mark.parametrize("content", [None, b"", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"])
def test_damaged_files_are_made_anew(tmp_path: Path, name: str, content: bytes | None) -> None:
    ensure_certificates(tmp_path, now=NOW)
    if content is None:
        (tmp_path / name).unlink()
    else:
        (tmp_path / name).write_bytes(content)
    files = ensure_certificates(tmp_path, now=NOW)
    _leaf(tmp_path).verify_directly_issued_by(x509.load_pem_x509_certificate(files.ca.read_bytes()))
    ssl.create_default_context(ssl.Purpose.CLIENT_AUTH).load_cert_chain(files.certificate, files.key)


HOSTS = ("webhook.example.svc", "localhost")


def _step(shared: Shared | None, now: datetime, *, known: bool = False) -> Shared:
    return next_step(shared, HOSTS, now, LIFETIMES, coming_is_known=known)


def test_the_first_step_and_none_while_all_is_good() -> None:
    first = _step(None, NOW)
    assert verifies(first.leaf.certificate, first.authorities, NOW)
    assert first.leaf.certificate.not_valid_after_utc == NOW + timedelta(days=90)
    for days in (0, 1, 59):
        assert _step(first, NOW + timedelta(days=days)) is first


def test_a_leaf_is_renewed_at_a_third() -> None:
    first = _step(None, NOW)
    renewed = _step(first, NOW + timedelta(days=61))
    assert renewed.authority == first.authority
    assert renewed.leaf.certificate.not_valid_after_utc == NOW + timedelta(days=151)
    assert renewed.leaf.certificate.public_key() != first.leaf.certificate.public_key()


@pytest.mark.parametrize("skew", [timedelta(minutes=-5), timedelta(minutes=5)])
def test_clocks_may_differ_by_five_minutes(skew: timedelta) -> None:
    """New certificates are good for an API server whose clock is behind, and old ones for one that is ahead."""
    shared = _step(None, NOW)
    assert verifies(shared.leaf.certificate, shared.authorities, NOW + skew)
    last_moment = NOW + timedelta(days=60, minutes=1)
    assert verifies(shared.leaf.certificate, shared.authorities, last_moment + skew)
    assert _step(shared, last_moment) is not shared


def test_an_authority_is_renewed_without_a_gap() -> None:
    """At each step whatever is served, the old leaf too, verifies under what is published, the old bundle too."""
    shared = _step(None, NOW)
    end = shared.authority.certificate.not_valid_after_utc
    first_authority = shared.authority.certificate
    now = end - timedelta(days=121)
    shared = _step(shared, now)
    assert shared.coming is None

    now = end - timedelta(days=119)
    announced = _step(shared, now)
    assert announced.coming is not None
    assert announced.authorities == (first_authority, announced.coming.certificate)
    assert announced.leaf == shared.leaf
    assert _step(announced, now + timedelta(days=1)) is announced, "the leaf waits until everybody knows the new one"

    moved = _step(announced, now + timedelta(days=1), known=True)
    assert moved.authority == announced.coming
    assert moved.coming is None
    assert moved.leaving == (first_authority,)
    for leaf, published in (
        (announced.leaf, announced),
        (announced.leaf, moved),
        (moved.leaf, announced),
        (moved.leaf, moved),
    ):
        assert verifies(leaf.certificate, published.authorities, now + timedelta(days=1))

    ended = _step(moved, end + timedelta(seconds=1))
    assert ended.leaving == ()
    assert ended.authorities == (moved.authority.certificate,)


def test_a_leaf_ends_no_later_than_its_authority() -> None:
    """Where nobody can publish, it is renewed to the last, but not over and over."""
    shared = _step(None, NOW)
    end = shared.authority.certificate.not_valid_after_utc
    steps = 0
    now = end - timedelta(days=130)
    while now < end:
        following = _step(shared, now)
        steps += following is not shared
        shared = following
        assert verifies(shared.leaf.certificate, shared.authorities, now)
        assert shared.leaf.certificate.not_valid_after_utc <= end
        now += timedelta(hours=6)
    assert steps < 15
    anew = _step(shared, end)
    assert anew.authority != shared.authority
    assert verifies(anew.leaf.certificate, anew.authorities, end)


def test_replicas_of_different_hosts_agree() -> None:
    """Each adds its own, and leaves those of the others."""
    ours, theirs = ("webhook.example.svc", "10.0.0.7"), ("webhook.example.svc", "2001:db8::7")
    shared = next_step(None, ours, NOW, LIFETIMES, coming_is_known=False)
    shared = next_step(shared, theirs, NOW, LIFETIMES, coming_is_known=False)
    assert set(hosts_of(shared.leaf.certificate)) == {*ours, *theirs}
    for hosts in (ours, theirs):
        assert next_step(shared, hosts, NOW, LIFETIMES, coming_is_known=False) is shared


def test_an_address_may_be_spelt_in_any_way() -> None:
    """Else each step would make another leaf, for ever."""
    hosts = ("webhook.example.svc", "2001:DB8:0::7")
    shared = next_step(None, hosts, NOW, LIFETIMES, coming_is_known=False)
    assert next_step(shared, hosts, NOW, LIFETIMES, coming_is_known=False) is shared


def test_the_secret_gives_back_what_it_was_given() -> None:
    shared = _step(None, NOW)
    announced = _step(shared, NOW + LIFETIMES.authority - timedelta(days=100))
    moved = _step(announced, NOW + LIFETIMES.authority - timedelta(days=99), known=True)
    for state in (shared, announced, moved):
        read = read_shared(state.data())
        assert read is not None
        assert read.data() == state.data()


@pytest.mark.parametrize("name", ["ca.crt", "ca.key", "tls.crt", "tls.key"])
@pytest.mark.parametrize("content", [b"", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"])
def test_a_secret_that_holds_no_certificates(name: str, content: bytes) -> None:
    assert read_shared({}) is None
    assert read_shared({**_step(None, NOW).data(), name: content}) is None


def test_a_leaf_of_another_authority_is_not_accepted() -> None:
    ours, other = new_authority(NOW), new_authority(NOW)
    leaf = new_leaf(ours, HOSTS, NOW).certificate
    assert verifies(leaf, [other.certificate, ours.certificate], NOW)
    assert not verifies(leaf, [other.certificate], NOW)
    assert not verifies(leaf, [], NOW)
    assert not verifies(leaf, [ours.certificate], NOW + timedelta(days=91))


def _authority(name: str, issuer: Pair | None = None, key: ec.EllipticCurvePrivateKey | None = None) -> Pair:
    """Issued by itself, or by `issuer`."""
    own = key or ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    builder = x509.CertificateBuilder(
        issuer.certificate.subject if issuer else subject,
        subject,
        own.public_key(),
        x509.random_serial_number(),
        NOW - timedelta(days=1),
        NOW + timedelta(days=365),
    )
    identifier = x509.SubjectKeyIdentifier.from_public_key(own.public_key())
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    signed = builder.add_extension(identifier, critical=False).sign(issuer.key if issuer else own, hashes.SHA256())
    return Pair(signed, own)


def test_authorities_between_lead_to_one_that_is_known() -> None:
    root, other = _authority("root"), _authority("other")
    first = _authority("first", root)
    last = _authority("last", first)
    between = [first.certificate, last.certificate]
    leaf = new_leaf(last, HOSTS, NOW).certificate
    assert verifies(leaf, [root.certificate], NOW, between)
    assert verifies(leaf, [root.certificate], NOW, between[::-1])
    # Callers may know one between alone.
    assert verifies(leaf, [last.certificate], NOW)
    assert not verifies(leaf, [root.certificate], NOW)
    assert not verifies(leaf, [root.certificate], NOW, between[1:])
    assert not verifies(leaf, [other.certificate], NOW, between)
    # Two that have issued each other lead nowhere.
    round_about = _authority("first", last, first.key).certificate
    assert not verifies(leaf, [other.certificate], NOW, [round_about, last.certificate])
    outlived = NOW + timedelta(days=366)
    assert not verifies(last.certificate, [root.certificate], outlived, between)


def test_a_new_certificate_is_served_from_the_next_handshake_on() -> None:
    served = Served()
    assert served.expires != served.expires
    assert served.begins != served.begins
    now = datetime.now(UTC)
    for _ in range(2):
        authority = new_authority(now, Lifetimes())
        leaf = new_leaf(authority, HOSTS, now)
        served.load(leaf.certificate_pem, leaf.key_pem)
        assert served.begins == leaf.certificate.not_valid_before_utc.timestamp()
        assert served.expires == leaf.certificate.not_valid_after_utc.timestamp()
        assert _presented(served.context, pem_of(authority.certificate)) == leaf.certificate
    with pytest.raises(ValueError, match="no certificate"):
        served.load(b"", b"")
    assert served.certificate == leaf.certificate


def test_a_key_of_another_kind_takes_the_place_of_the_one_before() -> None:
    """cert-manager's keys are RSA by default; OpenSSL would keep both certificates, and clients would choose."""
    served = Served()
    now = datetime.now(UTC)
    for kind in (rsa, ec, rsa):
        key = rsa.generate_private_key(65537, 2048) if kind is rsa else ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, HOSTS[0])])
        builder = x509.CertificateBuilder(
            name, name, key.public_key(), 1, now - timedelta(days=1), now + LIFETIMES.leaf
        )
        names = x509.SubjectAlternativeName([x509.DNSName(HOSTS[0])])
        leaf = builder.add_extension(names, critical=False).sign(key, hashes.SHA256())
        key_pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        served.load(pem_of(leaf), key_pem)
        assert _presented(served.context, pem_of(leaf)) == leaf


def _presented(server: ssl.SSLContext, trusted: bytes) -> x509.Certificate:
    """What a client that trusts `trusted` is shown, in a handshake without a network."""
    client = ssl.create_default_context(cadata=trusted.decode())
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = (
        client.wrap_bio(to_client, to_server, server_hostname=HOSTS[0]),
        server.wrap_bio(to_server, to_client, server_side=True),
    )
    for _ in range(3):
        for end in ends:
            with contextlib.suppress(ssl.SSLWantReadError):
                end.do_handshake()
    return x509.load_der_x509_certificate(ends[0].getpeercert(binary_form=True) or b"")
