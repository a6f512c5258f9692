"""Methods by name. Each that fine-tunes says which texts it fine-tunes on; the fine-tuning itself is shared."""

from __future__ import annotations

from unidetox.methods import samples, unidetox

TEXT_METHODS = {"unidetox": unidetox, "samples": samples}
"""Methods that fine-tune on texts which they make: each module has `texts_stage` and `make_texts`."""
