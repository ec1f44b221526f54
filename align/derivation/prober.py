"""Deriving rules with both sides at hand: their tables paired, candidates run, and the rules proven by a run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from stdc_parity.align.derivation.calls import AGREE, Call, Run, gap_of
from stdc_parity.align.derivation.job import OUTPUTS, WEIGHTS
from stdc_parity.align.derivation.mapping import derive_rules, make_rules, pair_tables
from stdc_parity.align.derivation.pairing import Pair, Pairing
from stdc_parity.align.derivation.search import Search
from stdc_parity.align.derivation.table import Table
from stdc_parity.align.derivation.units import Unit, units_of
from stdc_parity.align.derivation.verdicts import judge_pairs
from stdc_parity.align.framework import Array
from stdc_parity.align.record import Record, load_record, save_record
from stdc_parity.align.result import Failure
from stdc_parity.align.sides import Worker
from stdc_parity.align.spec import RunSpec
from stdc_parity.converters.architecture import Side
from stdc_parity.converters.errors import CheckpointError, ParityError
from stdc_parity.converters.rules import Rules
from stdc_parity.converters.rules_plan import apply_rules

MODES = ("eval", "train")


@dataclass(frozen=True)
class Derivation:
    """What was derived: the rules, whether a run of both sides proves them, and remarks, a sentence each.

    `gap` is how far the outputs were apart with these rules, relative to each output's largest value; None if
    nothing was run.
    """

    rules: Rules
    gap: float | None
    holds: bool
    remarks: Sequence[str] = ()
    facts: Mapping[str, object] = field(default_factory=dict)
    dtype: str = "float64"

    def __bool__(self) -> bool:
        return self.holds and not self.rules.open


class Prober:
    """Both sides' processes with the networks of `spec`, in its dtype, and a folder for what they exchange.

    If it `runs` nothing, names and types alone decide. `tol` is how far outputs may be apart, relative to each one's
    largest value; `said` is told what is being done.
    """

    def __init__(
        self,
        workers: Mapping[Side, Worker],
        spec: RunSpec,
        folder: Path,
        *,
        runs: bool = True,
        tol: float = AGREE,
        said: Callable[[str], None] = lambda text: None,
    ) -> None:
        """Ask both sides for their tables."""
        self.workers, self.spec, self.folder = workers, spec, folder
        self.runs, self.tol, self.said = runs, tol, said
        answers = self._ask_both({"do": "derive-table"})
        self.tables = {side: Table.from_json(answer["table"]) for side, answer in answers.items()}
        self.facts: dict[str, object] = {side: answer["facts"] for side, answer in answers.items()}
        self.units: dict[Side, list[Unit]] = {side: units_of(table) for side, table in self.tables.items()}
        self.values: Mapping[str, Array] = {}

    def derive(self) -> Derivation:
        """The rules: paired by the tables, settled by runs where they can be."""
        if not self.runs:
            remark = "Nothing was run: say --input to settle what is ambiguous, and to prove the rules."
            return self._of_tables([remark], True)
        self._prepare()
        runs = {side: self._run(side, "eval") for side in self.tables}
        failed = [f"The {side} side cannot be run: {run.failed}" for side, run in runs.items() if run.failed]
        if failed:
            return self._of_tables(failed, False)
        ordered = {side: _by_execution(self.units[side], run) for side, run in runs.items()}
        pairing = self._paired(ordered)
        return self._settled(pairing, runs["torch"])

    def _of_tables(self, remarks: Sequence[str], holds: bool) -> Derivation:
        """What names and types alone tell."""
        rules = derive_rules(self.tables["torch"], self.tables["paddle"], trust_names=False)
        return Derivation(rules, None, holds, remarks, self.facts, self.spec.dtype)

    def check(self, rules: Rules, mode: str = "eval") -> float:
        """How far the outputs of both sides are apart with these rules, relative to each output's largest value."""
        if not self.values:
            self._prepare()
        reference, run = self._run("torch", mode), self._run_with(rules, mode)
        failed = reference.failed or run.failed
        return float("inf") if failed else gap_of(reference.outputs, run.outputs)

    def _settled(self, pairing: Pairing, reference: Run) -> Derivation:
        """What runs in eval mode, and in train mode where that shows more, make of the pairs."""
        search = self._search(pairing, reference, "eval", frozenset())
        if not search.solve():
            return self._unsettled(search)
        verdicts = judge_pairs(search)
        remarks: list[str] = []
        rest = [pair for pair, why in verdicts if why or pair.settled == "order" or not search.is_called(pair)]
        if rest:
            pairing.pairs[:] = [pair for pair, _ in verdicts]
            verdicts, remarks = self._in_train_mode(pairing, verdicts, rest)
        kept = Pairing([pair for pair, why in verdicts if not why], pairing.torch, pairing.paddle)
        unsure = [(pair, why) for pair, why in verdicts if why]
        rules = make_rules(self.tables["torch"], self.tables["paddle"], kept, unsure)
        return self._proven(rules, search.current.gap, remarks)

    def _in_train_mode(
        self, pairing: Pairing, verdicts: list[tuple[Pair, str]], rest: Sequence[Pair]
    ) -> tuple[list[tuple[Pair, str]], list[str]]:
        """The verdicts on the `rest` of the pairs, which the run in eval mode did not tell, by one in train mode."""
        self.said("train mode")
        reference = self._run("torch", "train")
        modules = {id(pair) for pair in rest}
        settled = [pair for pair in pairing.pairs if id(pair) not in modules]
        kept = frozenset(pair.paddle.module for pair in settled if pair.paddle.module)
        if reference.failed:
            return verdicts, [f"In train mode PyTorch's side cannot be run: {reference.failed}"]
        before = list(pairing.pairs)
        search = self._search(pairing, reference, "train", kept)
        if search.current.run.failed:
            return verdicts, [f"In train mode Paddle's side cannot be run: {search.current.run.failed}"]
        if not search.solve():
            pairing.pairs[:] = before
            fault = search.current.fault()
            where = f", first at {fault.path}" if fault else ""
            gap = f"{search.current.gap:.1e}" if search.current.gap < float("inf") else "in number or shape"
            return verdicts, [f"In train mode the outputs differ ({gap}{where}); what only that shows is not proven."]
        remarks = [f"In train mode the outputs agree to {search.current.gap:.1e}."]
        merged, old = [], {id(pair.paddle): (pair, why) for pair, why in verdicts}
        for pair, why in judge_pairs(search):
            former = old.get(id(pair.paddle))
            unchanged = former is not None and former[0].torch is pair.torch and former[0].axes == pair.axes
            if former is not None and unchanged and (pair.paddle.module in kept or (why and not former[1])):
                merged.append(former)
            else:
                merged.append((pair, why))
        never = [p.paddle.path for p, why in merged if not why and p.paddle.module and not search.is_called(p)]
        if never:
            names = ", ".join(never[:5]) + (", …" if len(never) > 5 else "")
            remarks.append(f"Not reached in either mode, and settled by name or type alone: {len(never)} ({names}).")
        return merged, remarks

    def _unsettled(self, search: Search) -> Derivation:
        """What stays when the outputs do not agree: what neither order nor shape had to decide."""
        fault = search.current.fault()
        gap = f"by {search.current.gap:.1e} of scale" if search.current.gap < float("inf") else "in number or shape"
        if search.current.run.failed:
            remark = f"Paddle's side cannot be run with these rules: {search.current.run.failed}"
        elif fault is None:
            remark = f"The outputs differ {gap}, and no module's call shows where."
        else:
            how = "is given something else" if fault.inputs else "is given the same and does not do the same"
            remark = f"The outputs differ {gap}; first of all {fault.path} {how} ({fault.gap:.1e})."
        seen = set() if fault is None else {call.path for call in search.current.run.calls[: fault.number]}
        kept, unsure = [], []
        for pair in search.pairing.pairs:
            sure = pair.settled in ("path", "type") and not pair.axes and not pair.others
            if pair.paddle.path in search.moved or not sure:
                sure = pair.paddle.module in seen and not self._has_rival(search, pair)
                if sure:
                    evidence = "given the same as nothing else, and gives the same; what follows it differs"
                    pair = replace(pair, settled="probe", evidence=evidence)
            kept.append(pair) if sure else unsure.append((pair, "the outputs differ, so no run settles it"))
        pairing = Pairing(kept, search.pairing.torch, search.pairing.paddle)
        rules = make_rules(self.tables["torch"], self.tables["paddle"], pairing, unsure)
        return Derivation(rules, search.current.gap, False, [remark], self.facts, self.spec.dtype)

    def _has_rival(self, search: Search, pair: Pair) -> bool:
        """Whether another pair has the same look and the same input, so that its agreeing call says nothing."""
        return any(search._alike(pair, other) for other in search.pairing.pairs if other is not pair)

    def _proven(self, rules: Rules, tried: float, remarks: list[str]) -> Derivation:
        """The rules with the figure of a run with them; with that of the run that `tried` what is open, if it is."""
        if rules.open:
            return Derivation(rules, tried, True, remarks, self.facts, self.spec.dtype)
        gap = self.check(rules)
        return Derivation(rules, gap, gap <= self.tol, remarks, self.facts, self.spec.dtype)

    def _search(self, pairing: Pairing, reference: Run, mode: str, kept: frozenset[str]) -> Search:
        def paddle(pairs: Sequence[Pair]) -> Run:
            self.said(f"{mode} mode, candidate {search.runs if made else 1}")
            tables = self.tables["torch"], self.tables["paddle"]
            return self._run_with(make_rules(*tables, Pairing(list(pairs), [], [])), mode)

        made: list[Search] = []
        search = Search(pairing, reference, paddle, kept, self.tol)
        made.append(search)
        return search

    def _run_with(self, rules: Rules, mode: str) -> Run:
        """A run of Paddle's side with what the rules make of PyTorch's values."""
        try:
            made = apply_rules(rules, self.values, "torch", "paddle", {})
        except CheckpointError as error:
            return Run([], {}, error.message)
        save_record(Record("paddle", WEIGHTS, (), made), self.folder)
        return self._run("paddle", mode)

    def _paired(self, units: Mapping[Side, Sequence[Unit]]) -> Pairing:
        return pair_tables(self.tables["torch"], self.tables["paddle"], units["torch"], units["paddle"])

    def _prepare(self) -> None:
        """Have seeded values drawn for PyTorch's side, and begin with Paddle's own."""
        save_record(Record("paddle", WEIGHTS, (), {}), self.folder)
        pairing = self._paired(self.units)
        kept = [part.tensor for unit in pairing.torch for part in unit.parts.values()]
        zeros = [part.tensor for pair in pairing.pairs for role, part in pair.torch.parts.items()
                 if role not in pair.paddle.parts and role.endswith("bias")]  # fmt: skip
        self._ask("torch", {"do": "derive-values", "seed": self.spec.seed, "kept": kept, "zeros": zeros})
        self.values = dict(load_record(self.folder, "torch", WEIGHTS).arrays)

    def _run(self, side: Side, mode: str) -> Run:
        watch = [unit.module for unit in self.units[side]]
        watch += [row.path for row in self.tables[side].modules if row.path and row.path not in watch]
        answer = self._ask(side, {"do": "derive-run", "mode": mode, "watch": watch}, may_fail=True)
        if isinstance(answer, Failure):
            return Run([], {}, answer.message.partition("\n")[0])
        outputs = load_record(self.folder, side, OUTPUTS).arrays
        return Run([Call.from_json(call) for call in answer["calls"]], {k: v.copy() for k, v in outputs.items()})

    def _ask(self, side: Side, job: Mapping[str, Any], *, may_fail: bool = False) -> Any:
        self.workers[side].ask({**job, "spec": self.spec.to_json(), "run": str(self.folder)})
        return self._answer(side, may_fail)

    def _ask_both(self, job: Mapping[str, Any]) -> dict[Side, Any]:
        for worker in self.workers.values():
            worker.ask({**job, "spec": self.spec.to_json(), "run": str(self.folder)})
        return {side: self._answer(side, False) for side in self.workers}

    def _answer(self, side: Side, may_fail: bool) -> Any:
        answer = self.workers[side].answer()
        if isinstance(answer, Failure) and not may_fail:
            raise ParityError(f"the {side} side failed: {answer.message}", answer.note or None)
        return answer


def _by_execution(units: Sequence[Unit], run: Run) -> list[Unit]:
    """The units in the order of their first calls; those that are not called keep their places at the end."""
    first: dict[str, int] = {}
    for number, call in enumerate(run.calls):
        first.setdefault(call.path, number)
    return sorted(units, key=lambda unit: first.get(unit.module, len(run.calls)))


