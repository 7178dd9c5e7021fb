"""Plans memory and time on TPU slices without a TPU: real compilations for real topologies, analyzed.

chips.py describes the TPU generations, topology.py makes compile-only devices, programs*.py makes the
programs of a config, hlo.py and memory.py parse what libtpu compiles, cost.py estimates seconds, and
report.py prints them; tools/plans_page.py makes docs/results/plans.md.
"""
