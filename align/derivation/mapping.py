"""Rules of paired units: every tensor of both state dicts, mapped, left out for a reason, or open."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from stdc_parity.align.derivation.pairing import Pair, Pairing, pair_units
from stdc_parity.align.derivation.table import Table, TensorRow
from stdc_parity.align.derivation.units import COUNTER, NORMS, STATISTICS, TENSOR, Part, Unit, units_of
from stdc_parity.converters.architecture import Side
from stdc_parity.converters.rules import OpenRule, Rules, TensorRule, Transform


def derive_rules(torch: Table, paddle: Table, *, trust_names: bool = True) -> Rules:
    """The rules of two networks as far as their tables tell.

    Nothing was run: what only their order tells is open, and so is a tensor of nobody's that has another name on the
    other side. One that both sides call the same and that its shape allows to lie in several ways is taken as it is
    if its name is to be trusted, and else open. `prober.py` settles such things by running both.
    """
    pairing = pair_tables(torch, paddle, units_of(torch), units_of(paddle))
    kept: list[Pair] = []
    unsure: list[tuple[Pair, str]] = []
    for pair in pairing.pairs:
        why = _why_unsure(pair, trust_names)
        if why:
            unsure.append((pair, why))
        else:
            kept.append(pair)
    return make_rules(torch, paddle, Pairing(kept, pairing.torch, pairing.paddle), unsure)


def _why_unsure(pair: Pair, trust_names: bool) -> str:
    """Why nothing but a run can confirm a pair, "" if its name or type does."""
    is_told = pair.settled == "path" if pair.torch.kind == TENSOR else pair.settled != "order"
    if not is_told:
        return "equal in kind and shape, and nothing but a run could tell"
    if pair.axes or (pair.others and not trust_names):
        return "its shape allows it to lie in several ways, and nothing but a run could tell"
    return ""


def pair_tables(torch: Table, paddle: Table, ours: Sequence[Unit], theirs: Sequence[Unit]) -> Pairing:
    """The units of two tables paired, but for buffers that the other side makes itself and does not save."""
    paths = {unit.path for unit in ours} & {unit.path for unit in theirs}
    kinds: list[tuple[list[Unit], list[Unit]]] = []
    for units, other in ((ours, paddle), (theirs, torch)):
        aside = [u for u in units if u.path not in paths and _unsaved(u, other) is not None]
        kinds.append(([u for u in units if u not in aside], aside))
    pairing = pair_units(kinds[0][0], kinds[1][0])
    return Pairing(pairing.pairs, pairing.torch + kinds[0][1], pairing.paddle + kinds[1][1])


def make_rules(torch: Table, paddle: Table, pairing: Pairing, unsure: Sequence[tuple[Pair, str]] = ()) -> Rules:
    """The rules of what was paired, in the order of PyTorch's state dict; `unsure` are pairs that are left open."""
    found = [each for pair in pairing.pairs for each in _of_pair(pair)]
    rules = [each for each in found if isinstance(each, TensorRule)]
    opened = [each for each in found if isinstance(each, OpenRule)]
    opened += [_open([pair.torch], [pair.paddle], why) for pair, why in unsure]
    for side, left, other in (("torch", pairing.torch, paddle), ("paddle", pairing.paddle, torch)):
        for unit in left:
            if (unsaved := _unsaved(unit, other)) is not None:
                rules.append(_made_by_itself(unit, other, unsaved))
        alone = [unit for unit in left if not unit.is_alias and _unsaved(unit, other) is None]
        for units in _by_layer(alone):
            why = f"it has no counterpart on the {other.side} side"
            opened.append(_open(*((units, []) if side == "torch" else ([], units)), why))
    for table in (torch, paddle):
        ruled = {rule.name(table.side) for rule in rules}
        taken = {name for each in opened for name in (each.torch if table.side == "torch" else each.paddle)}
        for row in table.tensors:
            if row.alias and row.name not in ruled | taken:
                if row.alias in ruled:
                    rules.append(_second_name(table.side, row))
                else:
                    opened.append(_open_alias(table.side, row))
    places = {row.name: i for i, row in enumerate(torch.tensors)}
    behind = {row.name: len(places) + i for i, row in enumerate(paddle.tensors)}
    rules.sort(key=lambda rule: places[rule.torch] if rule.torch is not None else behind[rule.paddle or ""])
    return Rules(tuple(rules), tuple(opened))


def _by_layer(units: Sequence[Unit]) -> list[list[Unit]]:
    """Units that were left, those of one module together."""
    groups: dict[str, list[Unit]] = {}
    for unit in units:
        owner = unit.path.rpartition(".")[0] if unit.kind == TENSOR else ""
        groups.setdefault(owner or unit.path, []).append(unit)
    return list(groups.values())


