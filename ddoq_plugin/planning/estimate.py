"""From counted work to stages: what each has to do, its terms of time, its disk and its memory."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..config import STAGES, SweepConfig
from ..distiller.dry_run import DryRunContext, PriorFacts
from ..evaluation import load_protocol
from ..priors import load_recipe
from ..registry import PRIORS
from ..sweeps.grid import Grid
from ..sweeps.resolve import resolved
from ..sweeps.session import SweepSession
from . import sizes
from .done import Crop, Done
from .measured import Measured
from .model_facts import StudentCard, prior_facts, student_facts, student_precision
from .rates import Hardware, Precision, load_rates
from .stages import Stage, Term
from .workload import Shared, banks, declare, trainings

if TYPE_CHECKING:
    from ..distiller import Work
    from ..evaluation import Protocol
    from .dataset_facts import DatasetFacts

BACKWARD = 3  # a training step costs a forward pass and twice as much backward
ONCE_FOR_IMAGES = ("png_megapixels",)  # what sets of the same images share
OF_PRIOR = ("encode", "denoise", "decode")


class Estimate:
    """All that the stages of a plan are reckoned from. Nothing counts as done unless ``look_up_done``."""

    def __init__(
        self, config: SweepConfig, grid: Grid, facts: DatasetFacts, hardware: Hardware, *, look_up_done: bool
    ) -> None:
        self.config, self.grid, self.facts, self.hardware = config, grid, facts, hardware
        self.protocol = load_protocol(config.protocol)
        there = config.store_folder.is_dir() or (config.output_folder / "rows").is_dir()
        session = SweepSession(resolved(config), data=facts.data) if look_up_done and facts.data and there else None
        self.done = Done(session)
        gpu = config.resources.device != "cpu" and any(config.resources.of(one).gpus for one in ("encode", "generate"))
        card = self.prior = prior_facts(config.prior, facts.image_size, facts.classes, gpu=gpu)
        known = self.done.prior_facts()
        if known is None and config.prior is not None:
            can_denoise = bool(PRIORS.entry(config.prior.name).flags.get("can_denoise", True))
            known = PriorFacts(config.prior.name, "not there yet", card.latent_shape, card.image_size, can_denoise)
        # declared with a session, work has a sweep's keys
        store, identity = (None, None) if session is None else (session.store, session.identity)
        context = DryRunContext(facts.stand_in(), config.prior, store, facts=known, identity=identity)
        self.declared = declare(grid, context)
        self.measured = Measured(config, hardware.device, facts.name, self.protocol.name)
        self.banks = banks(config, grid, self.declared, self.protocol, facts)
        self.trainings = trainings(grid, self.declared, self.protocol, facts)
        self.size, self.crop = _scored(self.protocol, facts)
        self.rows_done = self.done.rows(grid)
        self.to_train = [one for one in self.trainings if not one.rows <= self.rows_done]
        self.teacher_protocol: Protocol | None = None  # it is scored as students are, or as it is trained
        if config.teacher is not None and self.protocol.needs_teacher:
            trained = config.teacher.weights is None
            self.teacher_protocol = load_protocol(config.teacher.protocol) if trained else self.protocol

    def stages(self) -> list[Stage]:
        """Return the stages in the order of a sweep."""
        made = [self._check(), self._train_prior(), *self._works(), self._train_teacher()]
        made += [self._label(), self._train(), self._score()]
        return [stage for stage in made if stage.tasks]

    def _stage(self, name: str, asks: str, tasks: int = 0, done: int = 0) -> Stage:
        resources = self.config.resources.of(asks)
        return Stage(name, asks, resources, self.hardware, tasks, done, memory=sizes.process())

    def _check(self) -> Stage:
        facts, stage = self.facts, self._stage("check", "encode", tasks=1)
        stage.terms.append(Term(load_rates().start_seconds, "start of Ray and imports"))
        if not facts.files:
            stage.work = "config, data and methods"
            return stage
        stage.tasks, stage.done = facts.classes, self.done.checked
        images = round((facts.images + facts.val + facts.test) * stage.todo / facts.classes)
        stage.operation("image_files", images)
        stage.work = f"{images:,} image files"
        return stage

    def _train_prior(self) -> Stage:
        config, card, stage = self.config.prior, self.prior, self._stage("train prior", "train")
        if config is None or config.train is None:
            return stage
        recipe = load_recipe(config.train)
        first, second = recipe.autoencoder, recipe.denoiser
        stage.tasks, stage.done = 1, int(self.done.prior)
        stage.work = f"recipe {config.train}: {first.steps:,} + {second.steps:,} steps"
        stage.memory += sizes.pixels(self.facts.images, self.facts.image_size) + 4 * card.weights_bytes
        if stage.todo:
            stage.disk = card.weights_bytes
            images, flops = first.steps * first.batch_size, BACKWARD * (card.encode_flops + card.decode_flops)
            stage.network("prior", "images of the auto-encoder", images, flops, card.precision)
            images, flops = second.steps * second.batch_size, BACKWARD * card.forward_flops
            stage.network("prior", "latents of the denoiser", images, flops, card.precision)
        return stage

    def _works(self) -> list[Stage]:
        """Return a stage for each kind of declared work, in the order in which a sweep makes them."""
        kinds: dict[tuple[str, str], list[Work]] = {}
        for work in self.declared.works():
            kinds.setdefault((work.kind, work.stage), []).append(work)
        order = sorted(kinds, key=lambda key: (key[0] == "sets", STAGES.index(key[1])))
        return [self._of_kind(kind, asks, kinds[kind, asks]) for kind, asks in order]

    def _of_kind(self, kind: str, asks: str, works: list[Work]) -> Stage:
        left = [work for work in works if not self.done.has(work)]
        stage = self._stage(kind, asks, len(works), len(works) - len(left))
        passes: dict[tuple[str, int], float] = defaultdict(float)
        operations: dict[str, float] = defaultdict(float)
        measured: dict[float, int] = defaultdict(int)
        batches: dict[str, Work] = {}
        seen: set[object] = set()
        roots = self.declared.roots
        specs = {roots[spec.title].address: spec for spec in self.grid.sets if spec.title in roots}
        for work in left:
            effort, again = work.effort, False
            spec = specs.get(work.address)  # None for the set of a wrapped method too
            if spec is not None:
                rate = self.measured.own(spec.distiller()) if effort.images else None
                same = self.declared.alike[spec.title][0]
                again = same in seen  # its images' files are links
                seen.add(same)
            else:
                rate = self.measured.work(work)
            stage.disk += 0 if again else effort.bytes
            if rate is not None and effort.images:
                measured[rate] += effort.images
            else:
                for name, count in effort.passes.items():
                    passes[name, effort.side or self.facts.image_size] += count
                if work.batch is not None:
                    batches.setdefault(work.batch.key, work)
            for name, amount in effort.operations.items():
                if (name not in ONCE_FOR_IMAGES or not again) and (rate is None or kind == "sets"):
                    operations[name] += amount
        for work in batches.values():
            for name, amount in work.batch.operations.items():
                operations[name] += amount
        for rate, images in measured.items():
            stage.measured("images", images, rate)
        card = self.prior
        of_prior = dict(zip(OF_PRIOR, (card.encode_flops, card.forward_flops, card.decode_flops), strict=True))
        for (name, side), count in passes.items():
            if name in of_prior:
                use, flops, precision = "encode" if name == "encode" else "generate", of_prior[name], card.precision
            else:
                use, flops, precision = "train", self._student(name, side).forward_flops, "float32"
            stage.network(use, f"passes of {name}", count, flops, precision)
        for name, amount in operations.items():
            stage.operation(name, amount)
        images = sum(work.effort.images for work in left)
        stage.work = f"{images:,} images" if images else f"{len(left):,} {kind}"
        self._add_memory(stage, works)
        return stage

    def _add_memory(self, stage: Stage, works: list[Work]) -> None:
        """Count the largest piece of work in main memory and on the device."""
        batch = 0
        for effort in {work.address: work.effort for work in works}.values():
            for name in effort.passes:
                if name in OF_PRIOR:
                    batch, held = sizes.batch_memory(self.prior, gpu=stage.on_gpu), self.prior.weights_bytes
                else:
                    own = self._student(name, effort.side or self.facts.image_size)
                    held = 16 * own.parameters + effort.kept * own.activation_bytes
                stage.held = max(stage.held, held)
        stage.memory += max(work.effort.memory for work in works) + stage.held + batch

    def _train_teacher(self) -> Stage:
        config, facts, protocol = self.config.teacher, self.facts, self.teacher_protocol
        stage = self._stage("teacher", "train")
        if protocol is None:
            return stage
        own, stage.tasks, stage.done = self._student(config.student), 1, int(self.done.teacher)
        stage.work = f"{config.student}: scored on validation and test"
        stage.memory += 16 * own.parameters
        if stage.todo:
            stage.disk = 4 * own.parameters + self._decode(stage, _scored(protocol, facts)[1])
            if config.weights is None:
                numbers = protocol.numbers(config.student, facts.images, facts.classes)
                images, flops = numbers.steps * numbers.batch_size, BACKWARD * own.forward_flops
                stage.work = f"{config.student}: {numbers.steps:,} steps"
                stage.network("train", "images", images, flops, self._precision(stage, config.student))
                stage.memory += sizes.set_memory(facts.images, facts.image_size, protocol, self.size)[0]
            self._add_scoring(stage, facts.val + facts.test, config.student)
        return stage

    def _label(self) -> Stage:
        left = [bank for bank in self.banks if not bank.rows <= self.rows_done]
        stage = self._stage("labels", "label", len(self.banks), len(self.banks) - len(left))
        images = sum(bank.images for bank in left)
        if left:
            flops = self._student(self.config.teacher.student).forward_flops
            stage.network("label", "augmented images", images, flops, "float32", self.measured.label())
        arrives, stage.held = self._largest_set(self.banks)
        stage.memory += arrives + 2 * sizes.BANK_SHARD
        stage.disk = sizes.bank_disk(images, self.facts.classes, self.protocol.stored_top_k)
        stage.work = f"{images:,} augmented images"
        return stage

    def _train(self) -> Stage:
        count, protocol = len(self.trainings), self.protocol
        stage = self._stage("train", "train", count, count - len(self.to_train))
        by_student: dict[str, int] = defaultdict(int)
        for one in self.to_train:
            by_student[one.student] += one.images
        online = protocol.label_mode == "soft_online"
        labels = self._student(self.config.teacher.student).forward_flops if online else 0
        for student, images in by_student.items():
            flops, rate = BACKWARD * self._student(student).forward_flops + labels, self.measured.train(student)
            stage.network("train", f"images of {student}", images, flops, self._precision(stage, student), rate)
        steps = []
        for one in self.trainings:
            half = self._precision(stage, one.student) == "half"
            steps.append(sizes.step_memory(self._student(one.student), one.batch, protocol.accumulation, half=half))
        arrives, held = self._largest_set(self.trainings)
        # all training images are read into memory, while a distilled set is mapped from its file
        whole = max((sizes.pixels(one.size, one.side) for one in self.trainings if one.kind != "distilled"), default=0)
        stage.memory += whole + arrives + (0 if stage.on_gpu else max(steps))
        stage.held, stage.limit = held + max(steps), self.config.resources.max_concurrent
        stage.work = f"{sum(by_student.values()):,} images"
        return stage

    def _score(self) -> Stage:
        """Test and validation images through every student, decoded once for all where they are files."""
        facts, count, protocol = self.facts, len(self.trainings), self.teacher_protocol
        stage = self._stage("score", "train", count, count - len(self.to_train))
        by_teacher = protocol is not None and _scored(protocol, facts)[1] == self.crop and not self.done.teacher
        stage.disk = self._decode(stage, self.crop) if self.to_train and not by_teacher else 0
        total = 0
        for student in self.config.students:
            kinds = [one.kind for one in self.to_train if one.student == student]
            images = sum(facts.val + (0 if kind == "full_data_2x" else facts.test) for kind in kinds)
            total += images
            self._add_scoring(stage, images, student)
        stage.work, stage.limit = f"{total:,} images", self.config.resources.max_concurrent
        stage.memory += sizes.pixels(self.protocol.scoring.batch_size, facts.image_size) * 5
        return stage

    def _student(self, name: str, side: int | None = None) -> StudentCard:
        return student_facts(name, self.facts.classes, side or self.size)

    def _precision(self, stage: Stage, student: str) -> Precision:
        return student_precision(self.protocol.execution, student, gpu=stage.on_gpu)

    def _add_scoring(self, stage: Stage, images: int, student: str) -> None:
        flops, precision = self._student(student).forward_flops, self._precision(stage, student)
        stage.network("score", f"images to score {student}", images, flops, precision)

    def _decode(self, stage: Stage, crop: Crop) -> int:
        """Count the decoding of the images to score, and return the bytes they are kept in; 0 where that is done."""
        count = self.facts.val + self.facts.test
        if not self.facts.files or self.done.has_crop(crop):
            return 0
        stage.operation("image_files", count)
        return sizes.pixels(count, crop[1])

    def _largest_set(self, users: Sequence[Shared]) -> tuple[int, int]:
        """Return the bytes of the largest set in main memory on its way to a device, and of the largest on one."""
        sets = {(one.size, one.side) for one in users}
        both = [sizes.set_memory(size, side, self.protocol, self.size) for size, side in sets]
        return max((arrives for arrives, _ in both), default=0), max((held for _, held in both), default=0)


def _scored(protocol: Protocol, facts: DatasetFacts) -> tuple[int, Crop]:
    """Return the pixels a side of what is seen under a protocol, and how it is scored."""
    size = protocol.image_size or facts.image_size
    return size, (protocol.scoring.zoom(size), size)
