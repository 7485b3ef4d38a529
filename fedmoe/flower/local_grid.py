"""The in-process grid: Flower's messages without Ray and SuperLink; a breakpoint in a client works."""

import bdb
import traceback
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any
from uuid import uuid4

from flwr.app import Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

__all__ = ["LocalGrid"]

SERVER_ID = 1
CLIENT_RAISED = 2  # Flower's ErrorCode.CLIENT_APP_RAISED_EXCEPTION


class LocalGrid(Grid):
    """SuperNodes as plain calls in this very process, one after another, or several at a time in threads.

    Args:
        client_app: what a node runs.
        num_nodes: how many nodes there are.
        run_config: what every node's context holds.
        at_once: nodes that work at the same time, each in a thread; only so many get work. 0: one after another, and
            all of them.
    """

    def __init__(self, client_app: ClientApp, num_nodes: int, run_config: dict[str, Any], *, at_once: int = 0) -> None:
        self.client_app, self.at_once = client_app, at_once
        self.pool = ThreadPoolExecutor(at_once, "node") if min(at_once, num_nodes) > 1 else None
        self._run = Run.create_empty(run_id=1)
        self.replies: dict[str, Message] = {}
        # Flower lets a message be made only inside a task; outside `flwr run`, this process is that task
        TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, 1, SERVER_ID
        self.contexts = {
            node_id: Context(
                run_id=1,
                node_id=node_id,
                node_config={"partition-id": index, "num-partitions": num_nodes},
                state=RecordDict(),
                run_config=run_config,
            )
            for index, node_id in enumerate(range(1001, 1001 + num_nodes))
        }

    def set_run(self, run: Run) -> None:
        """Sets the run's information."""
        self._run = run

    @property
    def run(self) -> Run:
        """Returns the run's information."""
        return self._run

    def create_message(
        self, content: RecordDict, message_type: str, dst_node_id: int, group_id: str, ttl: float | None = None
    ) -> Message:
        """Returns a new message from the server to a node."""
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def get_node_ids(self) -> Iterable[int]:
        """Returns the ids of the nodes."""
        return list(self.contexts)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Has all messages answered, and returns their ids."""
        ids: list[str] = []
        working: dict[str, Future[Message]] = {}
        for message in messages:
            message.metadata.__dict__["_message_id"] = str(uuid4())  # Flower's own grids set it in the same way
            ids.append(message.metadata.message_id)
            if self.pool is None:
                self.replies[ids[-1]] = self._answer(message)
            else:
                working[ids[-1]] = self.pool.submit(self._answer, message)
        self.replies |= {message_id: answer.result() for message_id, answer in working.items()}
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Returns the replies to these messages, and forgets them."""
        return [self.replies.pop(message_id) for message_id in message_ids if message_id in self.replies]

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        """Returns the replies; nothing runs beside them, so that there is nothing to wait for."""
        return self.pull_messages(self.push_messages(messages))

    def _answer(self, message: Message) -> Message:
        try:
            reply = self.client_app(message, self.contexts[message.metadata.dst_node_id])
        except bdb.BdbQuit:
            raise
        except Exception as error:  # as Flower's engine does: a node's failure is a reply
            reason = f"{type(error).__name__}: {error}\n{traceback.format_exc(limit=-3)}"
            reply = Message(Error(code=CLIENT_RAISED, reason=reason), reply_to=message)
        reply.metadata.__dict__["_message_id"] = str(uuid4())
        return reply
