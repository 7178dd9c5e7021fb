"""Plans memory and time on TPU slices without a TPU: real compilations for real topologies, analyzed.

topology.py describes the TPU generations and makes compile-only devices, programs*.py reads a config and
makes its programs, hlo.py and memory.py parse what libtpu compiles, cost.py estimates seconds, and
report.py prints them; tools/plans_page.py makes docs/results/plans.md.
"""
