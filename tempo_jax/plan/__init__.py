"""What a program takes on TPUs nobody has rented: real compilations for real topologies, read and costed.

chips.py has the facts of each chip, topology.py compile-only devices, programs*.py what is compiled, hlo.py
and memory.py read the result, cost.py turns it into seconds, report.py prints it. tools/plans_page.py
makes docs/results/plans.md from it.
"""
