"""The command `python -m detector.train STAGE --config FILE`: trains, or goes on with a run that was stopped."""

from __future__ import annotations

import sys
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from detector.training.options import (
    BboxOptions,
    ClassifierOptions,
    DistillOptions,
    FinetuneOptions,
    LoopOptions,
    MultiBoxOptions,
    PictureOptions,
    RegionOptions,
    SvmOptions,
)
from proposals.console import Console, Parser, UsageError, run
from proposals.options import options_from, read_table

if TYPE_CHECKING:
    from detector.training.loop import Task
    from detector.training.processes import World
    from detector.training.regions import RegionPool, Source
    from detector.training.run_folder import RunFolder

PROGRAM = "python -m detector.train"
DESCRIPTION = """\
Train a stage of the detector. The run folder holds everything: options, log,
plots, checkpoints and the model. The same command, given again, goes on where
the run was stopped by a signal or a loss of power."""
EPILOG = """\
  python -m detector.train finetune --config configs/samples_finetune.toml --out run
  python -m detector.train finetune --config mine.toml --out run learning_rate=0.01
  detect --model run photo.jpg

stages:
  classifier  a network from labelled pictures (GoogLeNet section 6)
  distill     a network from the scores of others, on any pictures
  finetune    R-CNN's fine-tuning on regions, for the 200 classes or your own
  svm         R-CNN's SVMs in place of the softmax, on the network's features
  bbox        R-CNN's box regression, for detect --bbox
  multibox    learned proposals (Szegedy et al., arXiv:1412.1441)

KEY=VALUE sets an option over the file's. On several GPUs or machines:
  torchrun --nproc-per-node 8 -m detector.train ...

docs/options.md lists the options of each stage.

exit status: 0 trained, 1 failed, 2 wrong usage, 130 interrupted, 143
terminated; after the last two a checkpoint is kept"""

STAGES: Mapping[str, type[LoopOptions | RegionOptions]] = {
    "classifier": ClassifierOptions,
    "distill": DistillOptions,
    "finetune": FinetuneOptions,
    "svm": SvmOptions,
    "bbox": BboxOptions,
    "multibox": MultiBoxOptions,
}


def read_config(stage: str, path: Path, overrides: Sequence[str]) -> Any:
    """Return the options of a stage from a TOML file and KEY=VALUE texts, whose values are TOML or plain text.

    Raises: UsageError for what is no KEY=VALUE; ValueError for an unknown key or a wrong value; OSError.
    """
    table = read_table(path)
    for text in overrides:
        key, equals, value = text.partition("=")
        if not equals or not key.strip():
            raise UsageError(f"'{text}': options over the file's are KEY=VALUE")
        try:
            table[key.strip()] = tomllib.loads(f"value = {value}")["value"]
        except tomllib.TOMLDecodeError:
            table[key.strip()] = value
    return options_from(STAGES[stage], table, str(path))


def make_parser() -> Parser:
    """Return the parser of the command."""
    parser = Parser(PROGRAM, DESCRIPTION, EPILOG)
    parser.add_argument("stage", choices=tuple(STAGES), help="what to train")
    parser.add_argument("--config", metavar="FILE", type=Path, required=True, help="options of the stage, TOML")
    parser.add_argument("--out", metavar="FOLDER", type=Path, required=True, help="run folder to make or to go on in")
    parser.add_argument("options", metavar="KEY=VALUE", nargs="*", help="options over the file's")
    parser.add_argument("--quiet", action="store_true", help="errors only")
    return parser


@dataclass(frozen=True)
class Run:
    """What every stage is given beside its options: its name, where the run lies, the processes, the console."""

    stage: str
    out: Path
    world: World
    console: Console

    def folder(self, o: LoopOptions | RegionOptions, fingerprint: str) -> RunFolder:
        """Return the run folder, made or taken up; `fingerprint`: of the data."""
        from detector.training.run_folder import RunFolder

        return self.world.in_turn(lambda: RunFolder(self.out, self.stage, o, fingerprint))

    def regions(self, o: RegionOptions, sources: Sequence[Source], names: tuple[str, ...]) -> RegionPool:
        """Return the regions of all pictures, proposed and labelled, and say how many there are."""
        from detector.training.region_proposals import region_proposals
        from detector.training.regions import PoolOptions, build_pool

        paths = [path for source in sources for path in source.truth.paths if path is not None]
        proposals = region_proposals(o, o.pool_seed, paths, self.out, self.console, self.world)
        wanted = PoolOptions(o.most_foreground, o.most_background, seed=o.pool_seed)
        if isinstance(o, FinetuneOptions):
            wanted = replace(wanted, jitter=o.jitter, near=o.near)
        pool = build_pool(sources, names, proposals, wanted)
        self.console.note(
            f"{len(pool.paths):,} pictures, {(pool.labels > 0).sum():,} foreground and "
            f"{(pool.labels == 0).sum():,} background regions, {len(names)} classes"
        )
        return pool

    def train(self, task: Task, o: LoopOptions, folder: RunFolder, validated: str) -> None:
        """Train `task`, write its model and the plots; `validated`: the pictures that it is measured on."""
        from detector.training.loop import Trainer
        from detector.training.run_folder import draw_plots

        trainer = Trainer(task, o, folder, self.world, self.console)
        measures = trainer.run()
        if self.world.first:
            path = trainer.export()
            if not draw_plots(folder.path):
                self.console.note("pip install matplotlib draws the plots")
            self.console.note(f"wrote {path}")
        self.world.wait()
        if measures:
            self.console.note(", ".join(f"{name} {of:.4f}" for name, of in measures.items()) + f" on {validated}")


