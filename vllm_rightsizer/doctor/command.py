"""`vllm-rightsizer doctor`: look once, say what is wrong, and how it is mended."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from recommender.api.apiserver.connection import ApiServer, CredentialsError
from vllm_rightsizer.doctor import bundle
from vllm_rightsizer.doctor.checks import CHECKS
from vllm_rightsizer.doctor.findings import Finding, diagnosed
from vllm_rightsizer.doctor.gathering import gather
from vllm_rightsizer.doctor.options import Diagnosis
from vllm_rightsizer.doctor.report import as_text, documents
from vllm_rightsizer.errors import UserError
from vllm_rightsizer.kubeconfigs import access
from vllm_rightsizer.output import write_document, write_out
from vllm_rightsizer.reading_options import Color
from vllm_rightsizer.tables import Paper


def run_doctor(
    kubeconfig: Path | None,
    context: str | None,
    namespace: str | None,
    bundle_file: Path | None,
    output: Diagnosis,
    color: Color,
) -> int:
    """The exit code: 0 where nothing was found, else 1. Raises `UserError` where the cluster cannot be looked at."""
    way = access(kubeconfig, context)
    try:
        findings = asyncio.run(_examined(way.kubeconfig, way.context, namespace, bundle_file))
    except CredentialsError as error:
        raise UserError(str(error)) from error
    if output is Diagnosis.TABLE:
        paper = Paper.of(color)
        write_out(as_text(findings, colours=paper.colors is not None, width=paper.width))
    else:
        write_document({"findings": documents(findings)}, as_yaml=output is Diagnosis.YAML)
    if bundle_file is not None:
        print(f"{bundle_file} is written; what is not in it stands in its LEFT-OUT.txt", file=sys.stderr)
    return 1 if findings else 0


async def _examined(
    kubeconfig: Path | None, context: str | None, namespace: str | None, bundle_file: Path | None
) -> list[Finding]:
    server = await ApiServer.connect(kubeconfig, context)
    try:
        facts = await gather(server, namespace)
        findings = diagnosed(facts, CHECKS)
        if bundle_file is not None:
            fetched = await bundle.logs_and_events(server, facts)
            bundle.write(bundle_file, bundle.contents(facts, findings, fetched))
    finally:
        await server.close()
    return findings
