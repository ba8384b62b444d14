"""Admission without a server: one review in, one review out."""

from __future__ import annotations

import json
from pathlib import Path

from recommender.api.object_store import FileObjectStore
from webhook.admission import admit
from webhook.knowledge import Knowledge, KnowledgeReader
from webhook.reviews import parse_review
from webhook.settings import InjectionSettings


def admit_json(body: bytes, objects: Path | None, settings: InjectionSettings | None = None) -> bytes:
    """Answer the AdmissionReview in `body` as the webhook would that knows the objects in the folder `objects`.

    Raises `NoReviewError` (a ValueError) with a clear sentence where `body` holds no review, and ValueError where
    `objects` is no folder.
    """
    review = parse_review(body)
    if objects is not None and not objects.is_dir():
        raise ValueError(f"{objects} is no folder of objects")
    knowledge = Knowledge() if objects is None else KnowledgeReader(FileObjectStore(objects)).read()
    return json.dumps(admit(review, knowledge, settings or InjectionSettings())).encode()
