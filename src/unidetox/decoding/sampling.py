"""Sample continuations: each prompt is read once, rows that ended make room, every sequence has its own randomness."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch

from unidetox.core.errors import UsageError
from unidetox.decoding.backbone import ROW_MULTIPLE
from unidetox.decoding.decoders import Decoder, round_up
from unidetox.decoding.drawing import draw
from unidetox.decoding.memory import free_bytes, is_out_of_memory, out_of_memory
from unidetox.decoding.random_streams import stream_keys, uniforms
from unidetox.decoding.sequences import check_sequences
from unidetox.decoding.sources import LogitSource
from unidetox.decoding.ways import backbone, make_decoder, sampling_bytes_per_row

MAX_ROWS = 1024
PREFILL_TOKENS = 2048
HEAD_BYTES = 30 << 20
"""Logits that exist at a time on a CPU: larger buffers are returned to the system each time."""

DRAW_ROWS = {"cpu": 32, "cuda": 512}
"""Rows that are mixed and drawn at a time; on a CPU few enough for their scores to stay in its cache."""


@dataclass(frozen=True)
class SamplingSettings:
    """How continuations are drawn; nothing is truncated unless asked for.

    Attributes:
        max_new_tokens: At most this many tokens, the end token not counted; > 0.
        temperature: Divides the scores; > 0.
        top_p: Nucleus mass in (0, 1]; 1 is off.
        top_k: Keep this many best tokens; 0 is off.
        eos_token_ids: Tokens that end a sequence.
        never: Rows of the LM head that are never drawn, as no token stands for them.
        seed: Root of all random streams.
    """

    max_new_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    eos_token_ids: tuple[int, ...] = ()
    never: tuple[int, ...] = ()
    seed: int = 0

    def __post_init__(self) -> None:
        checks = {
            "max_new_tokens": self.max_new_tokens > 0,
            "temperature": self.temperature > 0,
            "top_p": 0 < self.top_p <= 1,
            "top_k": self.top_k >= 0,
        }
        for name, good in checks.items():
            if not good:
                raise UsageError(f"{name} is {getattr(self, name)}", hint="See `unidetox distill --help` for the range")


@dataclass(frozen=True)
class Sampled:
    """One continuation.

    Attributes:
        prompt_index: Which prompt it continues.
        sample_index: Which of the prompt's samples it is.
        token_ids: What was drawn, without the end token.
        finish_reason: ``eos`` where the model ended it, ``length`` where the limit did.
    """

    prompt_index: int
    sample_index: int
    token_ids: list[int]
    finish_reason: Literal["eos", "length"]


def sample(
    source: LogitSource,
    prompts: Sequence[Sequence[int]],
    n: int,
    settings: SamplingSettings,
    *,
    keys: Sequence[int] | None = None,
    skip: Collection[tuple[int, int]] = (),
    batch_size: int | Literal["auto"] = "auto",
    shared: int = 0,
    advance: Callable[[float], object] = float,
) -> Iterator[list[Sampled]]:
    """Sample ``n`` continuations of each prompt.

    In float32 on a CPU the result is the same whatever the batch size, the order, or what is skipped: a sequence draws
    from a stream keyed by (seed, prompt key, sample index), and its arithmetic does not depend on its neighbours.

    Args:
        source: What scores the next token.
        prompts: Token ids of each prompt, at least one token each.
        n: Continuations a prompt.
        settings: How to draw.
        keys: A number for each prompt that names its random streams; its index by default.
        skip: (prompt index, sample index) pairs that are already there.
        batch_size: Rows decoded together, or ``auto`` by free memory; halved when memory runs out, which costs time
            but changes no result.
        shared: How many tokens all prompts begin with alike (a safety prompt, say); they are read once.
        advance: Told at each step how many more continuations are done, parts of those at work included.

    Yields:
        Continuations as they end, in no particular order.

    Raises:
        UsageError: For a prompt that is empty, too long for the model or not of its vocabulary.
        UniDetoxError: Where the smallest batch does not fit into memory, or a model's logits are not numbers.
    """
    check_sequences(source.models, prompts, settings.max_new_tokens - 1)
    if prompts and (shared >= min(map(len, prompts)) or any(p[:shared] != prompts[0][:shared] for p in prompts)):
        raise UsageError(f"the prompts do not share {shared} tokens", hint="Give how many they begin with alike")
    keys = range(len(prompts)) if keys is None else keys
    # Longest first, so that memory runs out at the start or not at all, and rows of like length share the batch.
    order = sorted(range(len(prompts)), key=lambda index: -len(prompts[index]))
    done = set(skip)
    todo = [(i, k) for i in order for k in range(n) if (i, k) not in done]
    rows = _batch_rows(source, prompts, settings, batch_size)
    while todo:
        run = _Run(source, prompts, settings, keys, todo, min(rows, len(todo)), shared)
        part = 0.0
        try:
            for finished in run:
                advance(len(finished) + run.part - part)
                part = run.part
                if finished:
                    done.update((s.prompt_index, s.sample_index) for s in finished)
                    yield finished
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            if rows <= ROW_MULTIPLE:
                raise out_of_memory() from error
            rows = max(ROW_MULTIPLE, min(rows, len(todo)) // 2)
            advance(-part)
        del run
        todo = [pair for pair in todo if pair not in done]


def _batch_rows(
    source: LogitSource,
    prompts: Sequence[Sequence[int]],
    settings: SamplingSettings,
    batch_size: int | Literal["auto"],
) -> int:
    if batch_size != "auto":
        return max(1, batch_size)
    capacity = max((len(prompt) for prompt in prompts), default=1) + settings.max_new_tokens
    row = sum(sampling_bytes_per_row(model, capacity) for model in source.models)
    return rows_that_fit(free_bytes(backbone(source.models[0]).device), row)


def rows_that_fit(free: float, row: int) -> int:
    """Return how many rows are decoded together: as many as half of the free memory holds.

    Args:
        free: Free bytes.
        row: Bytes of one row.
    """
    return max(ROW_MULTIPLE, min(MAX_ROWS, int(0.5 * free / row) // ROW_MULTIPLE * ROW_MULTIPLE))


class _Run:
    """One pass over a queue with a fixed number of slots; active rows always fill the first slots."""

    def __init__(
        self,
        source: LogitSource,
        prompts: Sequence[Sequence[int]],
        settings: SamplingSettings,
        keys: Sequence[int],
        todo: list[tuple[int, int]],
        slots: int,
        shared: int,
    ) -> None:
        self.source, self.prompts, self.settings, self.slots = source, prompts, settings, slots
        self.shared = shared
        capacity = max(len(prompts[i]) for i, _ in todo) + settings.max_new_tokens
        # Where models are mixed, what they differ by must not drown in the rounding of their logits.
        exact = len(source.models) > 1
        self.decoders: list[Decoder] = [make_decoder(model, slots, capacity, exact) for model in source.models]
        self.device = backbone(source.models[0]).device
        self.ends = torch.tensor(settings.eos_token_ids, dtype=torch.long, device=self.device)
        never = [token for token in settings.never if token not in settings.eos_token_ids]
        self.never = torch.tensor(never, dtype=torch.long, device=self.device) if never else None
        self.streams = stream_keys(settings.seed, [(keys[i], k) for i, k in todo])
        self.todo, self.next = todo, 0
        # What is known of each slot in use, [rows] each; rows <= slots, and they always fill the first slots.
        self.active = np.zeros(0, dtype=np.int64)  # slot -> place in todo
        self.positions = torch.zeros(0, dtype=torch.long, device=self.device)  # where the next token goes
        self.steps = np.zeros(0, dtype=np.int64)  # tokens drawn so far
        self.tokens = torch.zeros(0, dtype=torch.long, device=self.device)  # drawn last
        self.drawn = np.zeros((slots, settings.max_new_tokens), dtype=np.int64)  # all that was drawn, [slots, tokens]
        self.prefixes: dict[int, tuple[list[Any], list[torch.Tensor]]] = {}  # what each model made of a prompt

    @property
    def part(self) -> float:
        """How much of the continuations at work is drawn, in whole ones."""
        return float(self.steps.sum()) / self.settings.max_new_tokens

    def __iter__(self) -> Iterator[list[Sampled]]:
        while self.next < len(self.todo) or len(self.active):
            waiting, free = len(self.todo) - self.next, self.slots - len(self.active)
            # A prefill is worth its while for several rows at once.
            if waiting and (not len(self.active) or free >= min(waiting, -(-self.slots // 4))):
                self._admit(min(free, waiting))
            else:
                vectors = [decoder.step(self.tokens, self.positions) for decoder in self.decoders]  # [rows, width] each
                self.positions = self.positions + 1
                self._draw(0, vectors)
            yield self._retire()

    def _admit(self, count: int) -> None:
        """Fill free slots with waiting sequences and draw their first tokens."""
        # 1. Read their prompts, and copy each into the slots of its samples.
        pairs = self.todo[self.next : self.next + count]
        self._read_prompts(pairs)
        start = len(self.active)
        for slot, (index, _) in self._runs_of_one_prompt(pairs, start):
            for decoder, prefix in zip(self.decoders, self.prefixes[index][0], strict=True):
                decoder.place(prefix, slot)
        # 2. Append them to what is known of the slots, [rows] -> [rows + count].
        self.active = np.concatenate([self.active, np.arange(self.next, self.next + count)])
        self.steps = np.concatenate([self.steps, np.zeros(count, dtype=np.int64)])
        lengths = torch.tensor([len(self.prompts[i]) for i, _ in pairs], device=self.device)
        self.positions = torch.cat([self.positions, lengths])
        self.tokens = torch.cat([self.tokens, torch.zeros_like(lengths)])
        self.next += count
        # 3. Draw their first tokens, from [count, width] of each model.
        vectors = zip(*(self.prefixes[index][1] for index, _ in pairs), strict=True)
        self._draw(start, [torch.stack(rows) for rows in vectors])
        # Samples of a prompt stand together in the queue, so only the next one's prompt can still be wanted.
        wanted = self.todo[self.next][0] if self.next < len(self.todo) else None
        self.prefixes = {index: prefix for index, prefix in self.prefixes.items() if index == wanted}

    def _runs_of_one_prompt(
        self, pairs: list[tuple[int, int]], start: int
    ) -> Iterator[tuple[torch.Tensor, tuple[int, int]]]:
        """Yield the slots that share a prompt; samples of a prompt stand together in the queue."""
        first = 0
        for end in range(1, len(pairs) + 1):
            if end == len(pairs) or pairs[end][0] != pairs[first][0]:
                yield torch.arange(start + first, start + end, device=self.device), pairs[first]
                first = end

    def _read_prompts(self, pairs: list[tuple[int, int]]) -> None:
        """Prefill the prompts of these sequences that are not at hand, grouped by padded length.

        A prompt's group depends on its own length alone, so its numbers do not depend on the others.
        """
        # 1. Missing prompts by padded length.
        groups: dict[int, list[int]] = {}
        for index in dict.fromkeys(i for i, _ in pairs):
            if index not in self.prefixes:
                groups.setdefault(round_up(len(self.prompts[index]) - self.shared, ROW_MULTIPLE), []).append(index)
        # 2. Each group in passes of at most so many tokens; of a prompt, what each model made of it, and its vectors.
        for width, members in groups.items():
            size = max(1, PREFILL_TOKENS // width)
            for part in (members[i : i + size] for i in range(0, len(members), size)):
                read = [decoder.prefill([self.prompts[i] for i in part], self.shared) for decoder in self.decoders]
                for row, index in enumerate(part):
                    self.prefixes[index] = ([p[row] for _, p in read], [vectors[row] for vectors, _ in read])

    def _draw(self, start: int, vectors: list[torch.Tensor]) -> None:
        """Draw the next token of the rows from ``start`` on, from each model's vectors ``[rows, width]``."""
        # 1. One number in [0, 1) a row, float64 [rows], from its own stream.
        rows = slice(start, start + len(vectors[0]))
        numbers = uniforms(self.streams[self.active[rows]], self.steps[rows])
        uniform = torch.from_numpy(numbers).to(self.device)
        # 2. A few rows at a time, as their logits [size, vocabulary] are what is large.
        size = self._head_rows()
        parts = [
            self._draw_part([v[i : i + size] for v in vectors], uniform[i : i + size])
            for i in range(0, len(uniform), size)
        ]
        # 3. Write down what was drawn, int64 [rows].
        self.tokens[rows] = torch.cat(parts)
        self.drawn[np.arange(rows.start, rows.stop), self.steps[rows]] = self.tokens[rows].cpu().numpy()
        self.steps[rows] += 1

    def _head_rows(self) -> int:
        if self.device.type != "cpu":
            return DRAW_ROWS["cuda"]
        words = int(self.source.models[0].config.get_text_config().vocab_size)
        return max(ROW_MULTIPLE, HEAD_BYTES // (4 * words) // ROW_MULTIPLE * ROW_MULTIPLE)

    def _draw_part(self, vectors: list[torch.Tensor], uniform: torch.Tensor) -> torch.Tensor:
        """Draw tokens ``[size]`` from vectors ``[size, width]`` of each model."""
        # [size, vocabulary] of each model
        logits = [decoder.logits(part) for decoder, part in zip(self.decoders, vectors, strict=True)]
        if self.never is not None:  # finite, as what is mixed is subtracted
            logits = [row.index_fill(1, self.never, max(-1e30, torch.finfo(row.dtype).min)) for row in logits]
        cut, size = self.settings, DRAW_ROWS.get(self.device.type, 512)
        parts = [slice(i, i + size) for i in range(0, len(uniform), size)]
        return torch.cat([
            draw(
                self.source.mix([row[part] for row in logits]), uniform[part],
                temperature=cut.temperature, top_k=cut.top_k, top_p=cut.top_p,
            )
            for part in parts
        ])  # fmt: skip

    def _retire(self) -> list[Sampled]:
        """Take out the rows that have just ended and close the gaps."""
        ended = torch.isin(self.tokens, self.ends).cpu().numpy()  # bool [rows]
        over = ended | (self.steps >= self.settings.max_new_tokens)
        if not over.any():
            return []
        finished = []
        for slot in np.flatnonzero(over):
            index, number = self.todo[self.active[slot]]
            count = int(self.steps[slot]) - int(ended[slot])
            reason: Literal["eos", "length"] = "eos" if ended[slot] else "length"
            finished.append(Sampled(index, number, self.drawn[slot, :count].tolist(), reason))
        self._close_gaps(over)
        return finished

    def _close_gaps(self, over: Any) -> None:
        """Move rows from behind into the slots that became free."""
        # Of `left` rows that go on, those that stand at `left` or behind move into holes before it; as many of each.
        left = int((~over).sum())
        holes, movers = np.flatnonzero(over[:left]), left + np.flatnonzero(~over[left:])
        if len(holes):
            source, target = (torch.from_numpy(x).to(self.device) for x in (movers, holes))
            length = int(self.positions[source].max())
            for decoder in self.decoders:
                decoder.move(source, target, length)
            self.drawn[holes] = self.drawn[movers]
            self.tokens[target], self.positions[target] = self.tokens[source], self.positions[source]
            self.active[holes], self.steps[holes] = self.active[movers], self.steps[movers]
        self.active, self.steps = self.active[:left], self.steps[:left]
        self.tokens, self.positions = self.tokens[:left], self.positions[:left]
