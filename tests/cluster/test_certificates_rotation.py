"""Certificates are renewed, authorities too, while pods are created; and no pod misses the plugin for it."""

from __future__ import annotations

import ssl
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography import x509

from bench.lab.control_plane import ControlPlane
from webhook.pairs import Pair, new_authority, new_leaf, read_bundle, verifies

from .replicas import Installation, Load, Replica

LEAF_SECONDS, AUTHORITY_SECONDS, SETTLING_SECONDS = 9.0, 24.0, 1.0
SHORT = (AUTHORITY_SECONDS, LEAF_SECONDS, SETTLING_SECONDS)


@pytest.fixture
def installation(
    request: pytest.FixtureRequest, crds: ControlPlane, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Installation]:
    name = request.node.name.replace("_", "-").removeprefix("test-")[:40].strip("-")
    made = Installation(crds, name, tmp_path_factory.mktemp(name))
    try:
        yield made
    finally:
        made.stop()


@dataclass
class Observer:
    """Somebody who looks at what is published, and at once makes a handshake with each replica."""

    installation: Installation
    replicas: list[Replica]
    authorities: list[bytes] = field(default_factory=list)
    bundles: list[tuple[float, bytes]] = field(default_factory=list)
    """With the moment before it was asked for."""
    leaves: set[x509.Certificate] = field(default_factory=set)
    faults: list[str] = field(default_factory=list)

    def look(self) -> None:
        authority = self.installation.secret()["ca.crt"]
        asked, bundle = time.monotonic(), self.installation.published()
        self.bundles.append((asked, bundle))
        if authority not in self.authorities:
            if self.authorities and self.authorities[-1] not in bundle:
                self.faults.append("an authority was withdrawn before the leaves of every replica had moved")
            self.authorities.append(authority)
        for replica in self.replicas:
            try:
                leaf = replica.presented(bundle)
            except ssl.SSLError as error:
                # Who takes longer than that may meet the leaf of an authority that came meanwhile.
                if time.monotonic() - asked < SETTLING_SECONDS:
                    self.faults.append(f"what was served did not verify under what was published: {error}")
                continue
            if leaf not in self.leaves and self.leaves and self._unknown_just_now(leaf):
                self.faults.append("a leaf was served before its authority was known everywhere")
            self.leaves.add(leaf)

    def _unknown_just_now(self, leaf: x509.Certificate) -> bool:
        """An API server that is behind by half of the time that is given to it would refuse `leaf`."""
        since = time.monotonic() - SETTLING_SECONDS / 2
        late = [read_bundle(bundle) for asked, bundle in self.bundles if asked > since]
        return not all(verifies(leaf, authorities, datetime.now(UTC)) for authorities in late)

    def renewals(self) -> int:
        """How many leaves the busiest authority has issued."""
        return max(Counter(leaf.issuer for leaf in self.leaves).values(), default=0)


def test_two_rotations_under_load(installation: Installation) -> None:
    replicas = [installation.start(times=SHORT), installation.start(times=SHORT)]
    installation.ready(*replicas)
    observer = Observer(installation, replicas)

    def rotated_twice() -> bool:
        """The authority; and the leaf, which lives shorter."""
        observer.look()
        return len(observer.authorities) >= 3 and observer.renewals() >= 2

    with Load(installation) as load:
        installation.plane.wait_for(rotated_twice, "second rotation")
        load.goes_on()
    assert observer.faults == []
    assert load.seen[False] == 0, load.seen
    assert observer.authorities[2] in installation.published()
    installation.plane.wait_for(
        lambda: observer.authorities[0] not in installation.published(), "end of what is not valid any longer"
    )


def test_replicas_that_start_together_make_one_authority(installation: Installation) -> None:
    """And make it anew where it was lost: a Helm upgrade that empties the caBundle, a Secret that somebody deletes."""
    replicas = [installation.start() for _ in range(2)]
    installation.ready(*replicas)
    _share_an_authority(installation, replicas)
    assert {replica.readiness() for replica in replicas} == {(200, "ok")}

    before = installation.published()
    installation.publish(b"")
    installation.plane.wait_for(lambda: installation.published() == before, "the caBundle")
    client = installation.plane.client
    client.delete(f"/api/v1/namespaces/{installation.name}/secrets/{installation.name}")
    installation.plane.wait_for(lambda: installation.published() not in (b"", before), "another authority")
    installation.plane.wait_for(lambda: all(_verifies(installation, one) for one in replicas), "leaf of it")
    installation.ready(*replicas)
    _share_an_authority(installation, replicas)


