"""One look at an API server: what cannot be seen is noted, and the others go on."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from recommender.api.apiserver.connection import CONNECTION_ERRORS, ApiError, ApiServer
from vllm_rightsizer.doctor.facts import Raw
from vllm_rightsizer.errors import UserError


@dataclass
class Seen:
    """What was seen so far; the fields are those of `Facts`."""

    objects: dict[str, list[Raw]] = field(default_factory=dict)
    unseen: dict[str, str] = field(default_factory=dict)
    absent: set[str] = field(default_factory=set)


async def looked(server: ApiServer, seen: Seen, what: str, verb: str, look: Callable[[], Awaitable[None]]) -> None:
    """Note what cannot be looked at, and go on. Raises `UserError` where it is no use to go on."""
    try:
        await look()
    except ApiError as error:
        if error.status == 401:
            raise UserError(f"the API server {server.url} does not take the credentials: log in again") from error
        if error.status == 404:
            seen.absent.add(what)
        elif error.status == 403:
            seen.unseen[what] = f"you are not allowed to {verb}"
        else:
            seen.unseen[what] = f"the API server refuses to {verb}: {error}"
    except CONNECTION_ERRORS as error:
        if not seen.objects:
            raise unreachable(server, error) from error
        # It has answered before: one slow list says nothing of the others.
        seen.unseen[what] = f"the API server did not answer when asked to {verb}: {said_by(error)}"
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        if not seen.objects:
            raise UserError(
                f"what answers at {server.url} is no API server: name one with --kubeconfig and --context"
            ) from error
        seen.unseen[what] = f"the answer when asked to {verb} is not understood: {type(error).__name__}: {error}"


def unreachable(server: ApiServer, error: Exception) -> UserError:
    return UserError(
        f"the API server {server.url} cannot be reached ({said_by(error)}): see whether it runs, or name another one "
        "with --kubeconfig and --context"
    )


def said_by(error: Exception) -> str:
    """Of a request that ran out of time the type alone says something."""
    return str(error) or type(error).__name__
