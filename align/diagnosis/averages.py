"""Cross entropies of labels that are ignored or made by interpolation: what both frameworks do otherwise with them.

With a negative `ignore_index` Paddle's mean divides by all labels, PyTorch's by those that count; and a label that
was resized bilinearly and then cut off to a whole number may be 7 in one framework and 6.999999, class 6, in the
other. A loss often has both, in several calls, so they are undone together.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from stdc_parity.align.framework import Array
from stdc_parity.align.tracing import Call, Edit, Trace

Candidate = tuple[str, Sequence[Edit], str, str]
"""What is tried in words, the changes, and the cause and the fix if they help."""


def averages(torch: Trace, paddle: Trace) -> Iterator[Candidate]:
    """Every mean taken over the labels that count, every label cut off as the reference's, and both."""
    means, casts = list(_means(torch, paddle)), list(_casts(torch, paddle))
    known = [part for part in (_mean_candidate(means), _cast_candidate(casts)) if part is not None]
    yield from known
    if len(known) > 1:
        words, edits, causes, fixes = zip(*known, strict=True)
        yield " and ".join(words), [edit for each in edits for edit in each], "; ".join(causes), " ".join(fixes)


def _mean_candidate(means: Sequence[tuple[int, Call, int, int]]) -> Candidate | None:
    if not means:
        return None
    _, call, kept, size = means[0]
    calls = f"{len(means)} calls of it, the first" if len(means) > 1 else "it"
    return (
        "means over the labels that are not ignored",
        [Edit(j, "after", "scale", {"scale": size / kept}) for j, _, kept, size in means if kept],
        f"Paddle's cross_entropy with a negative ignore_index ({call.settings['ignore_index']}) divides its mean by "
        f"all labels, PyTorch's by those that are not ignored ({calls} by {size} where PyTorch divides by {kept})",
        "Use a label that is not negative, 255, in the labels and as ignore_index, or divide the sum by "
        "(labels != ignore_index).sum().",
    )


def _cast_candidate(casts: Sequence[tuple[Edit, Array, Array]]) -> Candidate | None:
    if not casts:
        return None
    changed, size = sum(int((a != b).sum()) for _, a, b in casts), sum(a.size for _, a, _ in casts)
    return (
        "labels cut off as the original's",
        [edit for edit, _, _ in casts],
        f"{changed} of {size} labels are another class: what interpolation makes of a label is cut off to a whole "
        "number, and 7 in one framework is 6.999999 in the other, which becomes 6",
        "Resize labels with mode='nearest', on both sides.",
    )


def _means(torch: Trace, paddle: Trace) -> Iterator[tuple[int, Call, int, int]]:
    """Our calls with a negative ignore_index, how many labels of the reference's count, and how many there are."""
    for i, j in _pairs(torch, paddle, "cross_entropy"):
        call, ignored = paddle.calls[j], paddle.calls[j].settings.get("ignore_index")
        labels = [torch.values.get(number) for name, number in torch.calls[i].inputs if name == "label"]
        plain = call.settings.get("reduction") == "mean" and not call.settings.get("soft_label")
        if plain and isinstance(ignored, int) and ignored < 0 and labels and labels[0] is not None:
            kept = int((labels[0] != ignored).sum())
            if kept < labels[0].size:
                yield j, call, kept, labels[0].size


def _casts(torch: Trace, paddle: Trace) -> Iterator[tuple[Edit, Array, Array]]:
    """Casts of fractions to whole numbers that give other ones: the edits, the reference's numbers and ours."""
    for i, j in _pairs(torch, paddle, "astype"):
        (a,), (b,) = torch.calls[i].outputs, paddle.calls[j].outputs
        one, other = torch.values.get(a), paddle.values.get(b)
        source = torch.values.get(torch.calls[i].inputs[0][1])
        if one is None or other is None or source is None or one.shape != other.shape:
            continue
        if one.dtype.kind == other.dtype.kind == "i" and source.dtype.kind == "f" and (one != other).any():
            yield Edit(j, "value", values=(a,)), one, other


def _pairs(torch: Trace, paddle: Trace, name: str) -> Iterator[tuple[int, int]]:
    """The calls of that name on both sides, one by one, if they are as many."""
    theirs, ours = ([n for n, call in enumerate(trace.calls) if call.name == name] for trace in (torch, paddle))
    if len(theirs) == len(ours):
        yield from zip(theirs, ours, strict=True)
