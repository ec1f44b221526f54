"""CuberrChen/STDCNet-Paddle against MichaelFan01/STDC-Seg, as a pair file of stdc-align."""

from stdc_recipe import pair

PAIR = pair("stdcnet-paddle", "upstream_stdc:build", "stdcnet_paddle", iterations=80_000)
