"""The words of the HTML report in English and Chinese; what the run itself says (causes, remarks) stays as it is."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape

WORDS: Mapping[str, tuple[str, str]] = {
    "report": ("Parity report", "对齐报告"),
    "skip": ("Skip to the rungs", "跳到各阶段"),
    "language": ("中文", "English"),
    "PASS": ("pass", "通过"),
    "ROUNDING": ("rounding", "舍入误差"),
    "WAIVED": ("waived", "已豁免"),
    "BLOCKED": ("blocked", "受阻"),
    "DIVERGED": ("diverged", "不一致"),
    "says-PASS": ("Both sides compute the same.", "两侧的计算一致。"),
    "says-ROUNDING": (
        "Both sides compute the same; what exceeds the tolerance is float32 rounding, as float64 shows.",
        "两侧的计算一致；超出容差的部分是 float32 舍入误差，float64 运行已证实。",
    ),
    "says-DIVERGED": ("The two sides do not compute the same.", "两侧的计算不一致。"),
    "says-WAIVED": (
        "What differs is accepted for a time, by reviewed waivers.",
        "存在差异，但都已由经过审阅的豁免在限期内接受。",
    ),
    "says-BLOCKED": ("Not everything could be judged.", "有些阶段无法判断。"),
    "hold-count": ("rungs hold.", "个阶段通过。"),
    "of": ("of", "/"),
    "own-list": ("Wrong by itself", "自身出错的地方"),
    "own-note": (
        "Given equal inputs, these still differ. Everything else that differs inherits it.",
        "输入相同，输出仍然不同。其余的差异都由此继承而来。",
    ),
    "majority": ("What the sides say together", "各侧表决"),
    "facts": ("The run", "本次运行"),
    "pair": ("Pair", "网络对"),
    "weights": ("Weights", "权重"),
    "input": ("Input", "输入"),
    "options": ("Options", "选项"),
    "planted": ("Planted bugs", "植入的错误"),
    "environment": ("Environment", "环境"),
    "last-words": ("last words", "最后的输出"),
    "environment-note": (
        "The only part that differs when the same run is repeated.",
        "重复同一运行时，只有这一部分会变化。",
    ),
    "fact": ("fact", "项目"),
    "seconds": ("seconds", "秒"),
    "ladder": ("The ladder", "阶梯"),
    "rung": ("rung", "阶段"),
    "verdict": ("verdict", "结论"),
    "taps": ("taps", "对比点"),
    "differ": ("differ", "不一致"),
    "worst": ("worst tap", "最差的对比点"),
    "of-scale": ("of scale", "相对误差"),
    "modules": ("Modules", "模块"),
    "search": ("Search modules", "搜索模块"),
    "search-hint": ("part of a path or type; press /", "路径或类型的一部分；按 / 键"),
    "only-bad": ("only what differs", "只看不一致的"),
    "unfold": ("Unfold all", "全部展开"),
    "fold": ("Fold all", "全部折叠"),
    "matches": ("modules match", "个模块匹配"),
    "key-pass": ("agrees", "一致"),
    "key-rounding": ("rounding", "舍入误差"),
    "key-waived": ("accepted by a waiver", "已豁免"),
    "key-inherited": ("inherits a difference", "继承来的差异"),
    "key-own": ("wrong by itself", "自身出错"),
    "key-contains": ("contains one that is", "包含自身出错的模块"),
    "key-unknown": ("not compared itself", "本身未对比"),
    "rungs": ("Rung by rung", "逐个阶段"),
    "depth": ("Error along the network's depth", "误差沿网络深度的变化"),
    "depth-end": ("Parameters at the end, along the network's depth", "训练结束时的参数，沿网络深度"),
    "order": ("Error tap by tap", "逐个对比点的误差"),
    "depth-note": (
        "Each mark is a tap; its height is the largest difference, as a fraction of the reference's scale.",
        "每个标记是一个对比点；高度为最大差异占参考值量级的比例。",
    ),
    "all-equal": ("Every tap is equal on both sides, bit for bit.", "每个对比点两侧逐位相同。"),
    "no-taps": ("Nothing was compared here.", "这里没有可对比的内容。"),
    "mark-pass": ("within tolerance", "在容差内"),
    "mark-rounding": ("rounding, says float64", "舍入误差（float64 判定）"),
    "mark-waived": ("accepted by a waiver", "已豁免"),
    "mark-inherited": ("differs (inherited)", "不一致（继承）"),
    "mark-differs": ("differs", "不一致"),
    "mark-own": ("differs by itself", "自身不一致"),
    "mark-part": ("the part by itself, on equal inputs", "该部分单独运行（输入相同）"),
    "line-limit": ("tolerance", "容差"),
    "line-noise": ("noise floor: a side's own rounding", "噪声底：单侧自身的舍入"),
    "line-gap64": ("gap in float64", "float64 下的差异"),
    "line-control": ("the control's envelope", "对照运行的包络"),
    "line-allowed": ("what is allowed", "允许的差异"),
    "zero": ("equal", "相等"),
    "beyond": ("no figure", "无数值"),
    "findings": ("What is to blame", "问题所在"),
    "first-differs": ("First that differs", "最先不一致之处"),
    "cause": ("Likely cause", "可能的原因"),
    "fix": ("Fix", "修复"),
    "undone": ("With that undone the difference falls", "撤销之后，差异下降"),
    "no-cause": ("No cause found that explains it.", "没有找到可以解释的原因。"),
    "tried": ("Tried in vain", "尝试无效"),
    "evidence": ("Evidence", "证据"),
    "own-evidence": ("run by itself, on the reference's inputs", "单独运行，使用参考侧的输入"),
    "statistics": ("Statistics", "统计"),
    "side": ("side", "侧"),
    "minimum": ("min", "最小"),
    "maximum": ("max", "最大"),
    "mean": ("mean", "均值"),
    "deviation": ("deviation", "标准差"),
    "zeros": ("zeros", "零的个数"),
    "not-finite": ("NaN, Inf", "NaN、Inf"),
    "histogram": ("Histogram of values (log count)", "数值直方图（对数计数）"),
    "element": ("element", "元素"),
    "difference": ("difference", "差"),
    "elements": ("Values", "数值"),
    "scene": ("scene", "场景"),
    "image": ("image", "图像"),
    "classes": ("prediction", "预测"),
    "label": ("label", "标签"),
    "error": ("error, log scale, brightest:", "误差（对数），最亮处："),
    "disagreement": ("pixels that change class", "类别改变的像素"),
    "confusion": ("Confusion matrix, other side minus reference", "混淆矩阵，另一侧减参考侧"),
    "confusion-note": (
        "Rows: label. Columns: prediction. Pixels; empty: equal.",
        "行：标签；列：预测。单位：像素；空白：相等。",
    ),
    "curve-loss": ("Loss of each iteration", "每次迭代的损失"),
    "curve-gap": ("Gap of the losses, as a fraction of the loss", "损失之差，占损失的比例"),
    "iteration": ("iteration", "迭代"),
    "failing-taps": ("Taps that differ", "不一致的对比点"),
    "worst-taps": ("Worst taps", "误差最大的对比点"),
    "tap": ("tap", "对比点"),
    "shape": ("shape", "形状"),
    "kind": ("kind", "种类"),
    "path": ("path", "路径"),
    "more-in-json": ("more in report.json", "更多见 report.json"),
    "failed": ("The side failed", "该侧运行失败"),
    "blocked-by": ("Not judged as a whole, for this rung failed", "未整体判断，因为此阶段失败"),
    "next": ("Next", "下一步"),
    "rule": ("Rule", "判据"),
}  # fmt: skip


ABOUT: Mapping[str, str] = {
    "weights": "载入后的两个网络，逐个张量",
    "data": "每个变换之后的样本，然后是批次",
    "forward": "eval 模式下的对比点",
    "forward-train": "train 模式下的对比点，以及运行后的统计量",
    "loss": "给定 logits 上的损失各项与目标",
    "backward": "从损失往回的梯度",
    "optimizer": "一步和多步之后的参数、动量与设置",
    "schedule": "整个训练中每个参数组的学习率",
    "metric": "各场景上的混淆矩阵、IoU 与准确率",
    "train": "与对照运行相比的一小段训练",
}
"""What each rung is about in Chinese; in English it says so itself."""


def about(rung: str, english: str) -> str:
    """HTML with what a rung is about, in both languages."""
    chinese = ABOUT.get(rung, english)
    return f'<span lang="en">{escape(english)}</span><span lang="zh">{escape(chinese)}</span>'


def both(key: str) -> str:
    """HTML with the words of `key` in both languages; the page shows one of them."""
    english, chinese = WORDS[key]
    return f'<span lang="en">{escape(english)}</span><span lang="zh">{escape(chinese)}</span>'


def both_svg(key: str, attributes: str) -> str:
    """SVG text elements with the words of `key` in both languages."""
    english, chinese = WORDS[key]
    return "".join(
        f'<text lang="{language}" {attributes}>{escape(words)}</text>'
        for language, words in (("en", english), ("zh", chinese))
    )
