"""From counted work to stages: what each has to do, its terms of time, its disk and its memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..config import SweepConfig
from ..sweeps.grid import Grid
from . import sizes
from .done import Done
from .measured import Measured
from .model_facts import PriorFacts, StudentFacts, student_facts, student_precision
from .rates import Hardware, Precision, load_rates
from .stages import RESOURCES_OF, Clock, Stage
from .workload import Bank, Codebooks, Crop, ImageSet, Training, crop_of, stored_side, teacher_crop

if TYPE_CHECKING:
    from ..distiller import CodebookOptions
    from ..evaluation import Protocol
    from .dataset_facts import DatasetFacts

BACKWARD = 3  # a training step costs a forward pass and twice as much backward


@dataclass(frozen=True)
class Estimate:
    """All that the stages of a plan are reckoned from."""

    config: SweepConfig
    grid: Grid
    facts: DatasetFacts
    prior: PriorFacts
    protocol: Protocol
    hardware: Hardware
    done: Done
    measured: Measured
    spaces: list[CodebookOptions]
    books: list[Codebooks]
    sets: list[ImageSet]
    banks: list[Bank]
    trainings: list[Training]

    def stages(self) -> list[Stage]:
        """Return the stages in the order of a sweep."""
        made = [self.check(), self.train_prior(), self.encode(), self.quantise(), self.generate(), self.teacher()]
        made += [self.label(), self.train(), self.score()]
        return [stage for stage in made if stage.tasks]

    @property
    def size(self) -> int:
        """Pixels a side of what students see."""
        return self.protocol.image_size or self.facts.image_size

    def stage(self, name: str, tasks: int, done: int, work: str, clock: Clock, **more: int) -> Stage:
        return Stage(name, tasks, done, work, clock.resources, self.hardware, tuple(clock.terms), **more)

    def clock(self, name: str) -> Clock:
        return Clock(self.hardware, self.config.resources.of(RESOURCES_OF[name]))

    def check(self) -> Stage:
        facts, clock = self.facts, self.clock("check")
        clock.fixed("start of Ray and imports", load_rates().start_seconds)
        if not facts.files:
            return self.stage("check", 1, 0, "config, data and methods", clock, memory=sizes.process())
        left = facts.classes - self.done.checked
        images = round((facts.images + facts.val + facts.test) * left / facts.classes)
        clock.cores("image files to read", images, self._decoding)
        return self.stage(
            "check", facts.classes, self.done.checked, f"{images:,} image files", clock, memory=sizes.process()
        )

    def train_prior(self) -> Stage:
        config, clock = self.config.prior, self.clock("train prior")
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

    def encode(self) -> Stage:
        facts, prior, clock = self.facts, self.prior, self.clock("encode")
        images = disk = 0
        for number, options in enumerate(self.spaces):
            left = 1 - self.done.latents.get(number, 0) / facts.classes
            own = round(facts.images * left)
            images += own
            disk += sizes.latents_disk(own, prior.dimension)
            clock.network("encode", "images", own, prior.encode_flops, prior.precision, self.measured.encode())
            if options.space == "noise":
                flops = options.inversion_steps * prior.forward_flops
                clock.network("generate", "inversions", own, flops, prior.precision)
        if facts.files and not self.measured.encode():
            clock.cores("image files to decode", images, self._decoding)
        return self.stage(
            "encode", facts.classes * len(self.spaces), sum(self.done.latents.values()), f"{images:,} images", clock,
            disk=disk, memory=sizes.encode_memory(prior, facts.image_size, gpu=clock.on_gpu),
            device_memory=self._on_device(clock, prior.weights_bytes),
        )  # fmt: skip

    def quantise(self) -> Stage:
        """Codebooks, and the exact W2 of each set with its weights and with equal ones."""
        facts, core, clock = self.facts, load_rates().core, self.clock("quantise")
        samples, dimension = facts.images / facts.classes, self.prior.dimension
        tasks = done = disk = largest = 0
        for number, kind in enumerate(self.books):
            each = len(kind.clusters) * len(kind.seeds)
            made = self.done.codebooks.get(number, 0)
            left = facts.classes * each - made
            tasks, done, largest = tasks + facts.classes * each, done + made, max(largest, *kind.clusters)
            mean = sum(kind.clusters) / len(kind.clusters)
            disk += round(left * sizes.codebook_disk(1, dimension, 0) * mean + left * samples * sizes.INT64)
            if kind.options.clustering == "lloyd":
                product = samples**2 * dimension / (core.product_gflops * 1e9)
                clock.cores("products of a class with itself", left / each, product)
                balanced = kind.options.masses == "balanced"
                clock.cores("codebooks", left, core.balanced_seconds if balanced else core.codebook_seconds)
            else:
                clock.cores("one-pass codebooks", left, 2 * samples * mean * dimension / (core.distance_gflops * 1e9))
        points = [spec.ipc for spec in self.grid.sets if spec.title not in self.done.sets]
        if points:
            pairs = samples * sum(points) / len(points)
            seconds = 2 * pairs * dimension / (core.distance_gflops * 1e9) + pairs * core.transport_ns * 1e-9
            what = f"exact W2 at {sum(points) / len(points):g} points on average"
            clock.cores(what, 2 * len(points) * facts.classes, seconds)
        memory = sizes.quantise_memory(self.prior, max(facts.train), largest)
        return self.stage("quantise", tasks, done, f"{tasks - done:,} codebooks", clock, disk=disk, memory=memory)

    def generate(self) -> Stage:
        """Images, and the sets that they are put together to."""
        facts, prior, core, clock = self.facts, self.prior, load_rates().core, self.clock("generate")
        left = [one for one in self.sets if not {spec.title for spec in one.specs} & self.done.sets]
        counts: dict[tuple[int, float | None], int] = {}
        disk, megapixels, written = 0, 0.0, 0
        for one in left:
            count, side = one.spec.ipc * facts.classes, stored_side(one.spec, facts)
            if one.decodes:
                kind = (one.forwards, self.measured.generate(one.spec.distiller().config.model_dump(mode="json")))
                counts[kind] = counts.get(kind, 0) + count
                disk += sizes.pixels(count, side)
            disk += sizes.set_disk(count, side)  # once for all sets with these images, whose files are links
            megapixels, written = megapixels + count * side**2 / 1e6, written + count
        for (forwards, measured), count in counts.items():
            flops = forwards * prior.forward_flops + prior.decode_flops
            what = f"images of {forwards} passes and a decoding"
            clock.network("generate", what, count, flops, prior.precision, measured)
        images = sum(counts.values())
        if written:
            clock.cores("PNGs of the sets", written, megapixels / written / core.png_megapixels_per_second)
        titles = {spec.title for spec in self.grid.sets}
        return self.stage(
            "generate", len(titles), len(titles & self.done.sets),
            f"{images:,} images of {len(left)} sets of images; {len(titles - self.done.sets)} distilled sets", clock,
            disk=disk, memory=sizes.generate_memory(prior, max(self.config.ipc), gpu=clock.on_gpu),
            device_memory=self._on_device(clock, prior.weights_bytes),
        )  # fmt: skip

    def teacher(self) -> Stage:
        config, facts, clock = self.config.teacher, self.facts, self.clock("teacher")
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
        facts, clock = self.facts, self.clock("labels")
        left = [bank for bank in self.banks if not self._labelled(bank)]
        images = sum(bank.images for bank in left)
        if left:
            flops, measured = self._teacher.forward_flops, self.measured.label()
            clock.network("label", "augmented images", images, flops, "float32", measured)
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
        facts, clock, left = self.facts, self.clock("score"), self._trainings_left()
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
    def _decoding(self) -> float:
        return 1 / load_rates().core.jpegs_per_second

    @property
    def _teacher(self) -> StudentFacts:
        return self._student(self.config.teacher.student)

    def _student(self, name: str) -> StudentFacts:
        return student_facts(name, self.facts.classes, self.size)

    def _precision(self, clock: Clock, student: str) -> Precision:
        return student_precision(self.protocol.execution, student, gpu=clock.on_gpu)

    def _scoring(self, clock: Clock, images: int, student: str) -> None:
        flops = self._student(student).forward_flops
        clock.network("score", f"images to score {student}", images, flops, self._precision(clock, student))

    def _decode(self, clock: Clock, crop: Crop) -> int:
        """Count the decoding of the images to score, and return the bytes they are kept in; 0 where that is done."""
        facts = self.facts
        if not facts.files or crop in self.done.crops:
            return 0
        clock.cores("image files to decode", facts.val + facts.test, self._decoding)
        return sizes.pixels(facts.val + facts.test, crop[1])

    def _labelled(self, bank: Bank) -> bool:
        """Return whether every row that needs the bank is there."""
        titles = {None} if bank.set is None else {spec.title for spec in bank.set.specs}
        return all(
            number in self.done.rows
            for number, row in enumerate(self.grid.rows)
            if (row.kind, row.seed) == (bank.kind, bank.seed) and (row.set and row.set.title) in titles
        )

    def _trainings_left(self) -> list[Training]:
        return [training for training in self.trainings if not set(training.rows) <= self.done.rows]

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
