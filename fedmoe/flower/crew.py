"""A node and its workers: every order is shared out among them, and their answers are joined into one."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from numpy.typing import NDArray

from fedmoe.federation.merging import Sums
from fedmoe.federation.placement import place
from fedmoe.flower.node import Node
from fedmoe.flower.slab import Slab
from fedmoe.flower.worker import Worker, attempt, can_fork

__all__ = ["Crew"]

Arrays = Mapping[str, NDArray[Any]]
Order = Mapping[str, Any]


class Crew:
    """Does a node's orders, `Node`'s methods under the same names, on several cores.

    How clients fall on workers changes no bit of a result in deterministic mode, just as with nodes.

    Args:
        node: whose orders they are. It does the first part of each itself, in this process.
        count: how many work, the node among them.
        threads: torch threads of each.
    """

    def __init__(self, node: Node, count: int = 1, threads: int = 1) -> None:
        self.node, self.count, self.threads = node, count, threads
        self.given = Slab() if count > 1 and can_fork(threads) else None
        self.workers: list[Worker] = []  # from the first order on that wants them

    def rank(self, order: Order, arrays: Arrays) -> dict[str, Any]:
        """Returns, for each client asked about, its score of every expert."""
        return self._tables("rank", order, arrays, "rankings")

    def evaluate(self, order: Order, arrays: Arrays) -> dict[str, Any]:
        """Returns how each unseen client asked about fares."""
        return self._tables("evaluate", order, arrays, "results")

    def measure(self, order: Order, arrays: Arrays) -> dict[str, Any]:
        """Returns which trainer is the fastest here for jobs like these, measured while all workers do the same."""
        parts = [dict(part, kept=index == 0) for index, part in enumerate(self._parts(order))]
        if self.node.knows(parts[0], arrays):
            return self.node.measure(parts[0], arrays)
        measured: dict[str, Any] = self._done("measure", parts, arrays)[0][0]
        return measured  # all go by what the first one has measured

    def train(self, order: Order, arrays: Arrays) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        """Returns the report (a row a client, weights of the sums, failures) and the sums, or each client's update."""
        answers = self._done("train", list(self._parts(order)), arrays)
        reports = [own for own, _ in answers]
        report: dict[str, Any] = {name: joined(own[name] for own in reports) for name in ("rows", "failures")}
        for name in ("rankings", "received", "looped"):  # by client; by kind of job
            report[name] = {key: told for own in reports for key, told in own[name].items()}
        if order["merges"] == "updates":
            return report, {name: array.copy() for _, updates in answers for name, array in updates.items()}
        if len(answers) == 1:  # the node's own
            return report | {"weights": reports[0]["weights"]}, dict(answers[0][1])
        sums = Sums(self.node.settings.deterministic)
        for own, part in answers:
            sums.join(Sums(sums.exact, dict(part), own["weights"]))
        return report | {"weights": sums.weights}, sums.arrays

    def close(self) -> None:
        """Ends the workers."""
        self._dismiss()
        if self.given is not None:
            self.given.close()

    def _dismiss(self) -> None:
        for worker in self.workers:
            worker.close()
        self.workers = []

    def _hire(self) -> None:
        self.workers = [Worker(self.node, self.threads, self.given) for _ in range(self.count - 1)]

    def _tables(self, work: str, order: Order, arrays: Arrays, name: str) -> dict[str, Any]:
        """Returns the joined answers to an order that names clients: a table by client, and failures."""
        answers = [answer for answer, _ in self._done(work, list(self._parts(order)), arrays)]
        by_client = {client: row for answer in answers for client, row in answer[name].items()}
        return {
            name: {client: by_client[client] for client in sorted(by_client, key=int)},
            "failures": joined(answer["failures"] for answer in answers),
        }

    def _parts(self, order: Order) -> Iterator[Order]:
        """Yields the part of the order for each worker that gets any: longest work first, as over nodes."""
        shards = self.node.population.shards
        jobs: dict[int, list[Any]] = {}
        sizes: dict[int, int] = {}
        for job in order.get("jobs", ()):
            client = int(job["client_id"])
            samples = sum(len(shards[other]) for other in job["pooled"] or (client,))
            jobs.setdefault(client, []).append(job)
            sizes[client] = sizes.get(client, 0) + samples * len(job["experts"])
        clients = order.get("clients", ())
        sizes |= {client: len(shards[client]) + sizes.get(client, 0) for client in clients}
        for cohort in place(sizes, self.count):
            if cohort:
                own_jobs = [job for client in cohort for job in jobs.get(client, ())]
                own = [client for client in cohort if client in clients]
                yield {**order, **({"jobs": own_jobs} if "jobs" in order else {}), "clients": own}

    def _done(self, work: str, parts: Sequence[Order], arrays: Arrays) -> list[tuple[Any, Arrays]]:
        """Returns the answers to the parts, in their order, once all are there; the first error is raised.

        An answer's arrays may be views, of use until the next order.
        """
        if len(parts) > 1 and not self.workers:
            self._hire()
        others = self.workers[: len(parts) - 1]
        try:
            told = arrays if self.given is None or not others else self.given.write(arrays)
            for worker, part in zip(others, parts[1:], strict=True):
                worker.give(work, part, told)
            outcomes = [attempt(self.node, work, parts[0], arrays), *(worker.answer() for worker in others)]
        except BaseException:  # what is still to be answered must not be taken for an answer to the next order
            self._dismiss()
            raise
        for _, _, error in outcomes:
            if error is not None:
                raise error
        return [(answer, made) for answer, made, _ in outcomes]


def joined(parts: Iterable[Sequence[Mapping[str, Any]]]) -> list[Mapping[str, Any]]:
    """Returns the rows of all parts by client, so that they do not tell how clients fell on workers."""
    return sorted((row for part in parts for row in part), key=lambda row: int(row["client_id"]))
