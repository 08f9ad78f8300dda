"""What a training reads: pairs to train on, and queries to select by and to measure on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from qvec.errors import InputError
from qvec.training.options import TrainOptions
from qvec.training.pairs import Pairs, read_pairs
from qvec.training.retrieval import (
    Retrieval,
    dev_judgements,
    judgements_of,
    read_retrieval,
    retrieval_of_pairs,
)
from qvec.training.selection import Selection, comparison_of, halved

_HELD_OUT_SHARE = 10
_HELD_OUT_MOST = 500


@dataclass(frozen=True)
class Material:
    """Pairs to train on; what is measured, and that in words; what selects a checkpoint, if anything does."""

    pairs: Pairs
    evaluation: Retrieval | Pairs
    described: str
    selection: Selection | None = None

    @property
    def measure(self) -> str:
        """What the tables hold."""
        return "Spearman's correlation" if isinstance(self.evaluation, Pairs) else "nDCG@10"

    def chosen(self, step: int | None) -> str | None:
        """In words, which checkpoint was selected; None where none was."""
        if self.selection is None or step is None:
            return None
        return (
            f"the checkpoint of step {step:,}, with the best {self.measure} over {self.selection.described} when "
            f"stored and searched as {self.selection.comparison.name.replace('_', ', ')}"
        )


def read_material(options: TrainOptions) -> Material:
    """Reads what the options name. Raises InputError where there is too little of it."""
    pairs = read_pairs(options.data, options.columns)
    if options.evaluation is None:
        pairs, held_out = pairs.split(min(len(pairs) // _HELD_OUT_SHARE, _HELD_OUT_MOST), options.seed)
        _check(pairs, held_out, options)
        return Material(pairs, _judged(held_out), f"{len(held_out):,} pairs held out")
    _check(pairs, None, options)
    measured, described, selecting, selected = _parted(options, options.evaluation)
    selection = Selection(comparison_of(options.select, options.precisions), selecting, selected)
    return Material(pairs, measured, described, selection)


def _parted(options: TrainOptions, path: Path) -> tuple[Retrieval | Pairs, str, Retrieval | Pairs, str]:
    """What is measured and what selects, each with its name: a folder's own parts or, where it has one, its halves."""
    dev = dev_judgements(path) if path.is_dir() else None
    if dev is not None:
        test = judgements_of(path)
        names = [f"{path.name}/{judgements.relative_to(path).as_posix()}" for judgements in (test, dev)]
        return read_retrieval(path, test), names[0], read_retrieval(path, dev), names[1]
    if path.is_dir():
        given: Retrieval | Pairs = read_retrieval(path)
        name = path.name
    else:
        held_out = read_pairs(path, options.columns)
        given, name = _judged(held_out), f"{len(held_out):,} pairs in {path.name}"
    selecting, measured = halved(given, options.seed)
    return measured, f"half of {name}", selecting, "the other half"


def _judged(pairs: Pairs) -> Retrieval | Pairs:
    return pairs if pairs.scores is not None else retrieval_of_pairs(pairs.queries, pairs.documents)


def _check(pairs: Pairs, held_out: Pairs | None, options: TrainOptions) -> None:
    if len(pairs) < options.batch_size or (held_out is not None and len(held_out) < 2):
        raise InputError(
            f"{options.data}: {len(pairs):,} pairs to train on and {len(held_out or ())} held out found, at least a "
            f"batch of {options.batch_size} and 2 wanted"
        )
