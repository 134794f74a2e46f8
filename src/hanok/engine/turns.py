"""Who waits, and who is next: the lower priority number first; within one priority, tenants take turns.

Turns are counted in tokens: next is the tenant that was served the fewest (start-time fair queueing, Goyal et al. 1996, with
equal weights). One that comes back after a pause does not get what it left unused: it begins where the last one served stood.
Within a tenant, first come first served.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator

from hanok.engine.generation import Generation

_Queue = list[tuple[int, Generation]]  # by arrival


class Turns:
    """The waiting requests of one engine."""

    def __init__(self) -> None:
        self._waiting: dict[int, dict[str, _Queue]] = {}  # priority, tenant
        self._served: dict[str, float] = {}  # tokens of each tenant, from a common beginning
        self._now = 0.0  # what the last one served had when it was chosen
        self._count = 0

    def __len__(self) -> int:
        """Any thread may ask."""
        return self._count

    def __iter__(self) -> Iterator[Generation]:
        for tenants in self._waiting.values():
            for queue in tenants.values():
                yield from (generation for _, generation in queue)

    def push(self, generation: Generation) -> None:
        tenant = generation.request.tenant
        self._served[tenant] = max(self._served.get(tenant, 0.0), self._now)
        self._put(generation)

    def first(self) -> Generation:
        """Who is next, and stays. There must be somebody."""
        tenants = self._waiting[min(self._waiting)]
        return min(tenants.items(), key=lambda item: (self._served[item[0]], item[1][0][0]))[1][0][1]

    def pop(self) -> Generation:
        """Who is next; the tenant has its prompt's tokens counted, which others must see before they are computed."""
        generation = self.first()
        tenant = generation.request.tenant
        self._now = max(self._now, self._served[tenant])
        self.serve(generation, len(generation.request.prompt_ids))
        heapq.heappop(self._waiting[generation.request.priority][tenant])
        self._count -= 1
        self._tidy()
        return generation

    def put_back(self, generation: Generation) -> None:
        """One that was popped waits again; its prompt will be counted when it is popped again."""
        self.serve(generation, -len(generation.request.prompt_ids))
        self._put(generation)

    def serve(self, generation: Generation, tokens: int) -> None:
        """A tenant was given so many tokens."""
        tenant = generation.request.tenant
        self._served[tenant] = self._served.get(tenant, self._now) + tokens

    def remove_finished(self) -> None:
        """Those that ended while they waited."""
        for tenants in self._waiting.values():
            for tenant, queue in tenants.items():
                tenants[tenant] = [entry for entry in queue if entry[1].finish_reason is None]
                heapq.heapify(tenants[tenant])
        self._count = sum(1 for _ in self)
        self._tidy()

    def clear(self) -> None:
        self._waiting.clear()
        self._count = 0

    def _put(self, generation: Generation) -> None:
        self._count += 1
        tenants = self._waiting.setdefault(generation.request.priority, {})
        heapq.heappush(tenants.setdefault(generation.request.tenant, []), (generation.arrival, generation))

    def _tidy(self) -> None:
        """Without empty queues, and without tenants that stand where a new one would begin."""
        for priority, tenants in list(self._waiting.items()):
            for tenant in [tenant for tenant, queue in tenants.items() if not queue]:
                del tenants[tenant]
            if not tenants:
                del self._waiting[priority]
        waiting = {tenant for tenants in self._waiting.values() for tenant in tenants}
        for tenant in [t for t, served in self._served.items() if served <= self._now and t not in waiting]:
            del self._served[tenant]
