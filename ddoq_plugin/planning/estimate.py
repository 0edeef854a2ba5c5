"""From counted work to stages: what each has to do, its terms of time, its disk and its memory."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..config import STAGES, SweepConfig
from ..sweeps.grid import Grid
from . import sizes
from .done import Done
from .measured import Measured
from .model_facts import PriorCard, StudentCard, student_facts, student_precision
from .rates import Hardware, Precision, load_rates
from .stages import Clock, Stage
from .workload import Bank, Crop, Declared, Training, crop_of, teacher_crop

if TYPE_CHECKING:
    from ..distiller import Distiller, Work
    from ..evaluation import Protocol
    from .dataset_facts import DatasetFacts

BACKWARD = 3  # a training step costs a forward pass and twice as much backward
ONCE_FOR_IMAGES = ("png_megapixels",)  # what sets of the same images share


@dataclass(frozen=True)
class Estimate:
    """All that the stages of a plan are reckoned from."""

    config: SweepConfig
    grid: Grid
    facts: DatasetFacts
    prior: PriorCard
    protocol: Protocol
    hardware: Hardware
    done: Done
    measured: Measured
    declared: Declared
    banks: list[Bank]
    trainings: list[Training]

    def stages(self) -> list[Stage]:
        """Return the stages in the order of a sweep."""
        made = [self.check(), self.train_prior(), *self.works(), self.teacher()]
        made += [self.label(), self.train(), self.score()]
        return [stage for stage in made if stage.tasks]

    @property
    def size(self) -> int:
        """Pixels a side of what students see."""
        return self.protocol.image_size or self.facts.image_size

    @functools.cached_property
    def rows_done(self) -> frozenset[int]:
        """Places in the grid of the finished rows."""
        return self.done.rows(self.grid)

    def stage(self, name: str, tasks: int, done: int, work: str, clock: Clock, **more: Any) -> Stage:
        return Stage(name, clock.asks, tasks, done, work, clock.resources, self.hardware, tuple(clock.terms), **more)

    def clock(self, asks: str) -> Clock:
        return Clock(self.hardware, asks, self.config.resources.of(asks))

    def check(self) -> Stage:
        facts, clock = self.facts, self.clock("encode")
        clock.fixed("start of Ray and imports", load_rates().start_seconds)
        if not facts.files:
            return self.stage("check", 1, 0, "config, data and methods", clock, memory=sizes.process())
        left = facts.classes - self.done.checked
        images = round((facts.images + facts.val + facts.test) * left / facts.classes)
        clock.operation("image_files", images)
        return self.stage(
            "check", facts.classes, self.done.checked, f"{images:,} image files", clock, memory=sizes.process()
        )

    def train_prior(self) -> Stage:
        config, clock = self.config.prior, self.clock("train")
        if config is None or config.train is None:
            return self.stage("train prior", 0, 0, "", clock)
        from ..priors import load_recipe

        recipe, facts = load_recipe(config.train), self.prior
        steps = (recipe.autoencoder.steps, recipe.denoiser.steps)
        if not self.done.prior:
            images = recipe.autoencoder.steps * recipe.autoencoder.batch_size
            flops = BACKWARD * (facts.encode_flops + facts.decode_flops)
            clock.network("prior", "images of the auto-encoder", images, flops, facts.precision)
            images = recipe.denoiser.steps * recipe.denoiser.batch_size
            clock.network("prior", "latents of the denoiser", images, BACKWARD * facts.forward_flops, facts.precision)
        held = sizes.process() + sizes.pixels(self.facts.images, self.facts.image_size) + 4 * facts.weights_bytes
        return self.stage(
            "train prior", 1, int(self.done.prior), f"recipe {config.train}: {steps[0]:,} + {steps[1]:,} steps", clock,
            disk=0 if self.done.prior else facts.weights_bytes, memory=held,
        )  # fmt: skip

    def works(self) -> list[Stage]:
        """Return a stage for each kind of declared work, in the order in which a sweep makes them."""
        kinds: dict[tuple[str, str], list[Work]] = {}
        for work in self.declared.works():
            kinds.setdefault((work.kind, work.stage), []).append(work)
        order = sorted(kinds, key=lambda key: (key[0] == "sets", STAGES.index(key[1])))
        return [self._of_kind(kind, asks, kinds[kind, asks]) for kind, asks in order]

    def _of_kind(self, kind: str, asks: str, works: list[Work]) -> Stage:
        clock, left = self.clock(asks), [work for work in works if not self.done.has(work)]
        same_images = self._same_images() if kind == "sets" else {}
        passes: dict[tuple[str, int], float] = {}
        operations: dict[str, float] = {}
        measured: dict[float, int] = {}
        batches: dict[str, Work] = {}
        seen, disk = set(), 0
        for work in left:
            effort, rate = work.effort, self._rate(work)
            again = same_images.get(work.address) in seen  # its images' files are links
            seen.add(same_images.get(work.address, work.address))
            disk += 0 if again else effort.bytes
            if rate is not None and effort.images:
                measured[rate] = measured.get(rate, 0) + effort.images
            else:
                for name, count in effort.passes.items():
                    key = name, effort.side or self.facts.image_size
                    passes[key] = passes.get(key, 0) + count
                if work.batch is not None:
                    batches.setdefault(work.batch.key, work)
            for name, amount in effort.operations.items():
                if (name not in ONCE_FOR_IMAGES or not again) and (rate is None or kind == "sets"):
                    operations[name] = operations.get(name, 0) + amount
        for work in batches.values():
            for name, amount in work.batch.operations.items():
                operations[name] = operations.get(name, 0) + amount
        for rate, images in measured.items():
            clock.measured("images", images, rate)
        for (name, side), count in passes.items():
            stage, flops, precision = self._network(clock, name, side)
            clock.network(stage, f"passes of {name}", count, flops, precision)
        for name, amount in operations.items():
            clock.operation(name, amount)
        images = sum(work.effort.images for work in left)
        memory, device_memory = self._memory(clock, works)
        return self.stage(
            kind, len(works), len(works) - len(left), f"{images:,} images" if images else f"{len(left):,} {kind}",
            clock, disk=disk, memory=memory, device_memory=device_memory,
        )  # fmt: skip

    def _same_images(self) -> dict[tuple[str, str], str]:
        """Return for each set what it shares with the sets of the same images."""
        return {root.address: self.declared.alike[title][0] for title, root in self.declared.roots.items()}

    def _rate(self, work: Work) -> float | None:
        if work.kind != "sets":
            return self.measured.work(work)
        return self.measured.own(self._method(work)) if work.effort.images else None

    def _method(self, work: Work) -> Distiller:
        title = next(title for title, root in self.declared.roots.items() if root.address == work.address)
        return next(spec for spec in self.grid.sets if spec.title == title).distiller()

    def _network(self, clock: Clock, name: str, side: int) -> tuple[str, float, Precision]:
        """Return the utilisation, FLOP and precision of a forward pass: of the prior's parts, or of a student."""
        prior = {"encode": self.prior.encode_flops, "decode": self.prior.decode_flops}
        prior["denoise"] = self.prior.forward_flops
        if name in prior:
            return "encode" if name == "encode" else "generate", prior[name], self.prior.precision
        card = student_facts(name, self.facts.classes, side)
        return "train", card.forward_flops, "float32"

    def _memory(self, clock: Clock, works: list[Work]) -> tuple[int, int]:
        """Return the bytes of the largest piece in main memory and on the device."""
        own = max(work.effort.memory for work in works)
        networks = {(name, work.effort.side or self.facts.image_size) for work in works for name in work.effort.passes}
        weights = batch = 0
        for name, side in networks:
            if name in ("encode", "denoise", "decode"):
                batch = sizes.batch_memory(self.prior, gpu=clock.on_gpu)
                weights = max(weights, self.prior.weights_bytes)
            else:
                weights = max(weights, 16 * student_facts(name, self.facts.classes, side).parameters)
        return sizes.process() + own + weights + batch, self._on_device(clock, weights)

    def teacher(self) -> Stage:
        config, facts, clock = self.config.teacher, self.facts, self.clock("train")
        if config is None or not self.protocol.needs_teacher:
            return self.stage("teacher", 0, 0, "", clock)
        own, work = self._teacher, f"{config.student}: scored on validation and test"
        memory, disk = sizes.process(), 0
        if not self.done.teacher:
            disk = 4 * own.parameters + self._decode(clock, teacher_crop(self.config, self.protocol, self.facts))
            if config.weights is None:
                from ..evaluation import load_protocol

                protocol = load_protocol(config.protocol)
                numbers = protocol.numbers(config.student, facts.images, facts.classes)
                images, work = numbers.steps * numbers.batch_size, f"{config.student}: {numbers.steps:,} steps"
                precision = self._precision(clock, config.student)
                clock.network("train", "images", images, BACKWARD * own.forward_flops, precision)
                memory += sizes.set_memory(facts.images, facts.image_size, protocol, self.size)
            self._scoring(clock, facts.val + facts.test, config.student)
        return self.stage(
            "teacher", 1, int(self.done.teacher), work, clock, disk=disk,
            memory=memory + 16 * own.parameters,
        )  # fmt: skip

    def label(self) -> Stage:
        facts, clock = self.facts, self.clock("label")
        left = [bank for bank in self.banks if not self._labelled(bank)]
        images = sum(bank.images for bank in left)
        if left:
            flops, rate = self._teacher.forward_flops, self.measured.label()
            clock.network("label", "augmented images", images, flops, "float32", rate)
        sides = [(bank.size, bank.side, self.protocol, self.size) for bank in self.banks]
        arrives = max((sizes.set_memory(*one) for one in sides), default=0)
        held = max((sizes.held_set(*one) for one in sides), default=0)
        return self.stage(
            "labels", len(self.banks), len(self.banks) - len(left), f"{images:,} augmented images", clock,
            disk=sizes.bank_disk(images, facts.classes, self.protocol.stored_top_k),
            memory=sizes.process() + arrives + 2 * sizes.BANK_SHARD, device_memory=self._on_device(clock, held),
        )  # fmt: skip

    def train(self) -> Stage:
        clock, left = self.clock("train"), self._trainings_left()
        by_student: dict[str, int] = {}
        for training in left:
            by_student[training.student] = by_student.get(training.student, 0) + training.images
        online = self._teacher.forward_flops if self.protocol.label_mode == "soft_online" else 0
        for student, images in by_student.items():
            flops = BACKWARD * self._student(student).forward_flops + online
            measured = self.measured.train(student)
            clock.network("train", f"images of {student}", images, flops, self._precision(clock, student), measured)
        arrives, held, step = self._training_memory(clock)
        work = f"{sum(by_student.values()):,} images"
        return self.stage(
            "train", len(self.trainings), len(self.trainings) - len(left), work, clock,
            memory=sizes.process() + arrives + (0 if clock.on_gpu else step),
            device_memory=self._on_device(clock, held + step),
            limit=self.config.resources.max_concurrent,
        )  # fmt: skip

    def score(self) -> Stage:
        """Test and validation images through every student, decoded once for all where they are files."""
        facts, clock, left = self.facts, self.clock("train"), self._trainings_left()
        crop = crop_of(self.protocol, facts)
        by_teacher = crop == teacher_crop(self.config, self.protocol, facts) and not self.done.teacher
        images, disk = 0, self._decode(clock, crop) if left and not by_teacher else 0
        for student in self.config.students:
            own = [training for training in left if training.student == student]
            count = sum(facts.val + (0 if t.kind == "full_data_2x" else facts.test) for t in own)
            images += count
            self._scoring(clock, count, student)
        return self.stage(
            "score", len(self.trainings), len(self.trainings) - len(left), f"{images:,} images", clock, disk=disk,
            memory=sizes.process() + sizes.pixels(self.protocol.scoring.batch_size, facts.image_size) * 5,
            limit=self.config.resources.max_concurrent,
        )  # fmt: skip

    @property
    def _teacher(self) -> StudentCard:
        return self._student(self.config.teacher.student)

    def _student(self, name: str) -> StudentCard:
        return student_facts(name, self.facts.classes, self.size)

    def _precision(self, clock: Clock, student: str) -> Precision:
        return student_precision(self.protocol.execution, student, gpu=clock.on_gpu)

    def _scoring(self, clock: Clock, images: int, student: str) -> None:
        flops = self._student(student).forward_flops
        clock.network("score", f"images to score {student}", images, flops, self._precision(clock, student))

    def _decode(self, clock: Clock, crop: Crop) -> int:
        """Count the decoding of the images to score, and return the bytes they are kept in; 0 where that is done."""
        facts = self.facts
        if not facts.files or self.done.has_crop(crop):
            return 0
        clock.operation("image_files", facts.val + facts.test)
        return sizes.pixels(facts.val + facts.test, crop[1])

    def _labelled(self, bank: Bank) -> bool:
        """Return whether every row that needs the bank is there."""
        return all(
            number in self.rows_done
            for number, row in enumerate(self.grid.rows)
            if (row.kind, row.seed) == (bank.kind, bank.seed) and (row.set and row.set.title) in bank.titles
        )

    def _trainings_left(self) -> list[Training]:
        return [training for training in self.trainings if not set(training.rows) <= self.rows_done]

    def _training_memory(self, clock: Clock) -> tuple[int, int, int]:
        """Return the bytes of the largest set in main memory and on the device, and those of the largest step."""
        parts = self.protocol.accumulation
        sides = [(t.size, t.side, self.protocol, self.size) for t in self.trainings]
        # all training images are read into memory, while a distilled set is mapped from its file
        whole = max((sizes.pixels(t.size, t.side) for t in self.trainings if t.set is None), default=0)
        steps = (
            sizes.step_memory(
                self._student(t.student), t.batch, parts, half=self._precision(clock, t.student) == "half"
            )
            for t in self.trainings
        )
        arrives = whole + max(sizes.set_memory(*one) for one in sides)
        return arrives, max(sizes.held_set(*one) for one in sides), max(steps)

    def _on_device(self, clock: Clock, held: int) -> int:
        return held if clock.on_gpu else 0
