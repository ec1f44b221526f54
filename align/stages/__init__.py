"""The rungs of the ladder: what each captures on a side. One file a stage, written against `Framework`."""
