"""What is used of Ray beside its public API, as it is in Ray 2.60.0: nothing private of Ray is named elsewhere in `job`.

A new version of Ray is one to read this folder against: `pieces` tells at the start of a command what Ray no longer has.
"""
