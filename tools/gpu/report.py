"""Writes what a first run found: one JSON, and one page of text."""

import json
from pathlib import Path
from typing import Any

_LINES_OF_TABLE = 80


def write(out: Path, machine: dict[str, Any], results: dict[str, Any]) -> int:
    """Writes both files, prints the page, and returns the exit status: 0 where every part went well."""
    whole = {"machine": machine, "results": results}
    (out / "first_run.json").write_text(json.dumps(whole, indent=1) + "\n", encoding="utf-8")
    text = page(machine, results)
    (out / "first_run.txt").write_text(text, encoding="utf-8")
    print(text, end="")
    return 0 if all(result.get("ok") for result in results.values()) else 1


def page(machine: dict[str, Any], results: dict[str, Any]) -> str:
    """What there is to read, for people."""
    lines = [", ".join(f"{key} {value}" for key, value in machine.items()), ""]
    for name, result in results.items():
        lines.append(f"{'ok  ' if result.get('ok') else 'FAIL'} {name:20} {_about(result)}")
    if rows := results.get("measure", {}).get("results"):
        lines += ["", *_table(rows)]
    if experiments := _experiments(results):
        lines += [
            "",
            "Experiments of csrc/cuda/README.md: time of the alternative, as built = 1",
            *experiments,
        ]
    return "\n".join(lines) + "\n"


def _about(result: dict[str, Any]) -> str:
    told = [f"{result['seconds']} s"] if "seconds" in result else []
    told += [str(result["failed"])] if "failed" in result else []
    for key in ("comparisons", "replays"):
        told += [f"{result[key]} {key}"] if key in result else []
    for key in ("wrong", "left_out"):
        told += [f"{len(result[key])} {key.replace('_', ' ')}: {result[key][0]}"] if result.get(key) else []
    return ", ".join(told)


def _table(rows: list[dict[str, Any]]) -> list[str]:
    heading = f"{'case':56} {'us':>9} {'GB/s':>7} {'of copy':>8}  times of others, octet = 1"
    lines = [heading]
    for row in rows[:_LINES_OF_TABLE]:
        if "failed" in row:
            lines.append(f"{row['case']:56} failed: {row['failed']}")
            continue
        own = row["microseconds"]["octet"]
        others = ", ".join(
            f"{name} {value / own:.2f}"
            for name, value in row["microseconds"].items()
            if name not in ("octet", "copy")
        )
        where = "" if row["cold"] else " (partly in L2)"
        share = f"{row['share_of_copy']:8.0%}"
        lines.append(f"{row['case']:56} {own:9.2f} {row['gb_per_s']:7.0f} {share}  {others}{where}")
    if len(rows) > _LINES_OF_TABLE:
        lines.append(f"and {len(rows) - _LINES_OF_TABLE} more in first_run.json")
    return lines


def _experiments(results: dict[str, Any]) -> list[str]:
    base = {row["case"]: row for row in results.get("as_built", {}).get("results", ()) if "failed" not in row}
    lines = []
    for name, result in results.items():
        if name in ("as_built", "measure"):
            continue
        for row in result.get("results", ()):
            if "failed" not in row and row["case"] in base:
                ratio = row["microseconds"]["octet"] / base[row["case"]]["microseconds"]["octet"]
                lines.append(f"{name:24} {row['case']:48} {ratio:.3f}")
    return lines
