"""Made-up requests, each with how many may run beside it."""

from __future__ import annotations

import random
from collections.abc import Hashable

from hypothesis import strategies as st

from .replay import BLOCK_TOKENS, Job, Replay

CONTENT = st.lists(st.integers(0, 2), min_size=1, max_size=5).map(tuple)


@st.composite
def scripts(draw: st.DrawFn) -> list[tuple[Job, int]]:
    """Short requests, some of which go on where an earlier one ended, each with how many may run beside it."""
    script: list[tuple[Job, int]] = []
    for index in range(draw(st.integers(1, 40))):
        prompt: tuple[Hashable, ...] = draw(CONTENT)
        if script and draw(st.booleans()):
            earlier = draw(st.sampled_from(script))[0]
            prompt = (*earlier.prompt, *earlier.output, *prompt)[:6]
        output = tuple((index, block) for block in range(draw(st.integers(0, 2))))
        job = Job(prompt, draw(st.integers(1, BLOCK_TOKENS - 1)), output, draw(st.integers(0, BLOCK_TOKENS - 1)))
        script.append((job, draw(st.integers(0, 2))))
    return script


def play(replay: Replay, script: list[tuple[Job, int]]) -> None:
    running: list[str] = []
    for index, (job, beside) in enumerate(script):
        while len(running) > beside:
            replay.finish(running.pop(0))
        replay.admit(str(index), job)
        running.append(str(index))


def mixed_traffic(seed: int, requests: int, longest: int, cut: float) -> list[tuple[Job, int]]:
    """Shared prompts, chats that go on, and of these the share `cut` branching off anywhere."""
    random_ = random.Random(seed)
    chats: list[tuple[Hashable, ...]] = []
    script = []
    for _ in range(requests):
        if chats and random_.random() < 0.6:
            prompt = random_.choice(chats)
            if random_.random() < cut:
                prompt = prompt[: random_.randrange(1, len(prompt) + 1)]
        else:
            topic = random_.randrange(3)
            prompt = tuple((topic, block) for block in range(random_.randrange(1, longest // 2)))
        prompt = (*prompt, *(random_.random() for _ in range(random_.randrange(1, longest // 3))))[:longest]
        output = tuple(random_.random() for _ in range(random_.randrange(2)))
        chats = [*chats[-40:], prompt + output]
        script.append((Job(prompt, random_.randrange(BLOCK_TOKENS), output, random_.randrange(1, BLOCK_TOKENS)), 3))
    return script
