"""The edits that give a container its chosen sizes."""

from __future__ import annotations

from collections.abc import Sequence

from webhook.argv import rewrite
from webhook.detection import Engine
from webhook.injection import remove_variables, set_variable
from webhook.patches import Patch
from webhook.sizes import OVERRIDES, Sizes


def write_sizes(engine: Engine, patch: Patch, sizes: Sizes, previous: Sequence[str]) -> None:
    """Add to `patch` what gives `engine` its sizes; whatever an earlier pass wrote in another form goes.

    `previous`: what that pass wrote, as recorded.
    """
    earlier_flags = [item for item in previous if item.startswith("--")]
    if engine.launch.start is not None:
        wanted = rewrite(
            engine.arguments,
            engine.launch.start,
            sizes.flags,
            earlier_flags,
            behind_separator=engine.launch.behind_separator,
        )
        for key, now, before in (
            ("command", wanted.command, engine.arguments.command),
            ("args", wanted.args, engine.arguments.args),
        ):
            if now != before:
                patch.splice((*engine.path, key), now)
    for name, value in sizes.environment:
        set_variable(engine, patch, name, value)
    names = {name for name, _ in sizes.environment}
    if previous or sizes != Sizes():
        # Also the author's own: it would beat the flags in process, or hold beside what is written here.
        remove_variables(engine, patch, [name for name in OVERRIDES if name not in names])
