"""Runs of several peers, interleaved; what fails is kept, and told."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Final

from benchmarks.catalog import PEERS, Peer, build, missing
from benchmarks.running import BenchError, Cores
from benchmarks.settings import Settings

Record = dict[str, Any]
"""One run of one peer: `peer`, `run`, and its figures; or `error`, a sentence."""

Once = Callable[[Peer], Iterable[Record]]

WORDS: Final = {"peer", "run", "error"}


class Bench:
    """What a measurement is given.

    :param say: is told each record, as one line, as it comes.
    """

    def __init__(self, settings: Settings, cores: Cores, say: Callable[[str], None]) -> None:
        self.settings = settings
        self.cores = cores
        self.say = say
        self.skipped: dict[str, str] = {}

    def peers(self, names: Sequence[str]) -> list[Peer]:
        """Those of these peers that are wanted and can be run; why others cannot is in `skipped`."""
        wanted = self.settings.peers
        chosen = [PEERS[name] for name in names if wanted is None or name in wanted]
        usable = []
        for peer in chosen:
            if sentence := missing(peer.programs):
                self.skipped[peer.name] = sentence
                self.say(f"{peer.name} is left out: {sentence}")
            else:
                usable.append(peer)
        if any("go" in peer.programs for peer in usable):
            build()
        return usable

    def rounds(self, names: Sequence[str], once: Once, runs: int | None = None) -> list[Record]:
        """Run the peers in turn, so many times; each round begins with another one.

        :param once: gives the records of one run; what it had given before an error is kept.
        """
        peers = self.peers(names)
        records: list[Record] = []
        for run in range(1, (runs or self.settings.runs) + 1):
            for peer in rotated(peers, run - 1):
                for record in told(peer, once):
                    records.append({"peer": peer.name, "run": run, **record})
                    self.say(line(records[-1]))
        return records


def rotated(peers: Sequence[Peer], by: int) -> list[Peer]:
    """The same in another order, so that none always follows the same other one."""
    by %= len(peers) or 1
    return [*peers[by:], *peers[:by]]


def told(peer: Peer, once: Once) -> Iterator[Record]:
    """The records of one run, and how it failed, if it did."""
    try:
        yield from once(peer)
    except (BenchError, OSError) as error:
        yield {"error": str(error)}


def line(record: Record) -> str:
    """A record for who looks on."""
    head = f"{record['peer']}, run {record['run']}"
    if "error" in record:
        return f"{head}: FAILED: {record['error']}"
    shown = ", ".join(f"{key} {value}" for key, value in record.items() if key not in WORDS)
    return f"{head}: {shown}"
