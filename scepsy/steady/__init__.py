"""One rule for every measurement: is it the steady state, how precise is it, and are two of them different?

``warmup``: where the steady state begins. ``interval``: how precise a mean or a quantile is. ``drift``: whether the system
keeps up. ``verdict``: the three together. ``rule``: how long to go on. ``pairs``: two systems under the same arrivals.
Pure functions on arrays, for simulated and measured runs alike.
"""
