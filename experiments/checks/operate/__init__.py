"""Is the controller of ``scepsy operate`` worth it? The same loads, which change, under it and under others, in simulation."""
