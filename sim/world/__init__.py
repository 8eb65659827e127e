"""Everything around the engines: arriving runs, routers, control of instances, records and timelines."""
