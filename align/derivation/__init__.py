"""Rules derived from two networks: their module tables paired, what is ambiguous settled by running both.

`derive_rules(torch_table, paddle_table)` of `mapping.py` is all of it that needs no run: two `table.Table`s in
(`capture_table_<side>.table(network)` makes them, and `Table.from_json` brings one back from another process),
`converters.rules.Rules` out, of which `converters.rules_plan.apply_rules` makes tensors. `prober.py` tries them.
"""
