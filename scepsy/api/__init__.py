"""What command line, notebooks and experiments share: prepare, plan, predict, simulate, judge, compare, report."""
