"""Standard output, where what a command makes goes."""

from __future__ import annotations

import os
import sys

from vllm_rightsizer.errors import UserError


def write_out(text: str) -> None:
    """Print `text` whole. Raises `UserError` where there is no room for it, and BrokenPipeError as it is."""
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        # What is left in the buffer would be tried, and complained about, once more at the end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise UserError(f"the output cannot be written ({error.strerror}): make room, or send it elsewhere") from error
