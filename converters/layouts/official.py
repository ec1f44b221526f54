"""MichaelFan01/STDC-Seg and its forks: every other layout is a table against these names (converters/stdc.py)."""

from stdc_parity.converters.layout import Layout, Line

LAYOUT = Layout(
    name="official",
    side="torch",
    title="MichaelFan01/STDC-Seg",
    lines=(Line("**", "**"),),
    abn=True,
    aliases=True,
)