def _share_an_authority(installation: Installation, replicas: list[Replica]) -> None:
    assert len({replica.presented(installation.published()).serial_number for replica in replicas}) == 1
    assert installation.published() == installation.secret()["ca.crt"]


def _verifies(installation: Installation, replica: Replica) -> bool:
    """What the replica serves, under what is published at this moment."""
    try:
        replica.presented(installation.published())
    except ssl.SSLError:
        return False
    return True


def test_a_secret_that_was_made_empty_beforehand(installation: Installation) -> None:
    """So a chart may make it: then nobody needs the right to create Secrets. What it says besides stays."""
    client = installation.plane.client
    secrets = f"/api/v1/namespaces/{installation.name}/secrets"
    client.create(secrets, {"metadata": {"name": installation.name, "labels": {"by": "chart"}}, "data": {"x": "eA=="}})
    installation.ready(installation.start())
    secret = client.get(f"{secrets}/{installation.name}")
    assert secret["metadata"]["labels"] == {"by": "chart"}
    assert set(secret["data"]) == {"ca.crt", "ca.key", "tls.crt", "tls.key"}


def _mount(folder: Path, leaf: Pair) -> None:
    for name, content in (("tls.crt", leaf.certificate_pem), ("tls.key", leaf.key_pem)):
        (folder / name).write_bytes(content)


def test_certificates_of_cert_manager(installation: Installation, tmp_path: Path) -> None:
    """They are mounted, and published by its injector: here nothing is written, and readiness tells what is wrong."""
    now = datetime.now(UTC)
    authority, stranger = new_authority(now), new_authority(now)
    hosts = [f"{installation.name}.{installation.name}.svc"]
    replica: Replica = installation.start(tls_dir=tmp_path)
    waiting = installation.plane.wait_for
    waiting(lambda: replica.readiness()[0] == 503 and "cannot be used" in replica.readiness()[1], "complaint")
    first, second = (new_leaf(authority, hosts, now) for _ in range(2))
    _mount(tmp_path, first)
    waiting(lambda: "does not verify under the published caBundle" in replica.readiness()[1], "complaint")
    installation.publish(authority.certificate_pem)
    installation.ready(replica)
    assert replica.presented() == first.certificate
    _mount(tmp_path, second)
    waiting(lambda: replica.presented(authority.certificate_pem) == second.certificate, "new certificate")
    _mount(tmp_path, new_leaf(stranger, hosts, now))
    waiting(lambda: replica.readiness()[0] == 503, "unreadiness")
    assert installation.published() == authority.certificate_pem


def test_a_bundle_that_may_not_be_written(installation: Installation) -> None:
    """Readiness tells what is missing, and by whom; somebody who publishes the authority instead is enough."""
    plane = installation.plane
    rules = [
        {"apiGroups": ["*"], "resources": ["*"], "verbs": ["get", "list", "watch"]},
        {"apiGroups": [""], "resources": ["secrets"], "verbs": ["create", "patch"]},
    ]
    rbac = "/apis/rbac.authorization.k8s.io/v1"
    plane.client.create(f"{rbac}/clusterroles", {"metadata": {"name": "no-publisher"}, "rules": rules})
    plane.client.create(
        f"{rbac}/clusterrolebindings",
        {
            "metadata": {"name": "no-publisher"},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "no-publisher"},
            "subjects": [{"kind": "User", "name": "no-publisher", "apiGroup": "rbac.authorization.k8s.io"}],
        },
    )
    replica = installation.start(kubeconfig=plane.kubeconfig_of("no-publisher", plane.user("no-publisher")))
    plane.wait_for(
        lambda: 'User "no-publisher" cannot patch resource "mutatingwebhookconfigurations"' in replica.readiness()[1],
        "complaint",
    )
    installation.publish(installation.secret()["ca.crt"])
    installation.ready(replica)
