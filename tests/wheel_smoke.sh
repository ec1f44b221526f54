#!/bin/sh
# Runs the installed wheel outside the checkout, without a framework. BIN is the clean environment's bin folder.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"

"$BIN/stdc-convert" --version
"$BIN/stdc-align" --help > help.txt
"$BIN/stdc-infer" --help > help.txt
"$BIN/python" -m stdc_parity.fixtures.samples sample.tar --model stdc1-seg --base 8
"$BIN/stdc-convert" torch2paddle sample.tar
"$BIN/stdc-convert" paddle2torch sample.pdparams back.pth --aliases
"$BIN/stdc-convert" inspect back.pth > inspect.txt
grep -q stdc1-seg inspect.txt
"$BIN/stdc-convert" relayout sample.pdparams mmseg.pth --to-layout mmseg
"$BIN/stdc-convert" relayout back.pth back.safetensors --dtype bfloat16 --certificate back.json
"$BIN/stdc-convert" verify back.pth back.safetensors --certificate back.json
"$BIN/stdc-convert" diff sample.tar mmseg.pth

"$BIN/python" -c "
from importlib.metadata import entry_points
from importlib.resources import files
(plugin,) = entry_points(group='pytest11', name='parity')
assert plugin.value == 'stdc_parity.align.pytest_plugin', plugin
assert files('stdc_parity.align').joinpath('report.schema.json').is_file()
"

code=0
"$BIN/stdc-align" forward > align.txt 2>&1 || code=$?
if [ "$code" != 4 ]; then
    echo "stdc-align without a framework ended with $code, not 4:"
    cat align.txt
    exit 1
fi
cat align.txt

"$BIN/python" -c 'import numpy as np; [np.save(f"{side}.npy", {"logits": np.arange(6) * scale}) for side, scale in
    (("torch", 1.0), ("paddle", 1.5))]'
code=0
"$BIN/stdc-align" compare torch.npy paddle.npy --report report > compare.txt 2>&1 || code=$?
if [ "$code" != 1 ] || ! grep -q '<h1>.*DIVERGED' report/report.html; then
    echo "stdc-align compare --report ended with $code, not 1, or left no report.html:"
    cat compare.txt
    exit 1
fi
echo "wheel: installed without a framework, converts, and says what it lacks"
