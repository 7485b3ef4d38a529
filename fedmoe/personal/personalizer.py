"""The door to a trained pool: an unseen client of the run, a folder of pictures, or an array of images is served.

Shapes: B samples, D values of an embedding, C classes.
"""

import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedmoe.data.contracts import Ids
from fedmoe.errors import DataError, SettingsError
from fedmoe.evaluation.served import lots_of, mean_embedding, served_ids, ties_of
from fedmoe.moe.construction import build_expert, expert_reads
from fedmoe.personal.personalized import Personalized
from fedmoe.personal.pictures import open_images
from fedmoe.personal.service import UNKNOWN, Batch, serve_batch
from fedmoe.personal.trained import Trained, open_trained
from fedmoe.seeding import derive_seed, numpy_stream
from fedmoe.training.pretraining import forward_all
from fedmoe.training.sample_store import SampleStore, channel_statistics, read_by_experts
from fedmoe.training.samples import ClientSamples, Lots, normalised

__all__ = ["Personalizer"]


class Personalizer:
    """A method of a run, ready to serve fresh clients; weights are fetched anew for each.

    Args:
        run: a run folder; the run may have been cut off.
        method: a method of the run; empty: the main one.
        tell: is told, in a line each, what is being done; the first time it may take minutes.

    Raises:
        RunFolderError: there is no run, no checkpoint, or one of other data.
        SettingsError: the run has no such method.
    """

    def __init__(self, run: str | Path, method: str = "", tell: Callable[[str], None] = lambda _: None) -> None:
        self.trained: Trained = open_trained(Path(run), method, tell)
        self._preparation = self.trained.preparation
        data, population = self._preparation.data.dataset, self._preparation.population
        model = self._preparation.settings.experts.model
        self._expert = build_expert(model, self._preparation.spec, 0).to(self.trained.device)
        table, device = self._preparation.table, self.trained.device
        self._store = SampleStore.of(data, population, table, device, expert_reads(model))
        self._scale = channel_statistics(data.x_NCHW, population.public_ids)  # the common expert sees images by it
        self._embedded(np.asarray(data.x_NCHW[:1]))  # torch sets itself up at its first pass: no client's time

    @property
    def num_clients(self) -> int:
        """Returns U, the number of unseen clients of the run."""
        return len(self._preparation.population.unseen)

    def client(self, number: int = 0, samples: int = 0, seed: int | None = None) -> Personalized:
        """Returns what an unseen client of the run gets.

        Args:
            number: 0 to U - 1, of U unseen clients. With all its samples, and after the run's last round, it gets
                what `clients.csv` says, to the last digit.
            samples: how many of its samples, by lot; 0: those that the run tests.
            seed: of that lot; `None`: the run's.

        Raises:
            SettingsError: the run has no such client.
        """
        population, settings = self._preparation.population, self._preparation.settings
        if not 0 <= number < len(population.unseen):
            raise SettingsError(
                f"--client must be the number of an unseen client, 0 to {len(population.unseen) - 1}, got {number}; "
                f"hint: 0 is the client {population.unseen[0]} of clients.csv"
            )
        client_id = population.unseen[number]
        ids = served_ids(population, client_id, settings.evaluate.samples, settings.seed)
        ids = ids[self._drawn(len(ids), samples, seed)]
        # These tell the time. The run's own, which differ in the last bits at most, are what the gate reads below.
        images = np.array(self._preparation.data.dataset.x_NCHW[ids])
        embedding_BD, _, seconds = self._embedded(images)
        _check_alike(embedding_BD, self._preparation.table.embeddings[ids])
        round_num, seed_of_run = self.trained.checkpoint.round_num, settings.seed
        gate = self.trained.empty_gate()
        lots = None if gate is None else lots_of(seed_of_run, "evaluate", round_num, client_id, gate)
        return self._served(
            Batch(
                who=f"unseen client {number} ({client_id} in clients.csv)",
                images=images,
                samples=self._store.load(ids, self.trained.reads, lots),
                common_BC=self._preparation.store.common_logits(ids),
                mean_D=mean_embedding(self._preparation.store.gate_input(ids, "embedding")),
                head=self.trained.head_of(client_id),
                ties=ties_of(seed_of_run, round_num, client_id),
                seconds=seconds,
            )
        )

    def folder(self, path: str | Path, samples: int = 0, seed: int | None = None) -> Personalized:
        """Returns what the owner of the pictures at `path` gets, a folder or a tar archive.

        Args:
            path: pictures of any size; where each lies in a folder named after a class, that is its label.
            samples: how many of them, by lot; 0: all.
            seed: of that lot; `None`: the run's.

        Raises:
            DataError: there is no picture, or a broken one.
            SettingsError: the gate reads what pictures do not show.
        """
        dataset = self._preparation.data.dataset
        own = open_images(Path(path).expanduser(), dataset.x_NCHW.shape[1:], dataset.class_names)
        rows = self._drawn(len(own.images), samples, seed)
        labels = None if own.labels is None else own.labels[rows]
        who = f"the owner of {len(rows)} pictures in {Path(path).expanduser().absolute().name}"
        files = [own.files[row] for row in rows]
        return self.images(own.images[rows], labels, who=who, notes=own.notes, files=files)

    def images(
        self,
        images: NDArray[np.uint8],
        labels: NDArray[np.int64] | None = None,
        *,
        who: str = "the owner of these images",
        notes: Sequence[str] = (),
        files: Sequence[str] = (),
    ) -> Personalized:
        """Returns what the owner of these images gets.

        Args:
            images: uint8 (B, channels, height, width), in the shape of the run's data.
            labels: int64 (B,), to count right answers; `None`: not known.
            who: their owner, in words.
            notes: what a person must know of them.
            files: a name an image, as the page shall tell them; empty: they are numbered.

        Raises:
            DataError: images of another shape or type, or none.
            SettingsError: the gate reads what images do not show.
        """
        shape = self._preparation.data.dataset.x_NCHW.shape[1:]
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1:] != shape or not len(images):
            raise DataError(
                f"images must be uint8 of the run's shape [B, {', '.join(map(str, shape))}], at least one, got "
                f"{images.dtype} {list(images.shape)}; hint: Personalizer.folder brings pictures to that shape"
            )
        num_classes = self._preparation.spec.num_classes
        if labels is not None and not (labels.shape == (len(images),) and np.isin(labels, range(num_classes)).all()):
            raise DataError(f"labels must be one an image, 0 to {num_classes - 1}, got {list(labels.shape)}: {labels}")
        if files and len(files) != len(images):
            raise DataError(f"files must be one an image, got {len(files)} for {len(images)} images")
        embedding_BD, common_BC, seconds = self._embedded(images)
        y_B = torch.full((len(images),), UNKNOWN) if labels is None else torch.tensor(labels, dtype=torch.int64)
        device, seed = self.trained.device, self._preparation.settings.seed
        read = read_by_experts(expert_reads(self._preparation.settings.experts.model), images, embedding_BD.numpy())
        mean, std = (part.view(-1, 1, 1).to(device) for part in (self._store.mean, self._store.std))
        shown = torch.tensor(read, device=device)
        samples = ClientSamples(
            images=shown,
            y=y_B.to(device),
            gate_input=self._gate_input(images, embedding_BD, common_BC, normalised(shown, mean, std)).to(device),
            mean=mean,
            std=std,
        )
        ties = numpy_stream(seed, "personalize", "ties")
        return self._served(
            Batch(
                who=who,
                images=images,
                samples=samples,
                common_BC=common_BC,
                mean_D=mean_embedding(embedding_BD),
                ties=ties,
                seconds=seconds,
                notes=tuple(notes),
                files=tuple(files),
            )
        )

    def _served(self, batch: Batch) -> Personalized:
        return serve_batch(self.trained, self._store, self._expert, batch)

    def _drawn(self, size: int, samples: int, seed: int | None) -> Ids:
        """Returns which of `size` samples are taken, ascending."""
        if not samples or size <= samples:
            return np.arange(size)
        stream = numpy_stream(self._preparation.settings.seed if seed is None else seed, "personalize", "samples")
        return np.sort(stream.choice(size, samples, replace=False))

    def _embedded(self, images: NDArray[np.uint8]) -> tuple[Tensor, Tensor, float]:
        """Returns the common expert's embedding_BD and logits_BC of images, and the seconds until a gate can rank."""
        expert, device = self._preparation.common.expert, self.trained.device
        mean, std = (statistic.to(device) for statistic in self._scale)
        started = time.perf_counter()
        parts = list(forward_all(expert, images, mean, std, device))
        embedding, logits = (torch.from_numpy(np.concatenate(part)) for part in zip(*parts, strict=True))
        if self.trained.reads == "fingerprint":
            self._store.fingerprint_of(images, logits.numpy())
        return embedding, logits, time.perf_counter() - started

    def _gate_input(self, images: NDArray[np.uint8], embedding_BD: Tensor, common_BC: Tensor, x_BCHW: Tensor) -> Tensor:
        """Returns what the gate reads of images that are not the run's."""
        reads = self.trained.reads
        if reads == "group":
            raise SettingsError(
                f"the gate '{self._preparation.settings.gate.name}' is told each sample's true label group, which "
                "pictures do not show, so it serves the run's own clients only; hint: --client, or a run with another "
                "gate.name"
            )
        gate = self.trained.empty_gate()
        if gate is None:
            return torch.empty(len(embedding_BD), 0)
        seed = derive_seed(self._preparation.settings.seed, "personalize", "lots")
        lots = Lots(seed, self.trained.num_experts, gate.draws)
        if reads == "lot":
            return lots.draw(len(embedding_BD))
        if reads == "fingerprint":
            return torch.cat([self._store.fingerprint_of(images, common_BC.numpy()), lots.numbers(len(images))], dim=1)
        read_BD = x_BCHW.flatten(1).cpu() if reads == "image" else embedding_BD
        return torch.cat([read_BD, lots.numbers(len(read_BD))], dim=1)


def _check_alike(fresh_BD: Tensor, kept_BD: NDArray[np.float32]) -> None:
    if not np.allclose(fresh_BD.numpy(), kept_BD, rtol=1e-2, atol=1e-2 * float(np.abs(kept_BD).max(initial=1e-6))):
        raise DataError(
            "the common expert must say of a sample what it said in the run, and does not; hint: remove the folder "
            "cache/embeddings in fedmoe's own folder"
        )
