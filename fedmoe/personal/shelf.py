"""Where experts lie while nobody computes with them: in files, one an expert; and who fetches them meanwhile."""

import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Protocol

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

__all__ = ["DiskShelf", "Key", "MemoryShelf", "Prefetcher", "Shelf", "SlowShelf"]

Key = tuple[int, int]
"""Block and expert."""
Weights = Mapping[str, Tensor]


class Shelf(Protocol):
    """Gives an expert's weights; it may take a while."""

    def fetch(self, key: Key) -> Weights:
        """Returns the expert's tensors by name."""
        ...


class DiskShelf:
    """Experts as safetensors files, `FOLDER/BLOCK-EXPERT.safetensors`.

    Args:
        folder: where they are.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def put(self, key: Key, expert: nn.Module) -> None:
        """Writes an expert."""
        self.folder.mkdir(parents=True, exist_ok=True)
        save_file({name: value.contiguous() for name, value in expert.state_dict().items()}, self._file(key))

    def fetch(self, key: Key) -> Weights:
        """Returns the expert's tensors by name.

        Raises:
            FileNotFoundError: it was never put here.
        """
        return load_file(self._file(key))

    def _file(self, key: Key) -> Path:
        return self.folder / f"{key[0]}-{key[1]}.safetensors"


class MemoryShelf:
    """Experts in memory, each as it was put; what is fetched is a copy. A `Prefetcher` moves it to a device."""

    def __init__(self) -> None:
        self.experts: dict[Key, Weights] = {}

    def put(self, key: Key, expert: nn.Module) -> None:
        """Keeps an expert."""
        self.experts[key] = {name: value.detach().clone() for name, value in expert.state_dict().items()}

    def fetch(self, key: Key) -> Weights:
        """Returns a copy of the expert's tensors by name."""
        return {name: value.clone() for name, value in self.experts[key].items()}


class SlowShelf:
    """A shelf that takes a given time for each expert, as a slower disk or bus would: the rest of it is slept.

    Args:
        shelf: which.
        seconds: that an expert takes at least.
    """

    def __init__(self, shelf: Shelf, seconds: float) -> None:
        self.shelf, self.seconds = shelf, seconds

    def fetch(self, key: Key) -> Weights:
        """Returns the expert's tensors by name, once the time is over."""
        until = time.perf_counter() + self.seconds
        found = self.shelf.fetch(key)
        time.sleep(max(0.0, until - time.perf_counter()))
        return found


class Prefetcher:
    """Fetches experts in a thread of its own, one after another in the order asked for, while others compute.

    What has been asked for is in memory from then on until it is dropped. Where `device` is a GPU, an expert is moved
    there in the same thread, on a stream of its own, so that it does not queue behind what is being computed.

    Args:
        shelf: where they lie.
        device: where what is taken shall be: `cpu`, `cuda`, `cuda:1`.

    Attributes:
        peak: the most experts that were in memory, or on their way, at once.
    """

    def __init__(self, shelf: Shelf, device: torch.device | str = "cpu") -> None:
        self.shelf, self.device = shelf, torch.device(device)
        self.peak = 0
        self._stream = torch.cuda.Stream(self.device) if self.device.type == "cuda" else None  # type: ignore[no-untyped-call]
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="prefetch")
        self._here: dict[Key, Future[Weights]] = {}

    def ask(self, key: Key) -> None:
        """Has the expert fetched, unless it is here or on its way."""
        if key not in self._here:
            self._here[key] = self._thread.submit(self._fetched, key)
            self.peak = max(self.peak, len(self._here))

    def take(self, key: Key) -> Weights:
        """Returns the expert's tensors as soon as they are on the device; one that nobody asked for is fetched now.

        Raises:
            Exception: what the shelf raised.
        """
        self.ask(key)
        found = self._here[key].result()
        if self._stream is not None:  # their memory is not given away before what is computed with them is done
            for value in found.values():
                value.record_stream(torch.cuda.current_stream(self.device))
        return found

    def _fetched(self, key: Key) -> Weights:
        """Returns the expert's tensors once they are on the device."""
        weights = self.shelf.fetch(key)
        if self._stream is None:
            return {name: value.to(self.device, non_blocking=True) for name, value in weights.items()}
        with torch.cuda.stream(self._stream):
            moved = {name: value.pin_memory().to(self.device, non_blocking=True) for name, value in weights.items()}
        self._stream.synchronize()
        return moved

    def drop(self, keep: Callable[[Key], bool] = lambda key: False) -> None:
        """Forgets all experts but those to keep."""
        for key in [key for key in self._here if not keep(key)]:
            self._here.pop(key).cancel()

    def close(self) -> None:
        """Ends the thread, once it has done what it is at."""
        self.drop()
        self._thread.shutdown(wait=True, cancel_futures=True)

    def __enter__(self) -> "Prefetcher":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()
