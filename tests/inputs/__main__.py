"""Try every input and print one table: doors down, verdicts across, and below it whatever is not right."""
import collections
import sys

from . import VERDICTS, cases, verdict


def main():
    wanted = sys.argv[1:]                                                # parts of doors' names; all without
    table, faults = collections.defaultdict(collections.Counter), []
    for case in cases():
        if not wanted or any(word in case.door for word in wanted):
            found, said = verdict(case)
            table[case.door][found] += 1
            if found not in VERDICTS[:2]:
                faults.append(f"{found}: {case.door}, {case.name}: {said}")
    width = max(map(len, [*table, "all"]), default=3)
    total = sum(table.values(), collections.Counter())
    print(" " * width, *VERDICTS, sep=" | ")
    for door in [*sorted(table), "all"]:
        row = table[door] if door != "all" else total
        print(door.ljust(width), *(str(row[each] or "").rjust(len(each)) for each in VERDICTS), sep=" | ")
    print(f"{sum(total.values())} inputs", *faults, sep="\n")


if __name__ == "__main__":
    main()