def _unsaved(unit: Unit, other: Table) -> str | None:
    """The buffer of the other side that is the same and that its state dict leaves out; None if none is called so."""
    part = unit.parts.get("value")
    if part is None or not part.buffer or part.alias:
        return None
    if part.tensor in other.unsaved:
        return part.tensor
    last = part.tensor.rpartition(".")[2]
    alike = [name for name in other.unsaved if name.rpartition(".")[2] == last]
    return alike[0] if len(alike) == 1 else None


def _made_by_itself(unit: Unit, other: Table, unsaved: str) -> TensorRule:
    part = unit.parts["value"]
    reason = f"the {other.side} side makes its {unsaved} itself and does not save it"
    if other.side == "paddle":
        return TensorRule(torch=part.tensor, torch_shape=part.shape, optional=True, reason=reason, settled="path")
    return TensorRule(paddle=part.tensor, paddle_shape=part.shape, optional=True, reason=reason, settled="path")


def _open(torch: Sequence[Unit], paddle: Sequence[Unit], why: str) -> OpenRule:
    sides = (torch, paddle)
    names = [tuple(dict.fromkeys(p.tensor for u in units for p in u.parts.values())) for units in sides]
    return OpenRule(names[0], names[1], why)


def _open_alias(side: Side, row: TensorRow) -> OpenRule:
    why = f"another name of {row.alias}, which is open"
    return OpenRule((row.name,), (), why) if side == "torch" else OpenRule((), (row.name,), why)


def _second_name(side: Side, row: TensorRow) -> TensorRule:
    reason = "one tensor under two names"
    if side == "torch":
        return TensorRule(torch=row.name, torch_shape=row.shape, torch_alias=row.alias, reason=reason, settled="path")
    return TensorRule(paddle=row.name, paddle_shape=row.shape, paddle_alias=row.alias, reason=reason, settled="path")


def _of_pair(pair: Pair) -> Iterator[TensorRule | OpenRule]:
    """What becomes of two units' tensors."""
    ours, theirs = pair.torch.parts, pair.paddle.parts
    for role in dict.fromkeys([*ours, *theirs]):
        if role in ours and role in theirs:
            yield _both(pair, ours[role], theirs[role])
        elif role in ours:
            yield _torch_alone(pair, role, ours[role])
        else:
            yield _paddle_alone(pair, role, theirs[role])


def _both(pair: Pair, ours: Part, theirs: Part) -> TensorRule:
    transform, axes = _transform(pair, ours, theirs)
    return TensorRule(
        torch=ours.tensor, paddle=theirs.tensor, transform=transform, axes=axes,
        torch_rows=ours.rows, paddle_rows=theirs.rows, torch_shape=ours.shape, paddle_shape=theirs.shape,
        torch_alias=ours.alias, paddle_alias=theirs.alias, settled=pair.settled, evidence=pair.evidence,
    )  # fmt: skip


def _transform(pair: Pair, ours: Part, theirs: Part) -> tuple[Transform, tuple[int, ...]]:
    """What makes Paddle's tensor of PyTorch's: the layer's type says, or the order of axes that was found."""
    turned = theirs.fixed and theirs.turn == "transpose"
    if pair.axes == (1, 0) or (turned and not pair.axes):
        return ("copy" if pair.axes and turned else "transpose"), ()
    if pair.axes:
        return "permute", pair.axes
    flat = ours.form if ours.rows else ours.shape
    return ("copy" if flat == theirs.shape or theirs.rows else "reshape"), ()


def _torch_alone(pair: Pair, role: str, part: Part) -> TensorRule | OpenRule:
    """A tensor that PyTorch's layer has and Paddle's lacks: a counter may go, what says something may not."""
    if role != COUNTER:
        return OpenRule((part.tensor,), (), f"Paddle's {pair.paddle.kind} {pair.paddle.path} has no {role}")
    return TensorRule(
        torch=part.tensor, torch_shape=part.shape, torch_alias=part.alias, value=0, dtype="int64",
        reason="Paddle's norms keep no counter of batches", settled=pair.settled,
    )  # fmt: skip


def _paddle_alone(pair: Pair, role: str, part: Part) -> TensorRule | OpenRule:
    """A tensor that Paddle's layer has and PyTorch's lacks: a bias of zeros changes nothing, and in norms no more do
    weights of ones."""
    reason = f"PyTorch's {pair.torch.kind} {pair.torch.path} has no {role}"
    is_bias = role.rpartition(".")[2].startswith("bias") and role not in ("bias_k", "bias_v")
    if not is_bias and pair.torch.kind not in NORMS:
        return OpenRule((), (part.tensor,), reason)
    return TensorRule(
        paddle=part.tensor, paddle_shape=part.shape, paddle_alias=part.alias,
        value=1 if role in ("weight", "running_var") else 0, exact=role not in STATISTICS,
        reason=reason, settled=pair.settled,
    )  # fmt: skip
