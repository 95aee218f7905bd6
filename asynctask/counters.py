"""Counters and histograms that cost a tenth of a microsecond, for `prometheus_client` to show.

Its own take a lock at each count, against threads that are not here: each of these has one thread.
"""

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate
from typing import Final

from prometheus_client.metrics_core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import CollectorRegistry

INFINITE: Final = "+Inf"


class Count:
    """A number that only grows."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value = 0.0

    def inc(self, amount: float = 1) -> None:
        """Count."""
        self.value += amount


class Spread:
    """How often values were up to each of some bounds, and their sum."""

    __slots__ = ("_bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        """Count a value."""
        self.counts[bisect_left(self._bounds, value)] += 1
        self.total += value


class Counter:
    """Counts by labels.

    :param name: as it is shown, without ``_total``.
    """

    def __init__(self, name: str, text: str, labels: Iterable[str], registry: CollectorRegistry) -> None:
        self._name, self._text, self._labels = name, text, tuple(labels)
        self._counts: dict[tuple[str, ...], Count] = {}
        registry.register(self)

    def labels(self, *values: str) -> Count:
        """The count of these values of the labels."""
        return self._counts.setdefault(values, Count())

    def collect(self) -> Iterator[Metric]:
        """See `prometheus_client.registry.Collector`."""
        family = CounterMetricFamily(self._name, self._text, labels=self._labels)
        for values, count in self._counts.items():
            family.add_metric(values, count.value)
        yield family


class Histogram:
    """Spreads by labels.

    :param buckets: upper bounds, growing, without the infinite one.
    """

    def __init__(
        self,
        name: str,
        text: str,
        labels: Iterable[str],
        buckets: Sequence[float],
        registry: CollectorRegistry,
    ) -> None:
        self._name, self._text, self._labels = name, text, tuple(labels)
        self._buckets = tuple(buckets)
        self._shown = [*map(str, map(float, self._buckets)), INFINITE]
        self._spreads: dict[tuple[str, ...], Spread] = {}
        registry.register(self)

    def labels(self, *values: str) -> Spread:
        """The spread of these values of the labels."""
        return self._spreads.setdefault(values, Spread(self._buckets))

    def collect(self) -> Iterator[Metric]:
        """See `prometheus_client.registry.Collector`."""
        family = HistogramMetricFamily(self._name, self._text, labels=self._labels)
        for values, spread in self._spreads.items():
            buckets = list(zip(self._shown, accumulate(spread.counts), strict=True))
            family.add_metric(values, buckets, spread.total)
        yield family
