"""The two readings of a system made for one domain: ``-S``, a model per domain, and ``-M``, one merged vocabulary.

A reading turns rows into *streams*: sequences of item numbers of one vocabulary, 0 for padding. Item i of domain d is
number ``offset(d) + i`` of its stream.

``-S``: streams ``x`` and ``y``, each domain alone. A row without an own history has no evidence and gets popularity, by
rule.

``-M``: stream ``xy``, items of X and then items of Y (linked items stay two). A row's sequence is both of its histories
in order of time; of one stamp, and where the data have no common time, the own history stands last.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np

from i2vae_lib.data.batches import draw_others
from i2vae_lib.data.rows import DOMAINS, PAD, Array, Catalogue, Ragged, Rows, among, stacked
from i2vae_lib.data.user_sequences import interleaved, stamp_numbers, user_sequences, with_targets

System = TypeVar("System")


class PerDomain:
    """``-S``: two vocabularies, two streams."""

    streams = DOMAINS

    def __init__(self, catalogue: Catalogue):
        self.catalogue = catalogue

    def size(self, stream: str) -> int:
        """Items of a stream, padding not counted."""
        return self.catalogue.size(stream)

    def stream(self, domain: str) -> str:
        """The stream that holds the items of a domain."""
        return domain

    def offset(self, domain: str) -> int:
        """Number of the stream's items before the first of this domain."""
        return 0

    def domains(self, stream: str) -> tuple[str, ...]:
        """The domains whose items a stream holds."""
        return (stream,)

    def slots(self, domain: str) -> slice:
        """Where a domain's items stand among those of its stream, padding not counted."""
        return slice(self.offset(domain), self.offset(domain) + self.catalogue.size(domain))

    def within(self, items: Any, domain: str) -> Any:
        """Which numbers of a stream, an array or a tensor, are items of a domain."""
        slots = self.slots(domain)
        return (items > slots.start) & (items <= slots.stop)

    def part(self, sequences: Ragged, domain: str) -> Ragged:
        """What sequences of a stream hold of a domain, by the domain's own numbers."""
        inside = sequences.keep(self.within(sequences.values, domain))
        return Ragged(inside.values - np.int32(self.offset(domain)), inside.offsets)

    def numbered(self, items: Ragged, domain: str) -> Ragged:
        """Items of a domain by their numbers in its stream."""
        return replace(items, values=items.values + np.int32(self.offset(domain)))

    def parts(self, train: Rows) -> dict[str, list[Ragged]]:
        """Training users' whole sequences by stream: a part a domain, by the stream's numbers."""
        whole = user_sequences(train).sequences
        return {s: [self.numbered(whole[d], d) for d in self.domains(s)] for s in self.streams}

    def sequences(self, train: Rows) -> Mapping[str, Ragged]:
        """What a stream is learnt from: whole training sequences, targets included, of two items at least."""
        return {d: _with_steps(one) for d, one in user_sequences(train).sequences.items()}

    def histories(self, rows: Rows, domain: str) -> Ragged:
        """What rows that ask for ``domain`` show, in its stream."""
        return rows.history[domain]

    def can_rank(self, rows: Rows) -> Array:
        """Rows that have anything in their stream, bool [n]."""
        return rows.lengths("own") > 0


class Merged(PerDomain):
    """``-M``: one vocabulary, one stream."""

    streams = ("xy",)  # type: ignore[assignment]

    def size(self, stream: str) -> int:
        return self.catalogue.size("x") + self.catalogue.size("y")

    def stream(self, domain: str) -> str:
        return "xy"

    def offset(self, domain: str) -> int:
        return 0 if domain == "x" else self.catalogue.size("x")

    def domains(self, stream: str) -> tuple[str, ...]:
        return DOMAINS

    def sequences(self, train: Rows) -> Mapping[str, Ragged]:
        """A sequence for each training row (a user may have two): both histories and the target.

        Of a stamp that holds events of both domains, only those of the row's own domain are kept. So nothing that is
        learnt at a step of a sequence has seen what an evaluation row may not show (``docs/evaluation.md``).
        """
        parts = []
        for number, d in enumerate(DOMAINS):
            rows = train.take(train.of(d))
            both = self._in_order([with_targets(rows, one) for one in DOMAINS], np.full(len(rows), number))
            own = self.within(both.values, d)
            stamp = stamp_numbers(both)
            parts.append(both.keep(own | ~among(stamp, stamp[own])))
        return {"xy": _with_steps(stacked(parts))}

    def histories(self, rows: Rows, domain: str) -> Ragged:
        return self._in_order([rows.history[d] for d in DOMAINS], np.full(len(rows), DOMAINS.index(domain)))

    def _in_order(self, parts: Sequence[Ragged], last: Array) -> Ragged:
        return interleaved([self.numbered(one, d) for one, d in zip(parts, DOMAINS, strict=True)], last)

    def can_rank(self, rows: Rows) -> Array:
        return (rows.lengths("own") > 0) | (rows.lengths("other") > 0)


def _with_steps(sequences: Ragged) -> Ragged:
    """Those of two items at least: the others hold no step from one to the next."""
    return sequences.take(np.flatnonzero(sequences.lengths > 1))


def mean_steps(lengths: Array, longest: int, batch_size: int) -> float:
    """Steps from one item to the next in a mean batch of sequences, of each at most ``longest``."""
    return np.minimum(lengths - 1, longest).sum() / max(1, -(-len(lengths) // batch_size))


def both_readings(
    system: type[System], name: str, separate: type[Any] = PerDomain, merged: type[Any] = Merged
) -> tuple[type[System], type[System]]:
    """The classes of systems ``NAME-s`` and ``NAME-m``, of all that the two share and a reading each."""
    found = []
    for letter, reading in (("s", separate), ("m", merged)):
        own = {"name": f"{name}-{letter}", "reading_of": reading, "__module__": system.__module__}
        found.append(type(system.__name__.lstrip("_") + letter.upper(), (system,), own))
    return found[0], found[1]


def draw_beside(
    reading: PerDomain, stream: str, sequences: Ragged, positives: Array, count: int, rng: np.random.Generator
) -> Array:
    """Negatives beside each positive: of its own domain, and nothing that its sequence holds.

    Of another domain they would teach a merged model no more than to tell the domains apart.

    Parameters
    ----------
    sequences
        Of a stream, one a line of ``positives``.
    positives
        int [n, L], 0 where there is none.

    Returns
    -------
    int64 [n, L, count]
        0 beside padding.
    """
    drawn = np.full((*positives.shape, count), PAD, dtype=np.int64)
    for d in reading.domains(stream):
        low = reading.offset(d)
        line, step = np.nonzero(reading.within(positives, d))
        taken = reading.part(sequences, d)
        drawn[line, step] = draw_others(taken, line, reading.catalogue.size(d), count, rng) + low
    return drawn