def _classifier(o: PictureOptions, run: Run) -> None:
    """Open the pictures, and the teachers of a distillation; train."""
    from detector.training.classifier import ClassifierTask, open_teacher
    from detector.training.data import open_images

    teachers = o.teachers if isinstance(o, DistillOptions) else ()
    images = open_images(o.data, classes=o.classes or None, labelled=not teachers, shards_mixed=o.shards_mixed)
    names = o.classes or images.class_names
    validation = open_images(o.validation, classes=names or None) if o.validation else None
    run.console.note(f"{len(images):,} pictures" + ("" if teachers else f" of {len(images.class_names):,} classes"))
    folder = run.folder(o, images.fingerprint())
    task = ClassifierTask(o, images, validation, tuple(open_teacher(name, o.size) for name in teachers))
    run.train(task, o, folder, "validation pictures")


def _finetune(o: FinetuneOptions, run: Run) -> None:
    """Pool the regions, keep the frozen layers' outputs, train."""
    from detector.model import find_model
    from detector.training.features import fill_cache
    from detector.training.finetune import FinetuneTask, cache_for, check_start
    from detector.training.regions import read_sources

    model = find_model(o.model)
    check_start(o.model, model)
    sources, names = read_sources(o.data, o.partial, o.classes == "own", o.label_only)
    pool = run.regions(o, sources, names)
    folder = run.folder(o, pool.fingerprint())
    cache, device = None, run.world.device.type
    if o.frozen and o.keep_features:
        with run.console.progress("features", len(pool.paths)) as advance:
            parts = cache_for(o, run.out), pool, model, o.frozen, o.cut_precision, o.pool_seed, run.console.notice
            cache = run.world.in_turn(lambda: fill_cache(*parts, advance, device=device))
    run.train(FinetuneTask(o, model, pool, cache, device), o, folder, "held-out pictures")


def _head(o: RegionOptions, run: Run) -> None:
    """Pool the regions, keep the network's features of them, train SVMs or a box regression on these."""
    from detector.model import TRAINED, find_model
    from detector.training.heads import check_model, head_examples, head_features, train_head
    from detector.training.regions import read_sources

    model = find_model(o.model)
    sources, names = read_sources(o.data, o.partial, o.classes == "own")
    check_model(o, model, names)
    pool = run.regions(o, sources, names)
    if not run.world.first:
        return  # one process does the rest
    run.folder(o, pool.fingerprint())
    written = run.out / TRAINED
    if written.is_file():
        run.console.note(f"{run.out} holds this run already, finished; nothing is left to do")
        return
    with run.console.progress("features", len(pool.paths)) as advance:
        cache = head_features(o, model, pool, run.out, run.console.notice, advance, run.world.device.type)
    examples = head_examples(pool, sources, cache)
    with run.console.progress(run.stage, 2 * len(examples.pictures)) as advance:
        told = train_head(o, model, names, examples, written, advance)
    run.console.note(told)


def _multibox(o: MultiBoxOptions, run: Run) -> None:
    """Train the heads on the trunk's outputs."""
    from detector.model import find_model
    from detector.networks.layers import cut_after
    from detector.runtimes.load import load_features
    from detector.training.multibox import MultiBoxTask
    from detector.training.multibox_samples import boxed_images

    model = find_model(o.model)
    first, last = (cut_after(model.layers, name) for name in (o.fine, o.frozen))
    if first >= last:
        raise ValueError(f"layer '{o.fine}' of the fine grid must come before '{o.frozen}'")
    images = boxed_images(o.data, o.partial)
    run.console.note(f"{len(images):,} pictures")
    folder = run.folder(o, images.fingerprint())
    trunk = load_features(model, (first, last), o.cut_precision, run.world.device.type)
    run.train(MultiBoxTask(o, model, images, trunk, run.console.notice), o, folder, "held-out pictures")


def _main(argv: Sequence[str] | None) -> int:
    args = make_parser().parse_intermixed_args(argv)
    o = read_config(args.stage, args.config, args.options)
    work: dict[str, Callable[[Any, Run], None]] = {
        "classifier": _classifier,
        "distill": _classifier,
        "finetune": _finetune,
        "svm": _head,
        "bbox": _head,
        "multibox": _multibox,
    }
    from detector.training.processes import joined_world

    with joined_world(o.device if isinstance(o, LoopOptions) else "auto") as world:
        work[args.stage](o, Run(args.stage, args.out, world, Console(PROGRAM, args.quiet or not world.first)))
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command with `argv` (default: the process's) and return its exit status."""
    return run(PROGRAM, lambda: _main(argv))


if __name__ == "__main__":
    sys.exit(main())
