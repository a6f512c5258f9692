"""What transformers says while it loads and saves, which nobody can act on."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from unidetox.core import console


@contextlib.contextmanager
def quiet_transformers() -> Iterator[None]:
    """No advice and no bars of transformers in this block; downloads keep their bar where somebody watches."""
    from huggingface_hub.utils.tqdm import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars
    from transformers.utils import logging

    level, bars, no_downloads = logging.get_verbosity(), logging.is_progress_bar_enabled(), are_progress_bars_disabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()  # those of downloads too
    if console.is_watched():
        enable_progress_bars()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
        (disable_progress_bars if no_downloads else enable_progress_bars)()
