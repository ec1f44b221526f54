"""Pictures and videos through a network, with the runtimes that align compares."""
